"""Floats of 4 or 8 bits with a scale for each block of rows and columns.

``weight = element * scale``, the scale perhaps times (or divided by) one of the whole tensor.
Blocks of one row are groups, blocks of all rows and columns a scale of the tensor: one class holds
all.
"""

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from binq.errors import FormatError
from binq.storage.base import Storage, to_float32
from binq.storage.rows import StoredRows, scaled_rows, values_of
from binq.storage.small_floats import float8_values, power_of_two

if TYPE_CHECKING:
    from binq.files.checkpoint import Checkpoint

FLOATS = ("F16", "BF16", "F32")
# What may stand for the type of the scales besides a float type: bytes that are E8M0 or E4M3.
E8M0, E4M3 = "F8_E8M0", "F8_E4M3"


@dataclass(frozen=True)
class Scaled(Storage):
    """A tensor of small floats and the tensor of their scales.

    - kind: ``"F4"``, two weights a byte, or one of the float8 types
    - grid: rows and columns of the scales of a matrix
    - block: the rows and columns that share one scale, the last block of each axis may be ragged
    - scale_type: ``"F8_E8M0"``, ``"F8_E4M3"`` or a float type
    - overall: the scale of the whole tensor, by which the others are multiplied, or divided
    """

    name: str
    kind: str
    logical_shape: tuple[int, ...]
    scales: str
    scale_type: str
    grid: tuple[int, int]
    block: tuple[int, int]
    overall: str | None = None
    divides: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        return self.logical_shape

    @property
    def dtype(self) -> str:
        return self.kind

    @property
    def stored(self) -> tuple[str, ...]:
        names = (self.name, self.scales)
        return names if self.overall is None else (*names, self.overall)

    def read_values(
        self, source: "Checkpoint", matrix: int, start: int, stop: int
    ) -> NDArray[np.float32]:
        return values_of(self.read_stored(source, matrix, start, stop))

    def read_stored(self, source: "Checkpoint", matrix: int, start: int, stop: int) -> StoredRows:
        rows, columns = self.shape[-2:]
        width = columns // 2 if self.kind == "F4" else columns
        at = matrix * rows
        codes = source.read_bytes(self.name, (at + start) * width, (at + stop) * width)
        codes = codes.reshape(stop - start, width)
        scales = self._read_scales(source, matrix, start, stop)
        return scaled_rows(codes, self.kind, columns, scales, self.block[1])

    def _read_scales(
        self, source: "Checkpoint", matrix: int, start: int, stop: int
    ) -> NDArray[np.float32]:
        """Returns the scales of the rows, (rows, scales a row)."""
        high = self.block[0]
        first, last = start // high, -(-stop // high)
        at = matrix * self.grid[0]
        if self.scale_type in (E8M0, E4M3):
            wide = self.grid[1]
            codes = source.read_bytes(self.scales, (at + first) * wide, (at + last) * wide)
            decode = power_of_two if self.scale_type == E8M0 else float8_values
            scales = decode(codes).reshape(last - first, wide)
        else:
            row = (self.grid[1],)
            scales = to_float32(source.read_span(self.scales, at + first, at + last, row))
        if self.overall is not None:
            whole = to_float32(source.read(self.overall)).reshape(-1)
            one = whole[matrix if whole.size > 1 else 0]
            scales = scales / one if self.divides else scales * one
        if high == 1:
            return scales
        return scales[np.arange(start, stop) // high - first]


def scale_grid(
    source: "Checkpoint", scales: str, shape: tuple[int, ...], block: tuple[int, int] | None
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Returns (grid, block) of the scales of weights of a shape: one a tensor, a row or a block.

    Shapes ``()``, ``(1,)`` and ``(1, 1)`` are one scale, ``(rows,)`` and ``(rows, 1)`` one a row;
    with leading axes, of each matrix. block: the size of blocks where those are expected.

    Raises FormatError for scales of any other shape.
    """
    *lead, rows, columns = shape
    stored = source.info(scales).shape
    # One scale of a single matrix may have any number of axes.
    per = stored[len(lead) :] if stored[: len(lead)] == tuple(lead) else None
    if per is not None:
        if prod(per) == 1:
            return (1, 1), (max(1, rows), max(1, columns))
        if block is not None and per == (-(-rows // block[0]), -(-columns // block[1])):
            return (per[0], per[1]), block
        if per in ((rows,), (rows, 1)):
            return (rows, 1), (1, max(1, columns))
    expected = "one, or one a row"
    if block is not None:
        grid = (*lead, -(-rows // block[0]), -(-columns // block[1]))
        expected = f"{grid} for blocks of {block[0]} by {block[1]}, {expected}"
    raise FormatError(
        f"{source.path}: {scales!r} has scales of shape {stored}, expected {expected}, for weights "
        f"of shape {shape}"
    )


def check_overall(source: "Checkpoint", name: str, lead: tuple[int, ...]) -> None:
    """Raises FormatError unless a tensor holds one float, or one for each matrix."""
    info = source.info(name)
    if info.dtype not in FLOATS or prod(info.shape) not in (1, prod(lead)):
        raise FormatError(
            f"{source.path}: {name!r} is {info.dtype} {info.shape}, expected one float"
        )


def scale_type(source: "Checkpoint", name: str, bytes_are: str | None = None) -> str:
    """Returns the type of scales: floats, or powers of two (E8M0).

    bytes_are: what scales of type U8 are, where the configuration says it. Raises FormatError for
    all else.
    """
    dtype = source.info(name).dtype
    if dtype in FLOATS or dtype == E8M0:
        return dtype
    if dtype == "U8" and bytes_are is not None:
        return bytes_are
    raise FormatError(
        f"{source.path}: {name!r} is {dtype}, expected scales of type {', '.join((*FLOATS, E8M0))}"
    )
