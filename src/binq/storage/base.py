"""The weights of a checkpoint as a quantizer sees them, whatever the file stores.

A :class:`LogicalTensor` has a name, a shape ``(..., out_features, in_features)``, a role in the
model and a :class:`Storage` that knows which stored tensors it is made of and how. Both are small
and picklable: a worker needs them and the path of the checkpoint, nothing else.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from binq.array.packed import Packed
from binq.array.packing import Packing, Part
from binq.errors import FormatError
from binq.formats import FORMATS
from binq.formats.scales import (
    BFLOAT16,
    FLOAT16,
    FLOAT32,
    fits_scale,
    scale_dtype,
    scale_name,
    stored_scales,
)
from binq.formats.zeros import CODE, NONE, OFFSET
from binq.storage.ranges import Ranges, of_bits
from binq.storage.rows import StoredRows, code_rows, pack_codes, values_of

if TYPE_CHECKING:
    from binq.files.checkpoint import Checkpoint

# Blocks of rows that are only looked at, not kept, take about this much memory.
SCAN_BYTES = 1 << 25


@dataclass(frozen=True)
class Exact:
    """The packing that holds a tensor without loss, and the dtype that its scales need.

    ``rounded``: the codes are without loss, but the scales are rounded to that dtype.
    ``offset_dtype``: that of offsets, where it is not that of the scales.
    """

    packing: Packing
    scale_dtype: str = "float16"
    rounded: bool = False
    offset_dtype: str | None = None

    def parts(self, shape: tuple[int, ...]) -> tuple[Part, ...]:
        """Returns the stored arrays of weights of a shape."""
        return self.packing.parts(shape, *self.dtypes)

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """Returns the bytes of weights of a shape, padding included."""
        return self.packing.nbytes(shape, *self.dtypes)

    @property
    def dtypes(self) -> tuple[np.dtype[Any], np.dtype[Any]]:
        """Returns the dtypes of scales and offsets."""
        return scale_dtype(self.scale_dtype), scale_dtype(self.offset_dtype or self.scale_dtype)


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


class CodedStorage(Storage):
    """Weights stored as small integers: ``scale * (code - zero)``, a scale and zero a group.

    A group is ``group`` columns side by side, or those to which ``read_order`` gives its number.
    """

    # Codes lie in [low, high] before the zero is subtracted.
    @property
    @abstractmethod
    def levels(self) -> tuple[int, int]: ...

    @property
    @abstractmethod
    def group(self) -> int | None:
        """Returns the group size, None for one scale a row."""

    @abstractmethod
    def read_codes(self, source: "Checkpoint", matrix: int, start: int, stop: int) -> NDArray[Any]:
        """Returns integers (rows, in_features)."""

    @abstractmethod
    def read_groups(
        self, source: "Checkpoint", matrix: int, start: int, stop: int
    ) -> tuple[NDArray[np.float32], NDArray[Any] | None]:
        """Returns scales (rows, groups) and the integer zeros of the same shape, or None."""

    def read_order(self, source: "Checkpoint") -> NDArray[Any] | None:
        """Returns the group of each column where activation order has mixed them, else None."""
        return None

    def some_codes(self, source: "Checkpoint") -> NDArray[Any] | None:
        """Returns some codes less their zeros, None where few are no quicker to read than many.

        They tell nearly every tensor of more than two bits.
        """
        return None

    def read_values(
        self, source: "Checkpoint", matrix: int, start: int, stop: int
    ) -> NDArray[np.float32]:
        return values_of(self._stored_rows(source, matrix, start, stop)[0])

    def read_stored(
        self, source: "Checkpoint", matrix: int, start: int, stop: int
    ) -> StoredRows | None:
        if type(self).read_values is not CodedStorage.read_values:
            return None  # a scheme's own way
        return self._stored_rows(source, matrix, start, stop)[0]

    def exact_stored(
        self, source: "Checkpoint", exact: Exact, matrix: int, start: int, stop: int
    ) -> tuple[Packed, StoredRows] | None:
        own = type(self)
        if (own.exact_rows, own.read_values) != (CodedStorage.exact_rows, CodedStorage.read_values):
            return None
        packing = exact.packing
        if packing.zero == CODE and self.levels[0] < 0:
            return None  # codes and zeros are counted from 0 first
        rows, scales, zeros = self._stored_rows(source, matrix, start, stop)
        if packing.symmetric:
            zeros = None
        elif packing.zero == OFFSET and zeros is not None:
            zeros = _offsets(scales, zeros)
        packed = pack_stored(exact, rows, scales, zeros)
        return None if packed is None else (packed, rows)

    def _stored_rows(
        self, source: "Checkpoint", matrix: int, start: int, stop: int
    ) -> tuple[StoredRows, NDArray[np.float32], NDArray[Any] | None]:
        """Returns rows as they lie in the file, their scales and zeros."""
        scales, zeros = self.read_groups(source, matrix, start, stop)
        codes = self.read_codes(source, matrix, start, stop)
        return code_rows(codes, scales, zeros, self.group, self.read_order(source)), scales, zeros

    def exact_block(
        self, source: "Checkpoint", exact: Exact, matrix: int, start: int, stop: int
    ) -> tuple[Packed, NDArray[Any]]:
        own = type(self)
        if (own.exact_rows, own.read_values) != (CodedStorage.exact_rows, CodedStorage.read_values):
            return super().exact_block(source, exact, matrix, start, stop)  # a scheme's own ways
        scales, zeros = self.read_groups(source, matrix, start, stop)
        codes = self.read_codes(source, matrix, start, stop)
        rows = code_rows(codes, scales, zeros, self.group, self.read_order(source))
        return self._packed(exact, codes, scales, zeros), values_of(rows)

    def exact_format(self, source: "Checkpoint") -> Exact | None:
        group = packed_group(self.group, self.shape[-1])
        if group == 0 or 0 in self.shape or self.read_order(source) is not None:
            return None
        nonzero = True
        ranges = {"int4": Ranges(4), "int8": Ranges(8)}
        fit, offset_fit = ScaleFit(), ScaleFit()
        offsets = True
        first = last = 0  # the lowest and highest code that was seen
        lowest = highest = 0  # that there may be
        low, high = self.levels
        if high - low < 128:
            del ranges["int8"]  # of 5 to 7 bits: it would take a seventh more bytes and up to half
        sample = self.some_codes(source)
        if sample is not None:
            first, last = min(0, int(sample.min())), max(0, int(sample.max()))
        for matrix, start, stop in all_blocks(self):
            scales, zeros = self.read_groups(source, matrix, start, stop)
            if not np.isfinite(scales).all():
                return None
            fit.add(scales)
            if zeros is not None:
                # Of few bits: exact, and so are scale · code and its sum with the offset.
                offset_fit.add(-scales * zeros.astype(np.float32))
                offsets = offsets and few_bits(scales)
            least, most = (0, 0) if zeros is None else (int(zeros.min()), int(zeros.max()))
            for each in ranges.values():
                each.look(low, high, least, most)
            lowest, highest = min(lowest, low - most), max(highest, high - least)
            if of_bits(2, first, last):
                codes = self._centred(self.read_codes(source, matrix, start, stop), zeros)
                first, last = min(first, int(codes.min())), max(last, int(codes.max()))
                nonzero = nonzero and bool(codes.all())
            elif not any(each.holds for each in ranges.values()):
                return None
        if first >= -1 and last <= 1:
            return Exact(Packing("binary" if nonzero else "ternary", group), fit.name)
        if of_bits(2, first, last):
            return Exact(Packing("int2", group), fit.name)
        found = None
        if of_bits(3, lowest, highest):
            found = Exact(Packing("int3", group), fit.name)
        else:
            name = next((name for name, each in ranges.items() if each.holds), None)
            if name is not None:
                zero = NONE if ranges[name].signed else CODE
                found = Exact(Packing(name, group, zero), fit.name)
        if offsets and ranges["int4"].unsigned and low >= 0 and high < 8:
            # Integers of 2 and 3 bits with zero points of their own: an offset a group may take
            # less than a third or fourth bit of each.
            packing = Packing(even_format(max(2, high.bit_length())), group, OFFSET)
            other = Exact(packing, fit.name, offset_dtype=offset_fit.name)
            if found is None or other.nbytes(self.shape) < found.nbytes(self.shape):
                return other
        return found

    def exact_rows(
        self, source: "Checkpoint", exact: Exact, matrix: int, start: int, stop: int
    ) -> Packed:
        scales, zeros = self.read_groups(source, matrix, start, stop)
        codes = self.read_codes(source, matrix, start, stop)
        return self._packed(exact, codes, scales, zeros)

    def _packed(
        self,
        exact: Exact,
        codes: NDArray[Any],
        scales: NDArray[np.float32],
        zeros: NDArray[Any] | None,
    ) -> Packed:
        if exact.packing.symmetric:
            codes, zeros = self._centred(codes, zeros), None
            if exact.packing.kind.spec.even and codes.max(initial=0) >= 1 << exact.packing.bits - 1:
                codes, scales = -codes, -scales  # codes to 2**(bits - 1) - 1, scales of either sign
        elif exact.packing.zero == CODE and zeros is not None and self.levels[0] < 0:
            codes, zeros = codes.astype(np.int16) - self.levels[0], zeros - self.levels[0]
        elif exact.packing.zero == OFFSET and zeros is not None:
            zeros = _offsets(scales, zeros)
        return pack_exact(exact, codes, scales, zeros)

    def _centred(self, codes: NDArray[Any], zeros: NDArray[Any] | None) -> NDArray[Any]:
        """Returns ``code - zero`` of some rows."""
        if zeros is not None:
            codes = codes.astype(np.int16)
            each_group(np.subtract, codes, zeros.astype(np.int16), self.group)
        return codes


def _offsets(scales: NDArray[np.float32], zeros: NDArray[Any]) -> NDArray[np.float32]:
    """Returns what is added to ``scale * code`` where zeros are codes."""
    return np.float32(0) - scales * zeros.astype(np.float32)


def even_format(bits: int) -> str:
    """Returns the smallest format with all integers of so many bits, 1 to 8 of them."""
    return next(name for name, f in FORMATS.items() if f.spec.even and f.bits >= bits)


def check_size(source: "Checkpoint", name: str, value: object, *row: int) -> int:
    """Returns a size that a configuration gives, or one of ``row``, which stand for a whole row.

    Raises FormatError for what is not an integer from 1 to 2**31 - 1.
    """
    if type(value) is int and (1 <= value < 1 << 31 or value in row):
        return value
    raise FormatError(
        f"{source.path}: {name} is {repr(value)[:40]}, not a size from 1 to 2**31 - 1"
    )


def packed_group(group: int | None, columns: int) -> int | None:
    """Returns the group size of packed weights with the same scales, or 0 where there is none."""
    if group is None or group in (32, 64, 128, 256):
        return group
    return None if group >= columns else 0


def each_group(
    operate: np.ufunc,
    values: NDArray[Any],
    groups: NDArray[Any],
    group: int | None,
) -> None:
    """Applies ``values = operate(values, g)`` in place, g being the number of each group."""
    rows, columns = values.shape
    if group is None or groups.shape[-1] == 1:
        operate(values, groups[:, :1], out=values)
        return
    whole = columns // group
    parts = values[:, : whole * group].reshape(rows, whole, group)
    if not np.shares_memory(parts, values):  # a ragged last group: rows are not contiguous
        operate(values, np.repeat(groups, min(group, columns), axis=-1)[:, :columns], out=values)
        return
    operate(parts, groups[:, :whole, None], out=parts)
    if whole * group < columns:
        operate(values[:, whole * group :], groups[:, whole:], out=values[:, whole * group :])


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


def column_order(
    source: "Checkpoint", name: str, columns: int, group: int | None
) -> NDArray[Any] | None:
    """Returns the stored group of each column, or None where columns lie in their own order.

    Raises FormatError for indices that are no group's.
    """
    group = columns if group is None else group
    groups = -(-columns // group)
    info = source.info(name)
    if info.shape != (columns,) or info.dtype not in ("I32", "I64"):
        raise FormatError(
            f"{source.path}: {name!r} is {info.dtype} {info.shape}, expected I32 ({columns},)"
        )
    order = source.read(name)
    # An index that was never set is stored as −1.
    if (order == -1).all() or (order == np.arange(columns) // group).all():
        return None
    if order.min() < 0 or order.max() >= groups:
        raise FormatError(
            f"{source.path}: {name!r} has group {order.min()} to {order.max()}, "
            f"expected 0 to {groups - 1}"
        )
    return order


def fits_float16(values: NDArray[np.float32]) -> bool:
    """Returns whether float16 holds every value exactly."""
    return fits_scale(values, FLOAT16)


class ScaleFit:
    """Which type of scales holds all that were seen: float16, else bfloat16, else float32."""

    def __init__(self) -> None:
        self._left = [FLOAT16, BFLOAT16]

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
