"""Integers of 1 to 8 bits along the input axis, with scales and perhaps zero points a group.

``(code - 2**(bits-1) - zero_point) * scale`` of unsigned codes, ``(code - zero_point) * scale`` of
signed bytes. Several schemes store this, in containers of three kinds:

- ``"dense"``: a stream of bits, least significant first, in words or bytes
- ``"loose"``: ``32 // bits`` codes in each 32-bit word, whose highest bits may be unused
- ``"bytes"``: one signed byte a code
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from binq.errors import FormatError
from binq.storage.base import to_float32
from binq.storage.bits import unpack, unpack_columns, unpack_loose
from binq.storage.coded import CodedStorage, column_order

if TYPE_CHECKING:
    from binq.files.checkpoint import Checkpoint


@dataclass(frozen=True)
class Integers(CodedStorage):
    """Stored codes (..., rows, words), scales (..., rows, groups) and perhaps zero points.

    - one_scale: whether a matrix has a single scale (and zero point)
    - zeros: the tensor of zero points, packed along the rows in a container of its own, or a byte
      each in the shape of the scales
    - order: the tensor with the group of each column
    - others: stored tensors that say no more than is known here
    """

    name: str
    logical_shape: tuple[int, ...]
    bits: int
    container: str
    words: int
    scales: str
    group_size: int | None
    one_scale: bool = False
    zeros: str | None = None
    zeros_container: str = "dense"
    order: str | None = None
    others: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        return self.logical_shape

    @property
    def dtype(self) -> str:
        return "I8" if self.container == "bytes" else "I32"

    @property
    def stored(self) -> tuple[str, ...]:
        names = (self.name, self.scales, *self.others, self.zeros, self.order)
        return tuple(name for name in names if name is not None)

    @property
    def group(self) -> int | None:
        return self.group_size

    @property
    def levels(self) -> tuple[int, int]:
        if self.zeros is None or self.container == "bytes":
            return (-self._half, self._half - 1)
        return (0, 2 * self._half - 1)

    @property
    def _half(self) -> int:
        return int(1 << (self.bits - 1))

    @property
    def _groups(self) -> int:
        return 1 if self.group is None else -(-self.shape[-1] // self.group)

    def ordered_by(self, order: str) -> Self:
        """Returns the same weights, a tensor having the group of each column."""
        return replace(self, order=order)

    def read_order(self, source: "Checkpoint") -> NDArray[Any] | None:
        if self.order is None:
            return None
        return column_order(source, self.order, self.shape[-1], self.group)

    def read_codes(self, source: "Checkpoint", matrix: int, start: int, stop: int) -> NDArray[Any]:
        rows, columns = self.shape[-2:]
        at = matrix * rows
        stored = source.read_span(self.name, at + start, at + stop, (self.words,))
        if self.container == "bytes":
            least, most = stored.min(initial=0), stored.max(initial=0)
            if least < -self._half or most >= self._half:
                raise FormatError(
                    f"{source.path}: {self.name!r} holds {least} to {most}, not "
                    f"integers of {self.bits} bits"
                )
            return stored
        take = unpack if self.container == "dense" else unpack_loose
        codes = take(stored, self.bits, columns)
        if self.zeros is None:
            return (codes - np.uint8(self._half)).view(np.int8)  # 0 to 255 wrap around
        return codes

    def read_groups(
        self, source: "Checkpoint", matrix: int, start: int, stop: int
    ) -> tuple[NDArray[np.float32], NDArray[Any] | None]:
        scales = to_float32(self._read_rows(source, self.scales, matrix, start, stop))
        if self.zeros is None:
            return scales, None
        if self.zeros_container == "bytes":
            zeros = self._read_rows(source, self.zeros, matrix, start, stop).astype(np.int16)
            offset = 0 if self.container == "bytes" else self._half
            return scales, zeros + np.int16(offset)
        height = source.info(self.zeros).shape[-2]
        at = matrix * height
        words = source.read_span(self.zeros, at, at + height, (self._groups,))
        across = np.ascontiguousarray(words.T)
        if self.zeros_container == "loose":
            return scales, unpack_loose(across, self.bits, stop)[:, start:].T
        return scales, unpack_columns(across, self.bits, start, stop).T

    def _read_rows(
        self, source: "Checkpoint", name: str, matrix: int, start: int, stop: int
    ) -> NDArray[Any]:
        """Returns (rows, groups) of a tensor that has a number for each group."""
        if self.one_scale:
            one = source.read_span(name, matrix, matrix + 1, (1,))
            return np.broadcast_to(one, (stop - start, 1))
        at = matrix * self.shape[-2]
        return source.read_span(name, at + start, at + stop, (self._groups,))
