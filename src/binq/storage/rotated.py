"""Weights in a rotated basis: floats are read in that of x, packed weights stay as they are."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from binq.array.packed import Packed
from binq.array.rotation import Rotation
from binq.storage.base import Exact, Storage, Wrapped, to_float32

if TYPE_CHECKING:
    from binq.files.checkpoint import Checkpoint


@dataclass(frozen=True)
class Rotated(Wrapped):
    """The weights of ``inner``, whose rows are in the basis of ``rotation``.

    beside: stored tensors that say nothing more, such as the matrix of the transform
    """

    scheme = "rotated"
    inner: Storage
    rotation: Rotation
    beside: tuple[str, ...] = ()

    @property
    def stored(self) -> tuple[str, ...]:
        return (*self.inner.stored, *self.beside)

    def read_values(
        self, source: "Checkpoint", matrix: int, start: int, stop: int
    ) -> NDArray[np.float32]:
        values = to_float32(self.inner.read_values(source, matrix, start, stop))
        values = np.array(values, np.float32, order="C")
        self.rotation.back(values)
        return values

    def exact_format(self, source: "Checkpoint") -> Exact | None:
        return self._of(self.inner.exact_format(source))

    def near_format(self, source: "Checkpoint") -> Exact | None:
        return self._of(self.inner.near_format(source))

    def _of(self, exact: Exact | None) -> Exact | None:
        if exact is None:
            return None
        return replace(exact, packing=replace(exact.packing, rotation=self.rotation))

    def exact_rows(
        self, source: "Checkpoint", exact: Exact, matrix: int, start: int, stop: int
    ) -> Packed:
        plain = replace(exact, packing=replace(exact.packing, rotation=None))
        packed = self.inner.exact_rows(source, plain, matrix, start, stop)
        packing = replace(packed.packing, rotation=self.rotation)
        return Packed(packing, packed.shape, *packed.parts)
