"""The block types of GGUF files: a row is a list of blocks, each with its own scale.

Source: the structs and dequantize functions of ggml.
"""

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from binq.storage.base import CodedStorage, Storage
from binq.storage.bits import unpack
from binq.storage.mxfp4 import FP4, power_of_two

if TYPE_CHECKING:
    from binq.files.checkpoint import Checkpoint

_Bytes = NDArray[np.uint8]


class _Coded(NamedTuple):
    """A type whose weights are one scale times small integers.

    weights and nbytes of a block, the lowest and highest integer, where its float16 scale is, and
    the function from the bytes of blocks (n, nbytes) to integers (n, weights).
    """

    weights: int
    nbytes: int
    low: int
    high: int
    scale: int
    codes: Callable[[_Bytes], NDArray[np.int8]]


class _Valued(NamedTuple):
    """A type with another formula: the function from blocks (n, nbytes) to float32."""

    weights: int
    nbytes: int
    values: Callable[[_Bytes], NDArray[np.float32]]


def _q1_0(blocks: _Bytes) -> NDArray[np.int8]:
    """Bit 1 is +d, bit 0 is −d."""
    return 2 * unpack(blocks[:, 2:], 1, 128).view(np.int8) - np.int8(1)


def _q2_0(blocks: _Bytes) -> NDArray[np.int8]:
    """Codes 0 to 3 are −1 to 2, four to a byte from the lowest bits."""
    data = blocks[:, 2:]
    return unpack(data, 2, 4 * data.shape[1]).view(np.int8) - np.int8(1)


def _q4_0(blocks: _Bytes) -> NDArray[np.int8]:
    """Low nibbles are weights 0 to 15, high nibbles 16 to 31; 8 is zero."""
    return _nibbles(blocks[:, 2:]).view(np.int8) - np.int8(8)


def _q8_0(blocks: _Bytes) -> NDArray[np.int8]:
    return np.ascontiguousarray(blocks[:, 2:]).view(np.int8)


def _tq1_0(blocks: _Bytes) -> NDArray[np.int8]:
    """A byte is five (at the end four) base-3 digits of a fraction, the first one highest."""
    parts = []
    for first, last, digits in ((0, 32, 5), (32, 48, 5), (48, 52, 4)):
        powers = 3 ** np.arange(digits, dtype=np.uint16)[:, None]
        rest = (blocks[:, None, first:last] * powers).astype(np.uint8)
        parts.append(((rest.astype(np.uint16) * 3) >> 8).reshape(len(blocks), -1))
    return np.concatenate(parts, axis=1).astype(np.int8) - np.int8(1)


def _tq2_0(blocks: _Bytes) -> NDArray[np.int8]:
    """Byte k of 32 holds weights k, k + 32, k + 64 and k + 96 of 128."""
    data = blocks[:, :64].reshape(-1, 2, 1, 32)
    shifts = np.array([0, 2, 4, 6], np.uint8)[:, None]
    codes = (data >> shifts) & np.uint8(3)
    return codes.reshape(len(blocks), 256).view(np.int8) - np.int8(1)


def _mxfp4(blocks: _Bytes) -> NDArray[np.float32]:
    """Low nibbles are weights 0 to 15, high nibbles 16 to 31, of 4-bit floats."""
    values: NDArray[np.float32] = FP4[_nibbles(blocks[:, 1:])]
    values *= power_of_two(blocks[:, 0])[:, None]
    return values


def _q4_k(blocks: _Bytes) -> NDArray[np.float32]:
    """Eight groups of 32 with 6-bit scales and minima, which two float16 numbers scale."""
    scale, least = _halfs(blocks[:, 0:2]), _halfs(blocks[:, 2:4])
    low, middle, high = (blocks[:, 4 + at : 8 + at] for at in (0, 4, 8))
    six, four = np.uint8(0x3F), np.uint8(0x0F)
    scales = np.concatenate([low & six, (high & four) | ((low >> 2) & np.uint8(0x30))], axis=1)
    minima = np.concatenate([middle & six, (high >> 4) | ((middle >> 2) & np.uint8(0x30))], axis=1)
    data = blocks[:, 16:].reshape(-1, 4, 32)
    codes = np.stack([data & four, data >> 4], axis=2).reshape(-1, 8, 32)
    values: NDArray[np.float32] = codes * (scale * scales)[:, :, None]
    values -= (least * minima)[:, :, None]
    return values.reshape(len(blocks), 256)


