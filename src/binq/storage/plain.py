"""Floats as they are, or a stack of matrices stored input-major and seen transposed."""

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from binq.array.packed import Packed
from binq.array.packing import Packing
from binq.storage.base import (
    Exact,
    ScaleFit,
    Storage,
    pack_exact,
    row_blocks,
    to_float32,
)
from binq.storage.rows import StoredRows, float_columns, float_rows

if TYPE_CHECKING:
    from binq.files.checkpoint import Checkpoint

FLOATS = ("BF16", "F16", "F32", "F64")
_SCAN_BYTES = 1 << 25
_SAMPLE = 32
_FEWEST = 2048


@dataclass(frozen=True)
class Plain(Storage):
    """One stored tensor whose elements are the weights."""

    scheme = "plain"
    name: str
    stored_shape: tuple[int, ...]
    stored_dtype: str

    @property
    def shape(self) -> tuple[int, ...]:
        return self.stored_shape

    @property
    def dtype(self) -> str:
        return self.stored_dtype

    @property
    def stored(self) -> tuple[str, ...]:
        return (self.name,)

    def read_values(self, source: "Checkpoint", matrix: int, start: int, stop: int) -> NDArray[Any]:
        rows, columns = self.stored_shape[-2:]
        first = matrix * rows
        return source.read_span(self.name, first + start, first + stop, (columns,))

    def read_stored(
        self, source: "Checkpoint", matrix: int, start: int, stop: int
    ) -> StoredRows | None:
        if self.dtype not in FLOATS:
            return None
        return float_rows(self.read_values(source, matrix, start, stop))

    def exact_format(self, source: "Checkpoint") -> Exact | None:
        """Returns the one- or two-bit format of floats that are all 0 or ±s in each group."""
        if self.dtype not in FLOATS or len(self.shape) < 2 or 0 in self.shape:
            return None
        # Nearly every tensor is told by a small part; and zeros alone are no sign of anything.
        sample = to_float32(self._sample(source))
        scan = _GroupScan([32])
        scan.look(sample)
        if not scan.groups or not sample.any():
            return None
        scan = _GroupScan([None, 256, 128, 64, 32])
        for matrix in range(prod(self.shape[:-2])):
            for start, stop in row_blocks(self, _SCAN_BYTES):
                if not scan.groups:
                    return None
                scan.look(to_float32(self.read_values(source, matrix, start, stop)))
        return scan.result(self.shape[-1])

    def _sample(self, source: "Checkpoint") -> NDArray[Any]:
        """Returns some rows of the first matrix, or their first 32 columns."""
        return self.read_values(source, 0, 0, min(_SAMPLE, self.shape[-2]))

    def exact_rows(
        self, source: "Checkpoint", exact: Exact, matrix: int, start: int, stop: int
    ) -> Packed:
        return self.exact_block(source, exact, matrix, start, stop)[0]

    def exact_block(
        self, source: "Checkpoint", exact: Exact, matrix: int, start: int, stop: int
    ) -> tuple[Packed, NDArray[Any]]:
        stored = self.read_values(source, matrix, start, stop)
        values = to_float32(stored)
        scales = _by_group(np.abs(values), exact.packing.group_size).max(axis=-1)
        negative = (values < 0).view(np.int8)
        positive = (values > 0).view(np.int8) if exact.packing.format == "ternary" else 1 - negative
        codes = positive - negative
        return pack_exact(exact, codes, scales), stored


@dataclass(frozen=True)
class Transposed(Plain):
    """Matrices stored as (in_features, out_features), as fused experts are."""

    scheme = "transposed"

    @property
    def shape(self) -> tuple[int, ...]:
        *lead, inputs, outputs = self.stored_shape
        return (*lead, outputs, inputs)

    def good_rows(self, budget: int) -> int:
        # A row of the result is a column of the file: few at a time would read every page of the
        # file for a part of it.
        rows = budget // max(1, 4 * self.shape[-1])
        return max(_FEWEST, rows // 32 * 32)

    def read_values(self, source: "Checkpoint", matrix: int, start: int, stop: int) -> NDArray[Any]:
        return source.read_transposed(self.name, matrix, start, stop)

    def read_stored(
        self, source: "Checkpoint", matrix: int, start: int, stop: int
    ) -> StoredRows | None:
        if self.dtype not in FLOATS:
            return None
        return float_columns(source.read_columns(self.name, matrix, start, stop))

    def _sample(self, source: "Checkpoint") -> NDArray[Any]:
        inputs, outputs = self.stored_shape[-2:]
        return source.read_span(self.name, 0, min(_SAMPLE, inputs), (outputs,)).T.copy()


@dataclass(frozen=True)
class Flattened(Plain):
    """A convolution ``(out, in, k, ...)`` seen as the matrix of its products with patches."""

    scheme = "flattened"

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.stored_shape[0], prod(self.stored_shape[1:]))

    def read_values(self, source: "Checkpoint", matrix: int, start: int, stop: int) -> NDArray[Any]:
        return source.read_span(self.name, start, stop, self.shape[1:])


class _GroupScan:
    """Finds the largest group in which all weights are 0 or ±s, over blocks of rows."""

    def __init__(self, groups: list[int | None]) -> None:
        self.groups = groups
        # The groups with both zeros and others: three levels.
        self._ternary: set[int | None] = set()
        self._fit = ScaleFit()

    def look(self, values: NDArray[np.float32]) -> None:
        sizes = np.abs(values)
        if not np.isfinite(sizes).all():
            self.groups = []
        for group in list(self.groups):
            parts = _by_group(sizes, group)
            most = parts.max(axis=-1, keepdims=True)
            zero = parts == 0
            if not (zero | (parts == most)).all():
                self.groups.remove(group)
                continue
            # Behind the last weight of a ragged group there are zeros that count for nothing.
            mixed = (zero & (most > 0)).reshape(len(sizes), -1)[:, : sizes.shape[1]]
            if mixed.any():
                self._ternary.add(group)
            self._fit.add(most)

    def result(self, columns: int) -> Exact | None:
        if not self.groups:
            return None
        group = self.groups[0]
        if group is None:
            # A row that is one group anyway has the size that other tensors are likely to have.
            group = next((size for size in (128, 256) if size >= columns), None)
        format = "ternary" if group in self._ternary else "binary"
        return Exact(Packing(format, group), self._fit.name)


def _by_group(values: NDArray[Any], group: int | None) -> NDArray[Any]:
    """Returns (rows, groups, group), padded with zeros."""
    rows, columns = values.shape
    if group is None:
        return values.reshape(rows, 1, columns)
    missing = -columns % group
    if missing:
        values = np.pad(values, ((0, 0), (0, missing)))
    return values.reshape(rows, -1, group)
