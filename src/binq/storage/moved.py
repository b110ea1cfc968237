"""Convolutions whose axes another program stores in another order."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from binq.storage.base import WholeStorage

if TYPE_CHECKING:
    from binq.files.checkpoint import Checkpoint


@dataclass(frozen=True)
class Moved(WholeStorage):
    """A tensor stored ``(out, k, ..., in)`` and seen as ``(out, in, k, ...)``, as torch has it."""

    scheme = "moved"
    name: str
    stored_shape: tuple[int, ...]
    stored_dtype: str

    @property
    def shape(self) -> tuple[int, ...]:
        out, *kernel, channels = self.stored_shape
        return (out, channels, *kernel)

    @property
    def dtype(self) -> str:
        return self.stored_dtype

    @property
    def stored(self) -> tuple[str, ...]:
        return (self.name,)

    def read_whole(self, source: "Checkpoint") -> NDArray[Any]:
        return np.ascontiguousarray(np.moveaxis(source.read(self.name), -1, 1))
