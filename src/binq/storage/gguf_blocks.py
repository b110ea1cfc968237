"""Weights of GGUF files: a row is a list of blocks, each with its own scale."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from binq.array.packed import Packed
from binq.array.packing import Packing
from binq.errors import FormatError, UnsupportedFormatError
from binq.formats.scales import E8M0, NOT_A_NUMBER
from binq.formats.zeros import OFFSET
from binq.storage.base import Exact, Storage, all_blocks, fits_float16, pack_exact
from binq.storage.coded import CodedStorage
from binq.storage.gguf_types import (
    AFFINE,
    CODED,
    LEVELED,
    LIBRARY,
    VALUED,
    Bytes,
    Coded,
    Valued,
    halfs,
    has_library,
)

if TYPE_CHECKING:
    from binq.files.checkpoint import Checkpoint

_OFFSETS = Packing("int4", 32, OFFSET)
# Codes spread over 0 to 15 have a variance of 21; errors of scales and offsets are bounded as if
# they added up. What passes has 60 dB and more.
_LEAST_SIGNAL = 8.0
_MOST_NOISE = 1e-5
_MOST_ROUNDING = 1e-6  # where all of a group is off by the same part: 60 dB


@dataclass(frozen=True)
class _Blocks(Storage):
    """A tensor of blocks of a type, such as ``"Q4_0"``."""

    scheme = "gguf"
    copyable = False
    name: str
    logical_shape: tuple[int, ...]
    type: str

    @property
    @abstractmethod
    def kind(self) -> Coded | Valued:
        """Returns the description of the type."""

    @property
    def shape(self) -> tuple[int, ...]:
        return self.logical_shape

    @property
    def dtype(self) -> str:
        return self.type

    @property
    def stored(self) -> tuple[str, ...]:
        return (self.name,)

    def _blocks(self, source: "Checkpoint", matrix: int, start: int, stop: int) -> Bytes:
        """Returns the blocks of some rows, uint8 (rows · blocks of a row, bytes of a block)."""
        rows, columns = self.shape[-2:]
        row = columns // self.kind.weights * self.kind.nbytes
        first = matrix * rows
        data = source.read_bytes(self.name, (first + start) * row, (first + stop) * row)
        return data.reshape(-1, self.kind.nbytes)


@dataclass(frozen=True)
class GgufCoded(_Blocks, CodedStorage):
    """A tensor of blocks whose weights are a scale times an integer."""

    @property
    def kind(self) -> Coded:
        """Returns the description of the type."""
        return CODED[self.type]

    @property
    def levels(self) -> tuple[int, int]:
        return (self.kind.low, self.kind.high)

    @property
    def group(self) -> int | None:
        return self.kind.weights

    def read_codes(
        self, source: "Checkpoint", matrix: int, start: int, stop: int
    ) -> NDArray[np.int8]:
        blocks = self._blocks(source, matrix, start, stop)
        return self.kind.codes(blocks).reshape(stop - start, -1)

    def read_groups(
        self, source: "Checkpoint", matrix: int, start: int, stop: int
    ) -> tuple[NDArray[np.float32], None]:
        blocks = self._blocks(source, matrix, start, stop)
        at = self.kind.scale
        return halfs(blocks[:, at : at + 2]).reshape(stop - start, -1), None


@dataclass(frozen=True)
class GgufValued(_Blocks):
    """A tensor of blocks with another formula, read as floats."""

    @property
    def kind(self) -> Valued:
        """Returns the description of the type."""
        return VALUED.get(self.type) or LIBRARY[self.type]

    def read_values(
        self, source: "Checkpoint", matrix: int, start: int, stop: int
    ) -> NDArray[np.float32]:
        blocks = self._blocks(source, matrix, start, stop)
        return self.kind.values(blocks).reshape(stop - start, -1)


@dataclass(frozen=True)
class GgufScaled(GgufValued):
    """A tensor of blocks, and another of one float for each matrix that multiplies it."""

    scales: str = ""

    @property
    def stored(self) -> tuple[str, ...]:
        return (self.name, self.scales)

    def read_values(
        self, source: "Checkpoint", matrix: int, start: int, stop: int
    ) -> NDArray[np.float32]:
        scales = source.read(self.scales).reshape(-1)
        values = super().read_values(source, matrix, start, stop)
        return values * np.float32(scales[matrix if len(scales) > 1 else 0])


@dataclass(frozen=True)
class GgufAffine(GgufValued):
    """A tensor of 4-bit codes in groups of 32, each with a scale and an offset.

    int4 with offsets holds the codes. Q4_1 has float16 scales and offsets, so that the weights are
    exact; those of Q4_K have 17 bits and are rounded, which leaves more than 60 dB.
    """

    def exact_format(self, source: "Checkpoint") -> Exact | None:
        lines = self._all_lines(source)
        exact = all(fits_float16(s) and fits_float16(o) for s, o in lines)
        return Exact(_OFFSETS) if exact and 0 not in self.shape else None

    def near_format(self, source: "Checkpoint") -> Exact | None:
        signal = noise = 0.0
        for scales, offsets in self._all_lines(source):
            signal += _LEAST_SIGNAL * float(np.square(scales, dtype=np.float64).sum())
            error = 15 * _rounding(scales) + _rounding(offsets)
            noise += float(np.square(error).sum())
        return Exact(_OFFSETS, rounded=True) if noise < _MOST_NOISE * signal else None

    def exact_rows(
        self, source: "Checkpoint", exact: Exact, matrix: int, start: int, stop: int
    ) -> Packed:
        blocks = self._blocks(source, matrix, start, stop)
        codes = AFFINE[self.type].codes(blocks).reshape(stop - start, -1)
        scales, offsets = (
            line.reshape(stop - start, -1) for line in AFFINE[self.type].lines(blocks)
        )
        return pack_exact(exact, codes, scales, offsets)

    def _all_lines(
        self, source: "Checkpoint"
    ) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        return (self._read_lines(source, *block) for block in all_blocks(self))

    def _read_lines(
        self, source: "Checkpoint", matrix: int, start: int, stop: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        blocks = self._blocks(source, matrix, start, stop)
        scales, offsets = AFFINE[self.type].lines(blocks)
        return scales.reshape(stop - start, -1), offsets.reshape(stop - start, -1)


@dataclass(frozen=True)
class GgufLeveled(GgufValued):
    """A tensor of nibbles that stand for uneven levels, in groups of 32.

    The formats iq4nl and mxfp4 have the same codes. Scales are powers of two or float16; those of
    IQ4_XS have 17 bits and are rounded, which leaves more than 60 dB.
    """

    def exact_format(self, source: "Checkpoint") -> Exact | None:
        if 0 in self.shape:
            return None
        exact = Exact(Packing(LEVELED[self.type].format, 32), self._scale_type)
        for block in all_blocks(self):
            scales = self._read_scales(source, *block)
            if scales.dtype == E8M0:
                if (scales == NOT_A_NUMBER).any():
                    return None
            elif not (np.isfinite(scales).all() and fits_float16(scales)):
                return None
        return exact

    def near_format(self, source: "Checkpoint") -> Exact | None:
        if self._scale_type == "e8m0" or 0 in self.shape:
            return None
        signal = noise = 0.0
        for block in all_blocks(self):
            scales = self._read_scales(source, *block)
            signal += float(np.square(scales, dtype=np.float64).sum())
            noise += float(np.square(_rounding(scales)).sum())
        # Each level of a group is off by the same part.
        packing = Packing(LEVELED[self.type].format, 32)
        return Exact(packing, rounded=True) if noise < _MOST_ROUNDING * signal else None

    def exact_rows(
        self, source: "Checkpoint", exact: Exact, matrix: int, start: int, stop: int
    ) -> Packed:
        blocks = self._blocks(source, matrix, start, stop)
        nibbles = LEVELED[self.type].nibbles(blocks).reshape(stop - start, -1)
        scales = self._read_scales(source, matrix, start, stop)
        if scales.dtype != E8M0:
            scales = scales.astype(np.float16)
        return Packed.of_nibbles(exact.packing, nibbles, scales)

    @property
    def _scale_type(self) -> str:
        return "e8m0" if self.type == "MXFP4" else "float16"

    def _read_scales(
        self, source: "Checkpoint", matrix: int, start: int, stop: int
    ) -> NDArray[Any]:
        blocks = self._blocks(source, matrix, start, stop)
        return LEVELED[self.type].scales(blocks).reshape(stop - start, -1)


def _rounding(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Returns how far float16 is from values, inf where it overflows."""
    with np.errstate(over="ignore", under="ignore"):
        return np.abs(values.astype(np.float64) - values.astype(np.float16))


