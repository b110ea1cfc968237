"""What a format is: its codes, its levels, and how they lie in memory."""

from abc import ABC, abstractmethod
from math import prod
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from binq import _core, _memory
from binq.formats.layout import Geometry
from binq.formats.zeros import CODE


class Format(ABC):
    """One way to store weights with few bits. Each format has a single instance.

    All methods take arrays with any number of leading axes: a stack of matrices is stored as the
    concatenation of its matrices.
    """

    name: ClassVar[str]
    bits: ClassVar[int]
    """Bits of a stored code."""
    methods: ClassVar[tuple[str, ...]]
    """The quantization methods that the format has, the default first."""
    zero_kinds: ClassVar[tuple[str, ...]] = ()
    """What symmetric=False may mean (:mod:`binq.formats.zeros`), the default first."""
    packed_row_axis: ClassVar[int] = -1
    """The axis of the packed codes that counts the 32 rows of a tile."""

    @property
    def native(self) -> int:
        """Returns the number by which compiled code knows the format."""
        return _core.FORMATS[self.name]

    @abstractmethod
    def codes(self, zero: str) -> tuple[int, ...]:
        """Returns the codes that a weight can have, ascending, with that kind of zero."""

    @abstractmethod
    def packed_shape(self, geometry: Geometry) -> tuple[int, ...]:
        """Returns the shape of the packed codes of one matrix."""

    def pack(self, codes: NDArray[np.int8], geometry: Geometry, zero: str) -> NDArray[np.uint8]:
        """Returns the packed form of int8 codes ``(..., out_features, in_features)``.

        The codes are trusted to be those of :meth:`codes`. Padding is zero bits.
        """
        lead = codes.shape[:-2]
        shape = self.packed_shape(geometry)
        packed = _memory.zeros((prod(lead), *shape), np.uint8)
        if packed.size:
            matrices = np.ascontiguousarray(codes).reshape(-1, *codes.shape[-2:])
            for matrix, target in zip(matrices, packed, strict=True):
                _core.pack(
                    self.native, matrix, target.reshape(-1), geometry.kernel_group, zero != CODE
                )
        return packed.reshape(*lead, *shape)
