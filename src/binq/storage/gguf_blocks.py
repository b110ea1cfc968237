"""Weights of GGUF files: a row is a list of blocks, each with its own scale."""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from binq.errors import UnsupportedFormatError
from binq.storage.base import CodedStorage, Storage
from binq.storage.gguf_types import CODED, LIBRARY, VALUED, Bytes, Coded, Valued, halfs, has_library

if TYPE_CHECKING:
    from binq.files.checkpoint import Checkpoint


def _read_blocks(
    source: "Checkpoint", storage: "GgufCoded | GgufValued", matrix: int, start: int, stop: int
) -> Bytes:
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
    def kind(self) -> Coded:
        """Returns the description of the type."""
        return CODED[self.type]

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
        return halfs(blocks[:, at : at + 2]).reshape(stop - start, -1), None


@dataclass(frozen=True)
class GgufValued(Storage):
    """A tensor of blocks with another formula, read as floats."""

    scheme = "gguf"
    copyable = False
    name: str
    logical_shape: tuple[int, ...]
    type: str

    @property
    def kind(self) -> Valued:
        """Returns the description of the type."""
        return VALUED.get(self.type) or LIBRARY[self.type]

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
        if info.dtype in CODED:
            found[name] = GgufCoded(name, _matrix(info.shape), info.dtype)
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


def _matrix(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape if len(shape) >= 2 else (1, *shape)
