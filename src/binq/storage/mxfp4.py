"""MXFP4: 4-bit floats in blocks of 32 along the input axis, each with a power of two.

``FP4[nibble] * 2**(scale - 127)``: byte b of a block holds weight 2b in its low nibble. Source:
the OCP microscaling specification and the weights of gpt-oss.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from binq.array.packed import Packed
from binq.array.packing import Packing
from binq.errors import FormatError
from binq.formats.scales import NOT_A_NUMBER
from binq.storage.base import Exact, Storage, all_blocks
from binq.storage.rows import StoredRows, pack_nibbles
from binq.storage.scaled import E8M0, Scaled

if TYPE_CHECKING:
    from binq.files.checkpoint import Checkpoint

METHODS = ("mxfp4",)
BLOCK = 32
_BLOCKS, _SCALES = "_blocks", "_scales"


@dataclass(frozen=True)
class Mxfp4(Scaled):
    """A tensor of 4-bit floats, 16 bytes a block, and the tensor of their exponents."""

    scheme = "mxfp4"

    @classmethod
    def of(cls, name: str, scales: str, lead: tuple[int, ...], rows: int, blocks: int) -> Self:
        """Returns the weights of two tensors whose bytes lie row by row."""
        shape = (*lead, rows, blocks * BLOCK)
        return cls(name, "F4", shape, scales, E8M0, (rows, blocks), (1, BLOCK))

    @property
    def dtype(self) -> str:
        return "MXFP4"

    def exact_format(self, source: "Checkpoint") -> Exact | None:
        """Returns mxfp4 with the powers of two as they are, unless one is 255, which is NaN."""
        if 0 in self.shape:
            return None
        for block in all_blocks(self):
            if (self._read_exponents(source, *block) == NOT_A_NUMBER).any():
                return None
        return Exact(Packing("mxfp4", BLOCK), "e8m0")

    def exact_rows(
        self, source: "Checkpoint", exact: Exact, matrix: int, start: int, stop: int
    ) -> Packed:
        rows, columns = self.shape[-2:]
        at, width = matrix * rows, columns // 2
        codes = source.read_bytes(self.name, (at + start) * width, (at + stop) * width)
        nibbles = np.stack((codes & np.uint8(15), codes >> np.uint8(4)), axis=-1)
        return Packed.of_nibbles(
            exact.packing,
            nibbles.reshape(stop - start, columns),
            self._read_exponents(source, matrix, start, stop),
        )

    def exact_stored(
        self, source: "Checkpoint", exact: Exact, matrix: int, start: int, stop: int
    ) -> tuple[Packed, StoredRows]:
        rows = self.read_stored(source, matrix, start, stop)
        packed = pack_nibbles(exact.packing, rows)
        exponents = self._read_exponents(source, matrix, start, stop)
        return Packed.of_parts(exact.packing, rows.shape, packed, exponents), rows

    def _read_exponents(
        self, source: "Checkpoint", matrix: int, start: int, stop: int
    ) -> NDArray[np.uint8]:
        rows, blocks = self.grid
        at = matrix * rows
        stored = source.read_bytes(self.scales, (at + start) * blocks, (at + stop) * blocks)
        return stored.reshape(stop - start, blocks)


def collect(source: "Checkpoint", config: Mapping[str, Any], names: Set[str]) -> dict[str, Storage]:
    """Returns the MXFP4 weights of a checkpoint by name, which has no ``_blocks``."""
    found: dict[str, Storage] = {}
    for name in sorted(names):
        if not name.endswith(_BLOCKS):
            continue
        base = name.removesuffix(_BLOCKS)
        scales = base + _SCALES
        if scales not in names:
            raise FormatError(f"{source.path}: {name!r} has no {scales!r}")
        codes, exponents = source.info(name), source.info(scales)
        if codes.dtype != "U8" or len(codes.shape) < 3 or codes.shape[-1] != BLOCK // 2:
            raise FormatError(
                f"{source.path}: {name!r} is {codes.dtype} {codes.shape}, "
                "expected U8 (..., rows, blocks, 16)"
            )
        if exponents.dtype != "U8" or exponents.shape != codes.shape[:-1]:
            raise FormatError(
                f"{source.path}: {scales!r} is {exponents.dtype} {exponents.shape}, "
                f"expected U8 {codes.shape[:-1]}"
            )
        *lead, rows, blocks, _ = codes.shape
        found[base] = Mxfp4.of(name, scales, tuple(lead), rows, blocks)
    return found
