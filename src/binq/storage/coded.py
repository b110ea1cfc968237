"""Weights stored as small integers, a scale and a zero a group: what most schemes have.

A scheme says how codes, scales and zeros are read; values, the packing that holds them without loss
and the packed form follow.
"""

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from binq.array.packed import Packed
from binq.array.packing import Packing
from binq.errors import FormatError
from binq.formats import FORMATS, GROUP_SIZES
from binq.formats.zeros import CODE, NONE
from binq.storage.base import Exact, ScaleFit, Storage, all_blocks, pack_exact, pack_stored
from binq.storage.groups import spread
from binq.storage.ranges import Ranges, of_bits
from binq.storage.rows import StoredRows, code_rows, values_of

if TYPE_CHECKING:
    from binq.files.checkpoint import Checkpoint


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
        rows, scales, zeros = self._stored_rows(source, matrix, start, stop)
        if exact.packing.symmetric:
            zeros = None
        packed = pack_stored(exact, rows, *self._of_groups(exact, scales, zeros))
        return None if packed is None else (packed, rows)

    def _stored_rows(
        self, source: "Checkpoint", matrix: int, start: int, stop: int
    ) -> tuple[StoredRows, NDArray[np.float32], NDArray[Any] | None]:
        """Returns rows as they lie in the file, their scales and zeros.

        Codes that have zeros are counted from 0, as packed ones are.
        """
        codes, scales, zeros = self._coded(source, matrix, start, stop)
        return code_rows(codes, scales, zeros, self.group, self.read_order(source)), scales, zeros

    def exact_format(self, source: "Checkpoint") -> Exact | None:
        group = packed_group(self.group, self.shape[-1])
        if group == 0 or 0 in self.shape or self.read_order(source) is not None:
            return None
        nonzero = True
        # The smallest first, with zero points too.
        ranges = {name: Ranges(FORMATS[name].bits) for name in ("int2", "int3", "int4", "int8")}
        fit = ScaleFit()
        first = last = 0  # the lowest and highest code that was seen
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
            least, most = (0, 0) if zeros is None else (int(zeros.min()), int(zeros.max()))
            for each in ranges.values():
                each.look(low, high, least, most)
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
        name = next((name for name, each in ranges.items() if each.holds), None)
        if name is None:
            return None
        return Exact(Packing(name, group, NONE if ranges[name].signed else CODE), fit.name)

    def exact_rows(
        self, source: "Checkpoint", exact: Exact, matrix: int, start: int, stop: int
    ) -> Packed:
        codes, scales, zeros = self._coded(source, matrix, start, stop)
        packing = exact.packing
        if packing.symmetric:
            codes, zeros = self._centred(codes, zeros), None
            if packing.kind.spec.even and codes.max(initial=0) >= 1 << packing.bits - 1:
                codes, scales = -codes, -scales  # codes to 2**(bits - 1) - 1, scales of either sign
        return pack_exact(exact, codes, *self._of_groups(exact, scales, zeros))

    def _of_groups(
        self, exact: Exact, scales: NDArray[np.float32], zeros: NDArray[Any] | None
    ) -> tuple[NDArray[np.float32], NDArray[Any] | None]:
        """Returns scales and zeros of the packed groups, several of which a stored one may be."""
        group, size, columns = self.group, exact.packing.group_size, self.shape[-1]
        if group is None or size is None or size == group:
            return scales, zeros
        scales = spread(scales, group, columns, size)
        return scales, None if zeros is None else spread(zeros, group, columns, size)

    def _coded(
        self, source: "Checkpoint", matrix: int, start: int, stop: int
    ) -> tuple[NDArray[Any], NDArray[np.float32], NDArray[Any] | None]:
        """Returns codes, scales and zeros of some rows; those of signed codes counted from 0."""
        scales, zeros = self.read_groups(source, matrix, start, stop)
        codes = self.read_codes(source, matrix, start, stop)
        low = self.levels[0]
        if zeros is not None and low < 0:
            codes, zeros = (codes - np.int16(low)).astype(np.uint8), zeros - low
        return codes, scales, zeros

    def _centred(self, codes: NDArray[Any], zeros: NDArray[Any] | None) -> NDArray[Any]:
        """Returns ``code - zero`` of some rows."""
        if zeros is not None:
            codes = codes.astype(np.int16)
            each_group(np.subtract, codes, zeros.astype(np.int16), self.group)
        return codes


def even_format(bits: int) -> str:
    """Returns the smallest format with all integers of so many bits, 1 to 8 of them."""
    return next(name for name, f in FORMATS.items() if f.spec.even and f.bits >= bits)


def packed_group(group: int | None, columns: int) -> int | None:
    """Returns the group size of packed weights with the same scales, or 0 where there is none.

    Groups of another size are several of the largest that divides it.
    """
    if group is None or group in GROUP_SIZES:
        return group
    if group >= columns:
        return None
    return max((size for size in GROUP_SIZES if group % size == 0), default=0)


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
