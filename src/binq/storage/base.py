"""The weights of a checkpoint as a quantizer sees them, whatever the file stores.

A :class:`LogicalTensor` has a name, a shape ``(..., out_features, in_features)``, a role in the
model and a :class:`Storage` that knows which stored tensors it is made of and how. Both are small
and picklable: a worker needs them and the path of the checkpoint, nothing else.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence, Set
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from binq.array.packed import Packed
from binq.array.packing import Packing, Part
from binq.errors import FormatError
from binq.formats.scales import (
    FLOAT16,
    FLOAT32,
    fits_scale,
    scale_dtype,
    scale_name,
    stored_scales,
)
from binq.formats.zeros import OFFSET
from binq.storage.rows import StoredRows, pack_codes

if TYPE_CHECKING:
    from binq.files.checkpoint import Checkpoint, StoredInfo

# Blocks of rows that are only looked at, not kept, take about this much memory.
SCAN_BYTES = 1 << 25


@dataclass(frozen=True)
class Exact:
    """The packing that holds a tensor without loss, and the dtype that its scales need.

    ``rounded``: the codes are without loss, but the scales are rounded to that dtype.
    """

    packing: Packing
    scale_dtype: str = "float16"
    rounded: bool = False

    def parts(self, shape: tuple[int, ...]) -> tuple[Part, ...]:
        """Returns the stored arrays of weights of a shape."""
        return self.packing.parts(shape, *self.dtypes)

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """Returns the bytes of weights of a shape, padding included."""
        return self.packing.nbytes(shape, *self.dtypes)

    @property
    def dtypes(self) -> tuple[np.dtype[Any], np.dtype[Any]]:
        """Returns the dtypes of scales and offsets, which are the same."""
        return scale_dtype(self.scale_dtype), scale_dtype(self.scale_dtype)


class Storage(ABC):
    """How one weight lies in the stored tensors. Derived classes are frozen dataclasses."""

    scheme: ClassVar[str]
    # Whether the stored tensors can be copied as they are to a safetensors file.
    copyable: ClassVar[bool] = True
    # Whether rows take as long to read as the whole tensor does, which is small.
    whole: ClassVar[bool] = False

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Returns the logical shape: the last two axes are (out_features, in_features)."""

    @property
    @abstractmethod
    def dtype(self) -> str:
        """Returns the type of the stored weights, such as ``"BF16"`` or ``"Q1_0"``."""

    @property
    @abstractmethod
    def stored(self) -> tuple[str, ...]:
        """Returns the names of the stored tensors, the weights first."""

    @abstractmethod
    def read_values(self, source: "Checkpoint", matrix: int, start: int, stop: int) -> NDArray[Any]:
        """Returns rows of one matrix, in a float dtype that holds them exactly."""

    def read_stored(
        self, source: "Checkpoint", matrix: int, start: int, stop: int
    ) -> StoredRows | None:
        """Returns rows of one matrix as they lie in the file, where compiled code knows the form.

        Their values are those of :meth:`read_values`.
        """
        return None

    def exact_stored(
        self, source: "Checkpoint", exact: Exact, matrix: int, start: int, stop: int
    ) -> tuple[Packed, StoredRows] | None:
        """Returns what ``exact_rows`` and ``read_stored`` do, or None where one does not know."""
        return None

    def read_whole(self, source: "Checkpoint") -> NDArray[Any]:
        """Returns a tensor of fewer than two axes, or one that is read whole, as it is stored."""
        return source.read(self.stored[0])

    def good_rows(self, budget: int) -> int:
        """Returns how many rows to read at a time to stay within about ``budget`` bytes."""
        rows = budget // max(1, 12 * self.shape[-1])
        return max(32, rows // 32 * 32)

    def exact_format(self, source: "Checkpoint") -> Exact | None:
        """Returns the format that holds the weights without loss, or None; may read them all."""
        return None

    def near_format(self, source: "Checkpoint") -> Exact | None:
        """Returns a format that holds the codes and rounds their scales to float16, or None."""
        return None

    def exact_rows(
        self, source: "Checkpoint", exact: Exact, matrix: int, start: int, stop: int
    ) -> Packed:
        """Returns rows of one matrix in the format of ``exact_format`` or ``near_format``."""
        raise ValueError(f"{self.stored[0]}: {self.scheme} weights have no lossless form")

    def exact_block(
        self, source: "Checkpoint", exact: Exact, matrix: int, start: int, stop: int
    ) -> tuple[Packed, NDArray[Any]]:
        """Returns what ``exact_rows`` and ``read_values`` do, read once where the scheme knows how.

        What is packed without loss is measured against its floats all the same.
        """
        packed = self.exact_rows(source, exact, matrix, start, stop)
        return packed, self.read_values(source, matrix, start, stop)


class WholeStorage(Storage):
    """A small tensor that is read whole, also where rows of it are asked for."""

    copyable = False
    whole = True

    @abstractmethod
    def read_whole(self, source: "Checkpoint") -> NDArray[Any]: ...

    def read_values(self, source: "Checkpoint", matrix: int, start: int, stop: int) -> NDArray[Any]:
        whole = self.read_whole(source)
        return whole.reshape(-1, *self.shape[-2:])[matrix, start:stop]


class Wrapped(Storage):
    """The weights of ``inner``, seen in another way: a derived class says in which."""

    copyable = False
    inner: Storage

    @property
    def shape(self) -> tuple[int, ...]:
        return self.inner.shape

    @property
    def dtype(self) -> str:
        return self.inner.dtype

    @property
    def stored(self) -> tuple[str, ...]:
        return self.inner.stored

    def good_rows(self, budget: int) -> int:
        return self.inner.good_rows(budget)


def check_size(source: "Checkpoint", name: str, value: object, *row: int) -> int:
    """Returns a size that a configuration gives, or one of ``row``, which stand for a whole row.

    Raises FormatError for what is not an integer from 1 to 2**31 - 1.
    """
    if type(value) is int and (1 <= value < 1 << 31 or value in row):
        return value
    raise FormatError(
        f"{source.path}: {name} is {repr(value)[:40]}, not a size from 1 to 2**31 - 1"
    )


def infos_of(
    source: "Checkpoint", module: str, parts: Sequence[str], names: Set[str]
) -> list["StoredInfo"]:
    """Returns what the headers say of the parts of a module, ``MODULE.PART``.

    Raises FormatError for one that is missing.
    """
    for part in parts:
        if f"{module}.{part}" not in names:
            raise FormatError(f"{source.path}: {module!r} has no {f'{module}.{part}'!r}")
    return [source.info(f"{module}.{part}") for part in parts]


def pack_stored(
    exact: Exact, rows: StoredRows, scales: NDArray[np.float32], zeros: NDArray[Any] | None
) -> Packed | None:
    """Returns rows of whole codes as packed weights, as :func:`pack_exact` does with their codes.

    The codes of symmetric weights are those of the file less their zeros. None where one is none
    of the format's.
    """
    packing = exact.packing
    packed = pack_codes(packing, rows)
    if packed is None:
        return None
    return Packed.of_parts(packing, rows.shape, packed, *_as_stored(exact, scales, zeros))


def pack_exact(
    exact: Exact,
    codes: NDArray[Any],
    scales: NDArray[np.float32],
    zeros: NDArray[Any] | None = None,
) -> Packed:
    """Returns codes as packed weights whose scales have the dtype that ``exact`` names."""
    return Packed.of_codes(exact.packing, codes.astype(np.int8), *_as_stored(exact, scales, zeros))


def _as_stored(
    exact: Exact, scales: NDArray[np.float32], zeros: NDArray[Any] | None
) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Returns scales, and zero points or offsets, in the types that ``exact`` names."""
    packing = exact.packing
    dtype, offset_dtype = exact.dtypes
    # The row's own length may be shorter than the stored group: then there is one scale.
    if packing.group_size is None:
        scales = scales[:, :1]
        zeros = None if zeros is None else zeros[:, :1]
    if zeros is not None and packing.zero == OFFSET:
        zeros = zeros.astype(offset_dtype)
    return stored_scales(scales, dtype, packing.kind.bias), zeros


def fits_float16(values: NDArray[np.float32]) -> bool:
    """Returns whether float16 holds every value exactly."""
    return fits_scale(values, FLOAT16)


class ScaleFit:
    """Which type of scales holds all that were seen: float16, else bfloat16, else float32."""

    def __init__(self) -> None:
        self._left = [FLOAT16, scale_dtype("bfloat16")]

    def add(self, values: NDArray[np.float32]) -> None:
        """Looks at some more scales."""
        self._left = [dtype for dtype in self._left if fits_scale(values, dtype)]

    @property
    def name(self) -> str:
        """Returns the name of the type."""
        return scale_name(self._left[0] if self._left else FLOAT32)


def few_bits(scales: NDArray[np.float32]) -> bool:
    """Returns whether every scale has at most 16 significant bits, as float16 and bfloat16 do.

    Products of these and of codes of 8 bits are exact in float32.
    """
    return not (scales.view(np.uint32) & np.uint32(0xFF)).any()


def to_float32(values: NDArray[Any]) -> NDArray[np.float32]:
    """Returns values as float32; bfloat16 by a shift, which is several times as fast."""
    if values.dtype.name == "bfloat16":
        wide = values.view(np.uint16).astype(np.uint32)
        wide <<= np.uint32(16)
        return wide.view(np.float32)
    return values.astype(np.float32, copy=False)


def row_blocks(storage: Storage, budget: int) -> list[tuple[int, int]]:
    """Returns the blocks of rows (start, stop) to read one matrix in ``budget`` bytes."""
    rows = storage.shape[-2]
    if 0 in storage.shape:
        return []  # an axis of any length may stand beside
    step = storage.good_rows(budget)
    return [(start, min(start + step, rows)) for start in range(0, rows, step)]


def all_blocks(storage: Storage) -> list[tuple[int, int, int]]:
    """Returns (matrix, start, stop) of blocks of rows that are only looked at."""
    blocks = row_blocks(storage, SCAN_BYTES)
    if not blocks:
        return []
    return [(matrix, *block) for matrix in range(prod(storage.shape[:-2])) for block in blocks]
