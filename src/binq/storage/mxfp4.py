"""MXFP4: 4-bit floats in blocks of 32 along the input axis, each with a power of two.

``FP4[nibble] * 2**(scale - 127)``: byte b of a block holds weight 2b in its low nibble. Source:
the OCP microscaling specification and the weights of gpt-oss.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from binq.errors import FormatError
from binq.storage.base import Storage

if TYPE_CHECKING:
    from binq.files.checkpoint import Checkpoint

METHOD = "mxfp4"
BLOCK = 32
FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
# Both weights of a byte at once.
_PAIRS = np.stack([np.tile(FP4, 16), np.repeat(FP4, 16)], axis=-1).view(np.uint64)[:, 0]
_BLOCKS, _SCALES = "_blocks", "_scales"


@dataclass(frozen=True)
class Mxfp4(Storage):
    """A tensor of 4-bit floats, 16 bytes a block, and the tensor of their exponents."""

    scheme = "mxfp4"
    name: str
    scales: str
    lead: tuple[int, ...]
    rows: int
    blocks: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.lead, self.rows, self.blocks * BLOCK)

    @property
    def dtype(self) -> str:
        return "MXFP4"

    @property
    def stored(self) -> tuple[str, ...]:
        return (self.name, self.scales)

    def read_values(
        self, source: "Checkpoint", matrix: int, start: int, stop: int
    ) -> NDArray[np.float32]:
        first, last = (matrix * self.rows + row for row in (start, stop))
        width = self.blocks * (BLOCK // 2)
        codes = source.read_bytes(self.name, first * width, last * width)
        exponents = source.read_bytes(self.scales, first * self.blocks, last * self.blocks)
        values = _PAIRS[codes].view(np.float32).reshape(-1, BLOCK)
        values *= power_of_two(exponents)[:, None]
        return values.reshape(stop - start, -1)


def power_of_two(exponents: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Returns ``2**(exponent - 127)`` as float32; 255 is NaN, as the specification has it."""
    powers = np.full(256, np.nan, np.float32)
    powers[:255] = np.ldexp(1.0, np.arange(255) - 127)
    return powers[exponents]


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
        found[base] = Mxfp4(name, scales, tuple(lead), rows, blocks)
    return found
