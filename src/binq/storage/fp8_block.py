"""float8 (e4m3) with one scale a block of rows and columns: ``weight * weight_scale_inv``.

The block size is the configuration's: the shape of the scales does not tell it where the last
block is ragged. Source: the README_WEIGHTS of DeepSeek V3.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from binq.errors import FormatError, UnsupportedFormatError
from binq.storage.base import Storage, to_float32

if TYPE_CHECKING:
    from binq.files.checkpoint import Checkpoint

METHOD = "fp8"
_SUFFIX = "_scale_inv"
# Sign, exponent and mantissa where float32 has them, but for the bias of the exponent: 120 less.
_FIELDS = np.int32(-0x78100000)
_BIAS = np.float32(2.0**120)


@dataclass(frozen=True)
class Fp8Block(Storage):
    """A float8 tensor and the float tensor of its block scales."""

    scheme = "fp8_block"
    name: str
    stored_shape: tuple[int, ...]
    scales: str
    scales_shape: tuple[int, ...]
    block: tuple[int, int]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.stored_shape

    @property
    def dtype(self) -> str:
        return "F8_E4M3"

    @property
    def stored(self) -> tuple[str, ...]:
        return (self.name, self.scales)

    def read_values(
        self, source: "Checkpoint", matrix: int, start: int, stop: int
    ) -> NDArray[np.float32]:
        rows, columns = self.shape[-2:]
        at = matrix * rows
        codes = source.read_bytes(self.name, (at + start) * columns, (at + stop) * columns)
        values = float8_values(codes).reshape(stop - start, columns)
        high, wide = self.block
        first, last = start // high, -(-stop // high)
        scale_rows, scale_columns = self.scales_shape[-2:]
        at = matrix * scale_rows
        scales = to_float32(source.read_span(self.scales, at + first, at + last, (scale_columns,)))
        for block in range(first, last):
            top, bottom = max(start, block * high), min(stop, (block + 1) * high)
            row = np.repeat(scales[block - first], wide)[:columns]
            values[top - start : bottom - start] *= row
        return values


def float8_values(codes: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Returns the bytes of e4m3 floats as float32, several times as fast as a table.

    >>> import numpy as np
    >>> float8_values(np.array([0x38, 0xB8, 0x01, 0x7E], np.uint8)).tolist()
    [1.0, -1.0, 0.001953125, 448.0]
    """
    bits = codes.view(np.int8).astype(np.int32)
    bits <<= np.int32(20)
    bits &= _FIELDS
    values = bits.view(np.float32)
    values *= _BIAS
    nan = (codes & np.uint8(0x7F)) == 0x7F
    if nan.any():
        values[nan] = np.nan
    return values


def collect(source: "Checkpoint", config: Mapping[str, Any], names: Set[str]) -> dict[str, Storage]:
    """Returns the float8 weights of a checkpoint by name."""
    block = _block_size(source, config)
    found: dict[str, Storage] = {}
    for name in sorted(names):
        if name.endswith(_SUFFIX) and name.removesuffix(_SUFFIX) not in names:
            raise FormatError(f"{source.path}: {name!r} has no {name.removesuffix(_SUFFIX)!r}")
        info = source.info(name)
        if info.dtype != "F8_E4M3":
            continue
        scales = name + _SUFFIX
        if scales not in names:
            raise FormatError(f"{source.path}: float8 tensor {name!r} has no {scales!r}")
        if len(info.shape) < 2:
            raise FormatError(f"{source.path}: float8 tensor {name!r} is no matrix: {info.shape}")
        scale = source.info(scales)
        blocks = tuple(-(-size // step) for size, step in zip(info.shape[-2:], block, strict=True))
        if scale.shape != (*info.shape[:-2], *blocks) or scale.dtype not in ("F32", "BF16", "F16"):
            raise FormatError(
                f"{source.path}: {scales!r} is {scale.dtype} {scale.shape}, expected floats "
                f"{(*info.shape[:-2], *blocks)} for blocks of {block[0]} by {block[1]}"
            )
        found[name] = Fp8Block(name, info.shape, scales, scale.shape, block)
    return found


def _block_size(source: "Checkpoint", config: Mapping[str, Any]) -> tuple[int, int]:
    kind = config.get("fmt", "e4m3")
    if kind != "e4m3":
        raise UnsupportedFormatError(f"{source.path}: fp8 weights of fmt {kind!r}")
    block = config.get("weight_block_size")
    if block is None:
        raise UnsupportedFormatError(f"{source.path}: fp8 weights without weight_block_size")
    if not (
        isinstance(block, list)
        and len(block) == 2
        and all(isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in block)
    ):
        raise FormatError(f"{source.path}: weight_block_size must be two sizes, got {block!r}")
    return block[0], block[1]
