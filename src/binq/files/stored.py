"""Packed weights as they lie in a file: checked by their headers, read block by block."""

from collections.abc import Callable
from math import prod

import numpy as np
from numpy.typing import NDArray

from binq.array.packed import Packed
from binq.array.packing import Part
from binq.files.dtypes import numpy_dtype
from binq.files.metadata import Description, assemble
from binq.files.tensor_file import TensorFile
from binq.formats.layout import TILE_ROWS

ReadBytes = Callable[[str, int, int], NDArray[np.uint8]]


class StoredPacked:
    """One packed tensor of an open file.

    Raises FormatError where a part is missing or does not fit the description.
    """

    def __init__(self, file: TensorFile, name: str, description: Description) -> None:
        self.name, self.description = name, description
        self._read: ReadBytes = file.read_bytes
        names = description.part_names(name)
        # Arrays of no memory: only types and shapes are looked at.
        headers = {
            part: np.broadcast_to(np.zeros((), numpy_dtype(info.dtype)), info.shape)
            for part in names
            if (info := file.tensors.get(part)) is not None
        }
        whole = assemble(name, description, headers, file.path)
        self.scale_dtype = whole.scales.dtype
        self._parts = [
            Part(part, array.dtype, array.shape)
            for part, array in zip(names, whole._data.parts, strict=True)
        ]

    @property
    def nbytes(self) -> int:
        """Returns the bytes of all parts."""
        return sum(prod(part.shape) * part.dtype.itemsize for part in self._parts)

    def read_rows(self, matrix: int, start: int, stop: int) -> Packed:
        """Returns rows ``[start, stop)`` of one matrix of the stack; start is a multiple of 32."""
        shape = (stop - start, self.description.shape[-1])
        tiles = -(-self.description.shape[-2] // TILE_ROWS)
        first, last = start // TILE_ROWS, -(-stop // TILE_ROWS)
        arrays = []
        for name, dtype, whole in self._parts:
            one = whole[len(self.description.shape) - 1 :]
            nbytes = prod(one) * dtype.itemsize
            at = matrix * tiles
            data = self._read(name, (at + first) * nbytes, (at + last) * nbytes)
            arrays.append(data.view(dtype).reshape(last - first, *one))
        return Packed(self.description.packing, shape, *arrays)
