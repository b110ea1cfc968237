"""QuantizedArray: weights with few bits that behave as an immutable numpy-like array."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from types import FrameType
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from binq import _memory
from binq.array.caller import who_asks
from binq.array.checks import (
    check_codes,
    check_float_dtype,
    check_group_values,
    check_out,
    check_scale_dtype,
)
from binq.array.choices import DEFAULT_GROUP_SIZE, FormatName, ScaleDType
from binq.array.packed import Packed
from binq.array.packing import Packing
from binq.array.protocols import PackedOperand
from binq.array.rotation import Rotation, check_rotation
from binq.array.slicing import select, select_rows
from binq.array.transposed import Transposed, transpose
from binq.formats import untile_rows
from binq.formats.scales import (
    E8M0,
    FLOAT16,
    FLOAT32,
    fits_scale,
    is_bfloat16,
    scale_name,
    scale_values,
    stored_scales,
)
from binq.formats.zeros import CODE, OFFSET, unpack_zeros

# dequantize() to a dtype other than float32 goes through float32 blocks of about this many weights.
_BLOCK = 1 << 20


class QuantizedArray(PackedOperand):
    """Weights ``(..., out_features, in_features)`` as packed codes and one scale a group.

    Made by :func:`binq.quantize`, :func:`binq.load_file` or :meth:`from_codes`. It says all about
    itself (format, shape, group size), multiplies as a numpy array (``x @ q.T``), and cannot be
    changed. Leading axes are stacks of matrices, such as the experts of a mixture.

    The constructor takes the stored arrays as they are in memory and on disk (docs/formats.md)
    and keeps views of them: whoever writes to their memory changes the weights.

    - format: ``"binary"``, ``"ternary"``, ``"int2"``, ``"int3"``, ``"int4"``, ``"int8"``,
      ``"mxfp4"`` or ``"iq4nl"``
    - shape: the logical shape, two or more axes
    - group_size: 32, 64, 128, 256, or None for one scale a row
    - symmetric: False where every group has a zero point or an offset
    - packed: uint8 codes, in tiles of 32 rows
    - scales: float16, bfloat16 or float32 ``(..., tiles, scale_groups, 32)``, or uint8: the
      exponents of powers of two, e for 2^(e − 127), of mxfp4 2^(e − 128)
    - zero_points: None, or int2, int3, int4: uint8 ``(..., tiles, scale_groups, 16)``; int8: uint8
      of the shape of the scales; binary: the offsets
    - offsets: None, or float16, bfloat16 or float32 of the shape of the scales

    Raises TypeError for a wrong type or dtype and ValueError for a wrong value or shape; the
    message names the argument. The numbers in the arrays are not looked at.

    >>> import numpy as np, binq
    >>> q = binq.quantize(np.eye(64, dtype=np.float32), "int4", group_size=32)
    >>> q
    QuantizedArray(int4, shape=(64, 64), group_size=32, 4.5 bits/weight, 2.2 KiB)
    >>> (np.ones((2, 64)) @ q.T).shape
    (2, 64)
    """

    __slots__ = ("__weakref__", "_data")

    _is_transposed = False
    _data: Packed

    def __init__(
        self,
        format: FormatName,
        shape: tuple[int, ...],
        group_size: int | None,
        symmetric: bool,
        packed: NDArray[np.uint8],
        scales: NDArray[Any],
        zero_points: NDArray[Any] | None = None,
        offsets: NDArray[Any] | None = None,
    ) -> None:
        zeros, zero = _one_of(format, zero_points, offsets)
        packing = Packing.checked(format, group_size, symmetric, None if symmetric else zero)
        self._data = Packed.checked(packing, shape, packed, scales, zeros)

    @classmethod
    def from_codes(
        cls,
        codes: ArrayLike,
        scales: ArrayLike,
        *,
        format: FormatName,
        group_size: int | None = DEFAULT_GROUP_SIZE,
        zero_points: ArrayLike | None = None,
        offsets: ArrayLike | None = None,
        scale_dtype: ScaleDType | None = None,
        rotation: Rotation | None = None,
    ) -> Self:
        """Returns weights made of given codes, without any loss: the way in for other formats.

        ``w = scale * code``, ``scale * (code - zero_point)`` or ``scale * code + offset``, with the
        scale, zero point and offset of group ``k // group_size``.

        - codes: integers ``(..., out_features, in_features)``: binary −1 and +1, ternary −1 to 1,
          int2 −2 to 1, int3 −4 to 3, int4 −8 to 7, int8 −128 to 127; with zero points or offsets
          from 0 on; mxfp4 and iq4nl the levels
        - scales: finite floats ``(..., out_features, scale_groups)``; stored as float16 where that
          holds every one exactly, else as bfloat16 where they are given as such, else as float32,
          and so are offsets; those of mxfp4 as powers of two where they are
        - zero_points: None, or integers of the shape of ``scales``, 0 to 3 (int2), 7 (int3), 15
          (int4) or 255 (int8)
        - offsets: None, or finite floats of the shape of ``scales``, in units of weights; those of
          binary weights, the middle of a group's two levels, may be given as zero_points as well
        - scale_dtype: the type of the scales, which must hold every one exactly; None: as above
        - rotation: the basis that the codes are in (:class:`binq.Rotation`), None for that of x

        Raises TypeError for dtypes and ValueError for shapes or values out of range, naming the
        argument.

        >>> import numpy as np, binq
        >>> codes = np.array([[1, -1, 0] + [0] * 29])
        >>> q = binq.QuantizedArray.from_codes(codes, [[0.5]], format="ternary", group_size=32)
        >>> q.dequantize()[0, :4].tolist()
        [0.5, -0.5, 0.0, 0.0]
        """
        given, zero = _one_of(format, zero_points, offsets)
        zeros_name = "zero_points" if offsets is None else "offsets"
        packing = Packing.checked(format, group_size, given is None, zero)
        levels = packing.kind.codes(packing.zero)
        checked = check_codes("codes", codes, levels)
        if rotation is not None:
            packing = replace(packing, rotation=check_rotation(rotation, checked.shape[-1]))
        logical = (*checked.shape[:-1], packing.geometry(checked.shape).scale_groups)
        values = check_group_values("scales", scales, logical)
        dtype = _dtype_for("scales", values, scales, scale_dtype, packing)
        zeros: NDArray[Any] | None = None
        if packing.zero == CODE:
            zeros = check_codes(zeros_name, given, levels, logical)
        elif packing.zero == OFFSET:
            zeros = check_group_values(zeros_name, given, logical)
            binary = packing.part_names()[-1] == "zero_points"
            zeros_dtype = _dtype_for(
                zeros_name, zeros, given, scale_dtype if binary else None, packing
            )
            if binary and dtype != zeros_dtype:
                # The offsets of binary weights are of the scales' type.
                dtype = zeros_dtype = FLOAT32
            zeros = zeros.astype(zeros_dtype)
        return cls._of(
            Packed.of_codes(
                packing, checked, stored_scales(values, dtype, packing.kind.bias), zeros
            )
        )

    @classmethod
    def _of(cls, data: Packed) -> Self:
        """Returns the array whose inside is given."""
        self = cls.__new__(cls)
        self._data = data
        return self

    # What it is.

    @property
    def shape(self) -> tuple[int, ...]:
        """Returns the logical shape ``(..., out_features, in_features)``."""
        return self._data.shape

    @property
    def format(self) -> str:
        """Returns the name of the format, such as ``"int4"``."""
        return self._data.packing.format

    @property
    def group_size(self) -> int | None:
        """Returns how many weights of a row share a scale; None: the whole row."""
        return self._data.packing.group_size

    @property
    def symmetric(self) -> bool:
        """Returns whether the levels lie evenly around zero: no zero points are stored."""
        return self._data.zeros is None

    @property
    def rotation(self) -> Rotation | None:
        """Returns the basis that the weights are packed in, None where it is that of x."""
        return self._data.packing.rotation

    @property
    def packed(self) -> NDArray[np.uint8]:
        """Returns the packed codes as they are stored: read-only, not a copy."""
        return self._data.packed

    @property
    def scales(self) -> NDArray[Any]:
        """Returns the scales as they are stored, ``(..., tiles, scale_groups, 32)``: read-only."""
        return self._data.scales

    @property
    def zero_points(self) -> NDArray[Any] | None:
        """Returns the zero points as they are stored, or None where there are none: read-only.

        Those of binary weights are the offsets of their groups, the middle of the two levels.
        """
        data = self._data
        return data.zeros if data.packing.part_names()[-1] == "zero_points" else None

    @property
    def offsets(self) -> NDArray[Any] | None:
        """Returns the offsets as they are stored, laid out as the scales, or None: read-only."""
        data = self._data
        return data.zeros if data.packing.zero == OFFSET else None

    @property
    def nbytes(self) -> int:
        """Returns the bytes of codes, scales and zero points, padding included."""
        return self._data.nbytes

    @property
    def bits_per_weight(self) -> float:
        """Returns ``8 * nbytes / size``, or 0.0 for no weights."""
        return 8 * self.nbytes / self.size if self.size else 0.0

    def __repr__(self) -> str:
        packing = self._data.packing
        # Binary weights have no other zero.
        zero = "offset" if packing.part_names()[-1] == "offsets" else "asymmetric"
        kind = self.format if self.symmetric else f"{self.format} {zero}"
        return (
            f"{type(self).__name__}({kind}, shape={self.shape}, group_size={self.group_size}, "
            f"{self.bits_per_weight:.4g} bits/weight, {_readable_bytes(self.nbytes)})"
        )

    # What it holds.

    def codes(self) -> NDArray[Any]:
        """Returns the code of each weight, int8 ``(..., out_features, in_features)``.

        Binary: −1 or +1; ternary: −1, 0 or +1; int2: −2 to 1; int3: −4 to 3; int4: −8 to 7; int8:
        −128 to 127. With zero points or offsets int2 to int8 count from 0; those of int8 are uint8
        then. Of mxfp4 and iq4nl it is the level.

        >>> import numpy as np, binq
        >>> q = binq.quantize([[-3.0, 1.0, 2.0]], "binary", method="absmean")
        >>> q.codes().tolist(), q.group_scales().tolist()
        ([[-1, 1, 1]], [[2.0]])
        """
        codes = np.empty(self.shape, np.int8)
        self._data.each_matrix(codes, lambda matrix, target: matrix.unpack(target))
        packing = self._data.packing
        return codes.view(np.uint8) if packing.kind.codes(packing.zero)[-1] > 127 else codes

    def group_scales(self) -> NDArray[Any]:
        """Returns the scales in row-major order, ``(..., out_features, scale_groups)``: a copy.

        Powers of two, which are stored as exponents, come as float32.
        """
        scales = untile_rows(self._data.scales, self._data.geometry)
        if scales.dtype != E8M0:
            return scales
        return scale_values(scales, self._data.packing.kind.bias)

    def group_zero_points(self) -> NDArray[Any] | None:
        """Returns the zero points as ``(..., out_features, scale_groups)``, or None: a copy."""
        data = self._data
        if data.zeros is None:
            return None
        return unpack_zeros(data.packing.zero, data.zeros, data.geometry)

    def dequantize(
        self, dtype: DTypeLike | None = None, out: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        """Returns the weights as floats: scale times code, in float32 arithmetic.

        - dtype: float32 by default; any float dtype (float16, bfloat16, float64), rounded from
          float32
        - out: a writable array of the weights' shape to write to and return; its dtype serves
          where ``dtype`` is None

        Raises TypeError for a dtype that is not a float, ValueError for an unfitting ``out``.

        >>> import numpy as np, binq
        >>> binq.quantize([[-1.0, 0.0, 1.0]], "ternary").dequantize(np.float16)
        array([[-1.,  0.,  1.]], dtype=float16)
        """
        shape = self.shape
        if out is not None:
            dtype = check_out(out, shape, None if dtype is None else np.dtype(dtype)).dtype
        dtype = check_float_dtype("dtype", FLOAT32 if dtype is None else dtype)
        if out is None:
            out = np.empty(shape, dtype)
        if not out.size:
            pass  # an axis may be of any length
        elif dtype == FLOAT32 and out.flags.c_contiguous and out.flags.aligned:
            self._data.dequantize(out)
        elif len(shape) > 2:
            for index in range(len(self)):
                self[index].dequantize(out=out[index])
        else:
            rows = max(32, _BLOCK // max(1, shape[-1]) // 32 * 32)
            for start in range(0, len(self), rows):
                part = self._of(select_rows(self._data, slice(start, start + rows)))
                out[start : start + rows] = part.dequantize()
        return out

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        return self._as_array(dtype, copy, sys._getframe(1))

    def _as_array(
        self, dtype: DTypeLike | None, copy: bool | None, frame: FrameType
    ) -> NDArray[Any]:
        """Returns the floats, if what the frame does is to ask for them."""
        if copy is False:
            raise ValueError("packed weights become a float array only by a copy: copy=False fails")
        # np.array(q) alone says copy=True.
        if copy is None and (caller := who_asks(frame)):
            raise TypeError(
                f"{caller} would turn packed weights into floats unseen: write np.asarray(q) or "
                "q.dequantize() where you want them"
            )
        weights = self.dequantize()
        return weights if dtype is None else weights.astype(dtype, copy=False)

    # Parts and views.

    @property
    def T(self) -> Transposed[Self]:  # noqa: N802
        """Returns the transpose of one matrix, for ``x @ q.T``: a view."""
        if len(self.shape) != 2:
            raise ValueError(
                f"T is for one matrix, the shape is {self.shape}: "
                "use mT, which swaps the last two axes"
            )
        return Transposed(self)

    @property
    def mT(self) -> Transposed[Self]:  # noqa: N802
        """Returns the view with the last two axes swapped, for ``x @ q.mT``."""
        return Transposed(self)

    def __getitem__(self, key: Any) -> Self:
        """Returns part of the leading axes and of the rows; columns stay whole.

        Leading axes take integers and slices, rows take slices and remain an axis: ``q[5:6]`` has
        one row. One axis may take a list or an array of integers of any shape, or a mask, as in
        numpy: ``q[ids]`` of a matrix has shape ``ids.shape + (in_features,)``, and its
        ``dequantize()`` reads these rows only. Slices between multiples of 32 rows (or to the last
        row) share memory with q, other slices are copied.

        Raises TypeError for keys of other kinds and for columns, IndexError out of bounds.

        >>> import numpy as np, binq
        >>> q = binq.quantize(np.eye(96, 64), "ternary")
        >>> q[[[1, 2, 3], [5, 7, -1]]].shape
        (2, 3, 64)
        """
        return self._of(select(self._data, key))

    def __iter__(self) -> Iterator[Self]:
        if len(self.shape) == 2:
            raise TypeError(
                "rows of packed weights cannot be iterated over: iterate over q.dequantize()"
            )
        return (self[index] for index in range(len(self)))

    def transpose(self, *axes: Any) -> Any:
        """Returns the view with the last two axes swapped, as ``T`` and ``mT`` do.

        Raises ValueError for axes in any other order: packed weights end with rows and columns.
        """
        return transpose(self, axes)

    # Copies, comparison, pickling.

    def copy(self) -> Self:
        """Returns the same weights in memory of their own: no longer a view of a file, for one."""
        return self._of(self._data.with_parts(_memory.copy))

    def _like(self, data: Packed) -> Self:
        return self._of(data)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self.copy()

    def __reduce__(self) -> tuple[Any, ...]:
        """Returns the recipe for pickle; protocol 5 moves the arrays out of band, uncopied."""
        data = self._data
        parts = [np.ascontiguousarray(part) for part in data.parts]
        return _restore, (type(self), data.packing, data.shape, *parts)

    def __sizeof__(self) -> int:
        return object.__sizeof__(self) + self.nbytes


def _dtype_for(
    name: str,
    values: NDArray[np.float32],
    given: Any,
    wanted: ScaleDType | None,
    packing: Packing,
) -> np.dtype[Any]:
    """Returns the dtype in which scales or offsets are stored: one that holds them all exactly."""
    if wanted is None:
        bias = packing.kind.bias
        if packing.kind.scale_dtype == "e8m0" and fits_scale(values, E8M0, bias):
            return E8M0
        if fits_scale(values, FLOAT16):
            return FLOAT16
        dtype = getattr(given, "dtype", FLOAT32)
        return dtype if isinstance(dtype, np.dtype) and is_bfloat16(dtype) else FLOAT32
    dtype = check_scale_dtype(wanted, "e8m0" in packing.scale_types())
    if not fits_scale(values, dtype, packing.kind.bias):
        raise ValueError(
            f"{name} must be numbers that {scale_name(dtype)} holds exactly: "
            "scale_dtype='float32' holds all of them"
        )
    return dtype


def _one_of(format: object, zero_points: Any, offsets: Any) -> tuple[Any, str | None]:
    """Returns whichever is given, and the kind of zero that it names.

    Those of binary weights are offsets under either name.
    """
    if offsets is not None:
        if zero_points is not None:
            raise ValueError("zero_points must be None where offsets are given")
        return offsets, OFFSET
    return zero_points, None if zero_points is None or format == "binary" else CODE


def _restore(
    kind: type[QuantizedArray], packing: Packing, shape: tuple[int, ...], *parts: NDArray[Any]
) -> QuantizedArray:
    """Returns the array that a pickle holds; its parts are checked, as any given ones are."""
    return kind._of(Packed.checked(packing, shape, *parts))


def _readable_bytes(count: int) -> str:
    if count < 1024:
        return f"{count} bytes"
    power = min((count.bit_length() - 1) // 10, 4)
    return f"{count / 1024**power:.1f} {('KiB', 'MiB', 'GiB', 'TiB')[power - 1]}"