def collect(source: "Checkpoint", config: Mapping[str, Any], names: Set[str]) -> dict[str, Storage]:
    """Returns the tensors of a GGUF file that are stored in blocks."""
    found: dict[str, Storage] = {}
    for name in names:
        info = source.info(name)
        if info.dtype in CODED:
            found[name] = GgufCoded(name, _matrix(info.shape), info.dtype)
        elif info.dtype in AFFINE:
            found[name] = GgufAffine(name, _matrix(info.shape), info.dtype)
        elif info.dtype in LEVELED:
            found[name] = GgufLeveled(name, _matrix(info.shape), info.dtype)
        elif info.dtype == "NVFP4" and name.removesuffix("weight") + "scale" in names:
            found[name] = _scaled(source, name)
        elif info.dtype in VALUED:
            found[name] = GgufValued(name, _matrix(info.shape), info.dtype)
        elif info.dtype in LIBRARY:
            if not has_library():
                raise UnsupportedFormatError(
                    f"{source.path}: tensor {name!r} has type {info.dtype}, which the library gguf "
                    "reads: pip install 'binq[gguf]'"
                )
            found[name] = GgufValued(name, _matrix(info.shape), info.dtype)
    return found


def _scaled(source: "Checkpoint", name: str) -> GgufScaled:
    scales = name.removesuffix("weight") + "scale"
    shape, info = _matrix(source.info(name).shape), source.info(scales)
    if info.dtype != "F32" or prod(info.shape) not in (1, prod(shape[:-2])):
        raise FormatError(
            f"{source.path}: {scales!r} is {info.dtype} {info.shape}, expected one F32 for each "
            f"matrix of {name!r}, whose shape is {shape}"
        )
    return GgufScaled(name, shape, "NVFP4", scales)


def _matrix(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape if len(shape) >= 2 else (1, *shape)
