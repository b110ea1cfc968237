"""What a method of quantization is: float weights and a packing in, packed weights out."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from binq import _core, _memory
from binq.array.packed import Packed
from binq.array.packing import Packing
from binq.formats.scales import scale_number
from binq.methods.moments import Moments
from binq.methods.signals import Nonfinite, ScaleRange
from binq.methods.weighted import quantize_weighted

__all__ = ["Method", "Native", "Nonfinite", "ScaleRange", "Task"]


@dataclass(frozen=True)
class Task:
    """What is to be quantized, and what is known beside the weights.

    - weights: ``(..., out_features, in_features)``, C-contiguous, of float32, float16, bfloat16 or
      float64 in native byte order
    - packing: the format, the group size and the kind of zero
    - scale_dtype: the dtype of the stored scales
    - importance: None, or float32 ``(in_features,)``: how much the square of each input's error
      counts
    - statistics: None, or what a calibration knows of the inputs, for methods that use it
    - centred: whether errors along the mean of the inputs cost nothing, as a bias will undo them
    """

    weights: NDArray[Any]
    packing: Packing
    scale_dtype: np.dtype[Any]
    importance: NDArray[np.float32] | None = None
    statistics: Moments | None = None
    centred: bool = False


class Method(ABC):
    """A way to choose codes and scales. Instances are small, picklable, and safe to share.

    A method of your own derives from this class and is passed as ``method=`` to
    :func:`binq.quantize` and :func:`binq.quantize_checkpoint`. It sets ``name``, which reports
    show, and where it uses them ``uses_importance`` or ``uses_statistics``: without these an
    ``importance=`` or ``stats=`` is refused.

    This one clips the largest weights of each group to 0.9 times their size:

    >>> import numpy as np, binq
    >>> from binq.methods import Method, Packed
    >>> class Clipped(Method):
    ...     name = "clipped"
    ...
    ...     def check(self, packing):
    ...         if packing.format != "int4" or not packing.symmetric or not packing.group_size:
    ...             raise ValueError(f"method clipped is for int4 in groups, got {packing}")
    ...
    ...     def quantize(self, task):
    ...         w = task.weights.astype(np.float32)
    ...         groups = w.reshape(*w.shape[:-1], -1, task.packing.group_size)
    ...         scales = (np.abs(groups).max(axis=-1) * 0.9 / 7).astype(task.scale_dtype)
    ...         codes = np.rint(groups / scales[..., None].astype(np.float32)).clip(-8, 7)
    ...         return Packed.of_codes(task.packing, codes.reshape(w.shape).astype(np.int8), scales)
    >>> w = np.random.default_rng(0).standard_normal((64, 128))
    >>> binq.quantize(w, "int4", group_size=32, method=Clipped())
    QuantizedArray(int4, shape=(64, 128), group_size=32, 4.5 bits/weight, 4.5 KiB)
    """

    name: ClassVar[str]
    uses_importance: ClassVar[bool] = False
    uses_statistics: ClassVar[bool] = False
    checks_finite: ClassVar[bool] = False
    """Whether :meth:`quantize` raises Nonfinite itself; else the weights are looked at before."""

    @abstractmethod
    def check(self, packing: Packing) -> None:
        """Raises ValueError, naming argument and format, where the method has no such packing."""

    @abstractmethod
    def quantize(self, task: Task) -> Packed:
        """Returns the packed weights.

        Raises ScaleRange where a scale does not fit ``task.scale_dtype``; the caller tries again
        with float32.
        """

    def __str__(self) -> str:
        return self.name


class Native(Method):
    """One of the rules that compiled code has: ``"mse"``, ``"absmax"``, ``"absmean"``."""

    checks_finite = True

    def __init__(self, name: str) -> None:
        self.name = name  # type: ignore[misc]
        self.uses_importance = name == "mse"  # type: ignore[misc]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Native) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)

    def check(self, packing: Packing) -> None:
        methods = packing.kind.methods
        if self.name not in methods:
            allowed = ", ".join(map(repr, methods))
            raise ValueError(f"method must be one of {allowed}, got {self.name!r}")

    def quantize_rows(
        self, rows: _core.StoredRows, packing: Packing, scale_dtype: np.dtype[Any]
    ) -> tuple[Packed, NDArray[np.float64]]:
        """Returns rows as a file stores them packed, and how far they are: ``tile_errors``.

        As :meth:`quantize` and :func:`binq.methods.measure.tile_errors` one after the other, a
        tile at a time. Raises Nonfinite and ScaleRange as these.
        """
        kind = packing.kind
        # Every byte is written; and what is soon given back is not worth huge pages, each of which
        # the system clears first.
        described = packing.parts(rows.shape, scale_dtype)
        parts = [np.empty(part.shape, part.dtype) for part in described]
        packed, scales, *zeros = map(_memory.as_bytes, parts)
        errors = np.zeros((len(parts[0]), 5))
        status = rows.quantize(
            kind.spec.number,
            _core.ZEROS[packing.zero],
            _core.METHODS[self.name],
            packing.group_size or 0,
            scale_number(scale_dtype, kind.bias),
            scale_number(parts[-1].dtype, kind.bias),
            packed,
            scales,
            zeros[0] if zeros else None,
            errors,
        )
        _raise(status)
        return Packed(packing, rows.shape, *parts), errors

    def quantize(self, task: Task) -> Packed:
        packing, weights = task.packing, task.weights
        if task.importance is not None and weights.size:
            return quantize_weighted(weights, packing, task.scale_dtype, task.importance)
        shape = weights.shape
        parts = [
            _memory.zeros(part.shape, part.dtype) for part in packing.parts(shape, task.scale_dtype)
        ]
        status = 0
        if weights.size:
            lead = len(shape) - 2
            stacks = [part.reshape(prod(shape[:-2]), *part.shape[lead:]) for part in parts]
            for index, matrix in enumerate(weights.reshape(-1, *shape[-2:])):
                packed, scales, *zeros = (_memory.as_bytes(stack[index]) for stack in stacks)
                status |= _core.quantize(
                    packing.kind.spec.number,
                    _core.ZEROS[packing.zero],
                    _core.METHODS[self.name],
                    _memory.as_bytes(matrix),
                    _core.INPUT_TYPES[weights.dtype.name],
                    matrix.strides[0],
                    shape[-2],
                    shape[-1],
                    packing.group_size or 0,
                    scale_number(task.scale_dtype, packing.kind.bias),
                    scale_number(parts[-1].dtype, packing.kind.bias),
                    packed,
                    scales,
                    zeros[0] if zeros else None,
                )
        _raise(status)
        return Packed(packing, shape, *parts)


def _raise(status: int) -> None:
    """Raises what the status bits of compiled code say."""
    if status & _core.STATUS_NONFINITE:
        raise Nonfinite
    if status & _core.STATUS_SCALE_RANGE:
        raise ScaleRange