def _q6_k(blocks: _Bytes) -> NDArray[np.float32]:
    """Sixteen groups of 16 with int8 scales; low nibbles and upper two bits lie apart."""
    low = blocks[:, :128].reshape(-1, 2, 1, 64)
    low = (low >> np.array([0, 4], np.uint8)[:, None]) & np.uint8(0x0F)
    high = blocks[:, 128:192].reshape(-1, 2, 1, 32)
    high = (high >> np.array([0, 2, 4, 6], np.uint8)[:, None]) & np.uint8(3)
    codes = low.reshape(-1, 2, 4, 32) | (high << 4)
    codes = (codes.astype(np.int8) - np.int8(32)).reshape(-1, 16, 16)
    scales = np.ascontiguousarray(blocks[:, 192:208]).view(np.int8)
    values = codes * (_halfs(blocks[:, 208:210]) * scales)[:, :, None]
    return values.reshape(len(blocks), 256)


def _nibbles(data: _Bytes) -> _Bytes:
    return np.concatenate([data & np.uint8(15), data >> 4], axis=1)


def _halfs(data: _Bytes) -> NDArray[np.float32]:
    """Returns (n, 1) float32 from the bytes (n, 2) of float16."""
    return np.ascontiguousarray(data).view("<f2").astype(np.float32)


_CODED = {
    "Q1_0": _Coded(128, 18, -1, 1, 0, _q1_0),
    "Q2_0": _Coded(64, 18, -1, 2, 0, _q2_0),
    "Q2_0_G128": _Coded(128, 34, -1, 2, 0, _q2_0),
    "Q4_0": _Coded(32, 18, -8, 7, 0, _q4_0),
    "Q8_0": _Coded(32, 34, -128, 127, 0, _q8_0),
    "TQ1_0": _Coded(256, 54, -1, 1, 52, _tq1_0),
    "TQ2_0": _Coded(256, 66, -1, 2, 64, _tq2_0),
}
_VALUED = {
    "MXFP4": _Valued(32, 17, _mxfp4),
    "Q4_K": _Valued(256, 144, _q4_k),
    "Q6_K": _Valued(256, 210, _q6_k),
}


def _read_blocks(
    source: "Checkpoint", storage: "GgufCoded | GgufValued", matrix: int, start: int, stop: int
) -> _Bytes:
    """Returns the blocks of some rows, uint8 (rows · blocks of a row, bytes of a block)."""
    rows, columns = storage.shape[-2:]
    kind = storage.kind
    row = columns // kind.weights * kind.nbytes
    first = matrix * rows
    data = source.read_bytes(storage.name, (first + start) * row, (first + stop) * row)
    return data.reshape(-1, kind.nbytes)


@dataclass(frozen=True)
class GgufCoded(CodedStorage):
    """A tensor of blocks whose weights are a scale times an integer."""

    scheme = "gguf"
    copyable = False
    name: str
    logical_shape: tuple[int, ...]
    type: str

    @property
    def kind(self) -> _Coded:
        """Returns the description of the type."""
        return _CODED[self.type]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.logical_shape

    @property
    def dtype(self) -> str:
        return self.type

    @property
    def stored(self) -> tuple[str, ...]:
        return (self.name,)

    @property
    def levels(self) -> tuple[int, int]:
        return (self.kind.low, self.kind.high)

    @property
    def group(self) -> int | None:
        return self.kind.weights

    def read_codes(
        self, source: "Checkpoint", matrix: int, start: int, stop: int
    ) -> NDArray[np.int8]:
        blocks = _read_blocks(source, self, matrix, start, stop)
        return self.kind.codes(blocks).reshape(stop - start, -1)

    def read_groups(
        self, source: "Checkpoint", matrix: int, start: int, stop: int
    ) -> tuple[NDArray[np.float32], None]:
        blocks = _read_blocks(source, self, matrix, start, stop)
        at = self.kind.scale
        return _halfs(blocks[:, at : at + 2]).reshape(stop - start, -1), None


@dataclass(frozen=True)
class GgufValued(Storage):
    """A tensor of blocks with another formula, read as floats."""

    scheme = "gguf"
    copyable = False
    name: str
    logical_shape: tuple[int, ...]
    type: str

    @property
    def kind(self) -> _Valued:
        """Returns the description of the type."""
        return _VALUED[self.type]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.logical_shape

    @property
    def dtype(self) -> str:
        return self.type

    @property
    def stored(self) -> tuple[str, ...]:
        return (self.name,)

    def read_values(
        self, source: "Checkpoint", matrix: int, start: int, stop: int
    ) -> NDArray[np.float32]:
        blocks = _read_blocks(source, self, matrix, start, stop)
        return self.kind.values(blocks).reshape(stop - start, -1)


def collect(source: "Checkpoint", config: Mapping[str, Any], names: Set[str]) -> dict[str, Storage]:
    """Returns the tensors of a GGUF file that are stored in blocks."""
    found: dict[str, Storage] = {}
    for name in names:
        info = source.info(name)
        if info.dtype in _CODED:
            found[name] = GgufCoded(name, _matrix(info.shape), info.dtype)
        elif info.dtype in _VALUED:
            found[name] = GgufValued(name, _matrix(info.shape), info.dtype)
    return found


def _matrix(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape if len(shape) >= 2 else (1, *shape)
