"""QuantizedArray: weights with few bits that behave as an immutable numpy-like array."""

from collections.abc import Callable, Iterator
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from binq import _core, _memory
from binq.array.checks import (
    check_bool,
    check_codes,
    check_float_dtype,
    check_group_size,
    check_group_values,
    check_matrix_shape,
    check_out,
    check_stored,
)
from binq.array.protocols import PackedOperand
from binq.array.slicing import select_rows, split_key
from binq.array.transposed import Transposed
from binq.formats import Format, Geometry, get_format, tile_rows, untile_rows

_UINT8 = np.dtype(np.uint8)
_FLOAT16 = np.dtype(np.float16)
_FLOAT32 = np.dtype(np.float32)
# dequantize() to a dtype other than float32 goes through float32 blocks of about this many weights.
_BLOCK = 1 << 20


class QuantizedArray(PackedOperand):
    """Weights ``(..., out_features, in_features)`` as packed codes and one scale a group.

    Made by :func:`binq.quantize`, :func:`binq.load_file` or :meth:`from_codes`. It says all about
    itself (format, shape, group size), multiplies as a numpy array (``x @ q.T``), and cannot be
    changed. Leading axes are stacks of matrices, such as the experts of a mixture.

    The constructor takes the stored arrays as they are in memory and on disk (docs/formats.md)
    and keeps views of them: whoever writes to their memory changes the weights.

    - format: ``"binary"``, ``"ternary"`` or ``"int4"``
    - shape: the logical shape, two or more axes
    - group_size: 32, 64, 128, 256, or None for one scale a row
    - symmetric: False where every group has a zero point
    - packed: uint8 codes, in tiles of 32 rows
    - scales: float16 or float32 ``(..., tiles, scale_groups, 32)``
    - zero_points: None where symmetric; int4: uint8 ``(..., tiles, scale_groups, 16)``; binary:
      midpoints, of the shape and dtype of the scales

    Raises TypeError for a wrong type or dtype and ValueError for a wrong value or shape; the
    message names the argument. The numbers in the arrays are not looked at.

    >>> import numpy as np, binq
    >>> q = binq.quantize(np.eye(64, dtype=np.float32), "int4", group_size=32)
    >>> q
    QuantizedArray(int4, shape=(64, 64), group_size=32, 4.5 bits/weight, 2.2 KiB)
    >>> (np.ones((2, 64)) @ q.T).shape
    (2, 64)
    """

    __slots__ = (
        "__weakref__",
        "_format",
        "_geometry",
        "_native",
        "_packed",
        "_scales",
        "_shape",
        "_zero_points",
    )

    _is_transposed = False
    _format: Format
    _geometry: Geometry
    _native: tuple[_core.PackedMatrix, ...] | None
    _packed: NDArray[np.uint8]
    _scales: NDArray[Any]
    _shape: tuple[int, ...]
    _zero_points: NDArray[Any] | None

    def __init__(
        self,
        format: str,
        shape: tuple[int, ...],
        group_size: int | None,
        symmetric: bool,
        packed: NDArray[np.uint8],
        scales: NDArray[Any],
        zero_points: NDArray[Any] | None = None,
    ) -> None:
        kind = get_format(format)
        shape = check_matrix_shape(shape)
        geometry = Geometry(shape[-2], shape[-1], check_group_size(group_size))
        lead = shape[:-2]
        self._format = kind
        self._shape = shape
        self._geometry = geometry
        self._native = None
        self._zero_points = None
        self._packed = check_stored("packed", packed, (_UINT8,), lead + kind.packed_shape(geometry))
        self._scales = check_stored(
            "scales", scales, (_FLOAT16, _FLOAT32), lead + geometry.scales_shape
        )
        if check_bool("symmetric", symmetric):
            if zero_points is not None:
                raise ValueError("zero_points must be None where symmetric is True")
        else:
            shape = lead + kind.zero_points_shape(geometry)
            dtype = kind.zero_points_dtype(self._scales.dtype)
            self._zero_points = check_stored("zero_points", zero_points, (dtype,), shape)

    @classmethod
    def from_codes(
        cls,
        codes: ArrayLike,
        scales: ArrayLike,
        *,
        format: str,
        group_size: int | None = 128,
        zero_points: ArrayLike | None = None,
    ) -> Self:
        """Returns weights made of given codes, without any loss: the way in for other formats.

        ``w = scale * code`` (ternary, binary, symmetric int4), ``scale * (code - zero_point)``
        (int4) or ``scale * code + zero_point`` (binary), the scale and zero point of group
        ``k // group_size``.

        - codes: integers ``(..., out_features, in_features)``: binary −1 and +1, ternary −1 to 1,
          int4 −8 to 7, or 0 to 15 with zero points
        - scales: finite floats ``(..., out_features, scale_groups)``; stored as float16 where that
          holds every one exactly, else as float32
        - zero_points: None, or values of the shape of ``scales``: int4: integers 0 to 15; binary:
          finite floats, the midpoint of a group's two levels

        Raises TypeError for dtypes and ValueError for shapes or values out of range, naming the
        argument.

        >>> import numpy as np, binq
        >>> codes = np.array([[1, -1, 0] + [0] * 29])
        >>> q = binq.QuantizedArray.from_codes(codes, [[0.5]], format="ternary", group_size=32)
        >>> q.dequantize()[0, :4].tolist()
        [0.5, -0.5, 0.0, 0.0]
        """
        kind = get_format(format)
        symmetric = zero_points is None
        levels = kind.code_levels(symmetric)
        checked = check_codes("codes", codes, levels)
        shape = checked.shape
        geometry = Geometry(shape[-2], shape[-1], check_group_size(group_size))
        logical = (*shape[:-1], geometry.scale_groups)
        values = check_group_values("scales", scales, logical)
        dtype = _FLOAT16 if _fits_float16(values) else _FLOAT32
        zeros: NDArray[Any] | None = None
        if zero_points is not None:
            kind.zero_points_shape(geometry)  # raises for a format without zero points
            if kind.integer_zero_points:
                zeros = check_codes("zero_points", zero_points, levels, logical)
            else:
                zeros = check_group_values("zero_points", zero_points, logical)
                dtype = dtype if _fits_float16(zeros) else _FLOAT32
                zeros = zeros.astype(dtype)
        return cls._from_parts(
            kind,
            shape,
            geometry,
            kind.pack(checked, geometry, symmetric),
            tile_rows(values.astype(dtype), geometry),
            None if zeros is None else kind.pack_zero_points(zeros, geometry),
        )

    @classmethod
    def _from_parts(
        cls,
        format: Format,
        shape: tuple[int, ...],
        geometry: Geometry,
        packed: NDArray[np.uint8],
        scales: NDArray[Any],
        zero_points: NDArray[Any] | None,
        native: tuple[_core.PackedMatrix, ...] | None = None,
    ) -> Self:
        """Returns an array of parts that are known to agree; they become read-only."""
        self = cls.__new__(cls)
        self._format = format
        self._shape = shape
        self._geometry = geometry
        self._packed = packed
        self._scales = scales
        self._zero_points = zero_points
        self._native = native
        for part in (packed, scales, zero_points):
            if part is not None:
                part.flags.writeable = False
        return self

    # What it is.

    @property
    def shape(self) -> tuple[int, ...]:
        """Returns the logical shape ``(..., out_features, in_features)``."""
        return self._shape

    @property
    def format(self) -> str:
        """Returns ``"binary"``, ``"ternary"`` or ``"int4"``."""
        return self._format.name

    @property
    def group_size(self) -> int | None:
        """Returns how many weights of a row share a scale; None: the whole row."""
        return self._geometry.group_size

    @property
    def symmetric(self) -> bool:
        """Returns whether the levels lie evenly around zero: no zero points are stored."""
        return self._zero_points is None

    @property
    def packed(self) -> NDArray[np.uint8]:
        """Returns the packed codes as they are stored: read-only, not a copy."""
        return self._packed

    @property
    def scales(self) -> NDArray[Any]:
        """Returns the scales as they are stored, ``(..., tiles, scale_groups, 32)``: read-only."""
        return self._scales

    @property
    def zero_points(self) -> NDArray[Any] | None:
        """Returns the zero points as they are stored, or None where symmetric: read-only."""
        return self._zero_points

    @property
    def nbytes(self) -> int:
        """Returns the bytes of codes, scales and zero points, padding included."""
        return sum(part.nbytes for part in self._parts())

    @property
    def bits_per_weight(self) -> float:
        """Returns ``8 * nbytes / size``, or 0.0 for no weights."""
        return 8 * self.nbytes / self.size if self.size else 0.0

    def __repr__(self) -> str:
        kind = self.format if self.symmetric else f"{self.format} asymmetric"
        return (
            f"{type(self).__name__}({kind}, shape={self._shape}, group_size={self.group_size}, "
            f"{self.bits_per_weight:.4g} bits/weight, {_readable_bytes(self.nbytes)})"
        )

    # What it holds.

    def codes(self) -> NDArray[np.int8]:
        """Returns the code of each weight, int8 ``(..., out_features, in_features)``.

        Binary: −1 or +1; ternary: −1, 0 or +1; int4: −8 to 7, or 0 to 15 with zero points.

        >>> import numpy as np, binq
        >>> q = binq.quantize([[-3.0, 1.0, 2.0]], "binary", method="absmean")
        >>> q.codes().tolist(), q.group_scales().tolist()
        ([[-1, 1, 1]], [[2.0]])
        """
        codes = np.empty(self._shape, np.int8)
        self._each_matrix(codes, lambda matrix, target: matrix.unpack(target))
        return codes

    def group_scales(self) -> NDArray[Any]:
        """Returns the scales in row-major order, ``(..., out_features, scale_groups)``: a copy."""
        return untile_rows(self._scales, self._geometry)

    def group_zero_points(self) -> NDArray[Any] | None:
        """Returns the zero points as ``(..., out_features, scale_groups)``, or None: a copy."""
        if self._zero_points is None:
            return None
        return self._format.unpack_zero_points(self._zero_points, self._geometry)

    def dequantize(
        self, dtype: DTypeLike | None = None, out: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        """Returns the weights as floats: scale times code, in float32 arithmetic.

        - dtype: float32 unless said; any float dtype (float16, bfloat16, float64), rounded from
          float32
        - out: a writable array of the weights' shape to write to and return; its dtype serves
          where ``dtype`` is None

        Raises TypeError for a dtype that is not a float, ValueError for an unfitting ``out``.

        >>> import numpy as np, binq
        >>> binq.quantize([[-1.0, 0.0, 1.0]], "ternary").dequantize(np.float16)
        array([[-1.,  0.,  1.]], dtype=float16)
        """
        if out is not None:
            dtype = check_out(out, self._shape, None if dtype is None else np.dtype(dtype)).dtype
        dtype = check_float_dtype("dtype", _FLOAT32 if dtype is None else dtype)
        if out is None:
            out = np.empty(self._shape, dtype)
        if dtype == _FLOAT32 and out.flags.c_contiguous and out.flags.aligned:
            self._each_matrix(out, lambda matrix, target: matrix.dequantize(target))
        elif self.ndim > 2:
            for index in range(len(self)):
                self[index].dequantize(out=out[index])
        else:
            rows = max(32, _BLOCK // max(1, self._shape[-1]) // 32 * 32)
            for start in range(0, len(self), rows):
                out[start : start + rows] = self[start : start + rows].dequantize()
        return out

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("packed weights become a float array only by a copy: copy=False fails")
        weights = self.dequantize()
        return weights if dtype is None else weights.astype(dtype, copy=False)

    # Parts and views.

    @property
    def T(self) -> Transposed:  # noqa: N802
        """Returns the transpose of one matrix, for ``x @ q.T``: a view."""
        if len(self._shape) != 2:
            raise ValueError(
                f"T is for one matrix, the shape is {self._shape}: "
                "use mT, which swaps the last two axes"
            )
        return Transposed(self)

    @property
    def mT(self) -> Transposed:  # noqa: N802
        """Returns the view with the last two axes swapped, for ``x @ q.mT``."""
        return Transposed(self)

    def __getitem__(self, key: Any) -> Self:
        """Returns part of the leading axes and of the rows; columns stay whole.

        Leading axes take integers and slices. Rows take a slice or a 1-D array of integers, and
        remain an axis: ``q[5:6]`` has one row. Slices between multiples of 32 rows (or to the last
        row) share memory with q, other rows are copied.
        """
        lead, rows = split_key(key, len(self._shape))
        stored = (
            self._packed[lead],
            self._scales[lead],
            None if self._zero_points is None else self._zero_points[lead],
        )
        geometry = self._geometry
        native = None
        if isinstance(rows, slice) and rows == slice(None):
            # One matrix of a stack keeps its native form: experts are picked once a token.
            if len(lead) == 1 and self._native and not isinstance(lead[0], slice):
                native = (self._native[lead[0]],)
        else:
            geometry, stored = select_rows(self._format, geometry, stored, rows)
        shape = (*stored[1].shape[:-3], geometry.out_features, geometry.in_features)
        return self._from_parts(self._format, shape, geometry, *stored, native)

    def __iter__(self) -> Iterator[Self]:
        if len(self._shape) == 2:
            raise TypeError(
                "rows of packed weights cannot be iterated over: iterate over q.dequantize()"
            )
        return (self[index] for index in range(len(self)))

    # Copies, comparison, pickling.

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Returns a copy in memory of its own: no longer a view of a file, for one."""
        zero_points = self._zero_points
        return self._from_parts(
            self._format,
            self._shape,
            self._geometry,
            _memory.copy(self._packed),
            _memory.copy(self._scales),
            None if zero_points is None else _memory.copy(zero_points),
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Returns the recipe for pickle; protocol 5 moves the arrays out of band, uncopied."""
        parts = [np.ascontiguousarray(part) for part in self._parts()]
        head = (self.format, self._shape, self.group_size, self.symmetric)
        return type(self), (*head, *parts)

    def __sizeof__(self) -> int:
        return object.__sizeof__(self) + self.nbytes

    # The inside.

    @property
    def _base(self) -> Self:  # type: ignore[override]
        return self

    def _same_content(self, other: "QuantizedArray") -> bool:
        return self is other or (
            self._format is other._format
            and self._shape == other._shape
            and self._geometry == other._geometry
            and len(self._parts()) == len(other._parts())
            and all(map(_same_bytes, self._parts(), other._parts()))
        )

    def _parts(self) -> tuple[NDArray[Any], ...]:
        if self._zero_points is None:
            return (self._packed, self._scales)
        return (self._packed, self._scales, self._zero_points)

    def _matrices(self) -> tuple[_core.PackedMatrix, ...]:
        """Returns one native matrix for each matrix of the stack, or () for no weights."""
        if self._native is None:
            self._native = tuple(self._make_native()) if self.size else ()
        return self._native

    def _make_native(self) -> Iterator[_core.PackedMatrix]:
        out_features, in_features = self._shape[-2:]
        for index in np.ndindex(self._shape[:-2]):
            packed, scales, *zero_points = (_memory.as_bytes(part[index]) for part in self._parts())
            yield _core.PackedMatrix(
                self._format.native,
                packed,
                scales,
                zero_points[0] if zero_points else None,
                out_features,
                in_features,
                self._geometry.group_size or 0,
                self._scales.dtype == _FLOAT32,
            )

    def _each_matrix(
        self, target: NDArray[Any], write: Callable[[_core.PackedMatrix, NDArray[Any]], None]
    ) -> None:
        """Calls write(matrix, its part of target) for all matrices of the stack."""
        if matrices := self._matrices():
            for matrix, part in zip(matrices, target.reshape(-1, *self._shape[-2:]), strict=True):
                write(matrix, part)


def _same_bytes(a: NDArray[Any], b: NDArray[Any]) -> bool:
    """Returns whether two arrays have the same dtype and bytes (NaN equals itself)."""
    word = f"u{a.dtype.itemsize}"
    return a.dtype == b.dtype and bool((a.view(word) == b.view(word)).all())


def _fits_float16(values: NDArray[np.float32]) -> bool:
    with np.errstate(over="ignore", under="ignore"):
        return bool((values.astype(np.float16).astype(np.float32) == values).all())


def _readable_bytes(count: int) -> str:
    if count < 1024:
        return f"{count} bytes"
    power = min((count.bit_length() - 1) // 10, 4)
    return f"{count / 1024**power:.1f} {('KiB', 'MiB', 'GiB', 'TiB')[power - 1]}"
