"""What a format is: its codes, its levels, and how they lie in memory."""

from abc import ABC, abstractmethod
from math import prod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from binq import _core, _memory
from binq.formats.layout import Geometry


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
    has_asymmetric: ClassVar[bool] = True
    """Whether symmetric=False exists."""
    integer_zero_points: ClassVar[bool] = False
    """Whether zero points are integers in units of codes, not floats in units of weights."""
    packed_row_axis: ClassVar[int] = -1
    """The axis of the packed codes that counts the 32 rows of a tile."""

    @property
    def native(self) -> int:
        """Returns the number by which compiled code knows the format."""
        return _core.FORMATS[self.name]

    @abstractmethod
    def code_levels(self, symmetric: bool) -> tuple[int, ...]:
        """Returns the codes that a weight can have, ascending."""

    @abstractmethod
    def packed_shape(self, geometry: Geometry) -> tuple[int, ...]:
        """Returns the shape of the packed codes of one matrix."""

    @abstractmethod
    def zero_points_shape(self, geometry: Geometry) -> tuple[int, ...]:
        """Returns the shape of the stored zero points of one matrix (symmetric=False)."""

    @abstractmethod
    def zero_points_dtype(self, scales_dtype: np.dtype[Any]) -> np.dtype[Any]:
        """Returns the dtype of the stored zero points (symmetric=False)."""

    @abstractmethod
    def pack_zero_points(self, values: NDArray[Any], geometry: Geometry) -> NDArray[Any]:
        """Returns zero points ``(..., out_features, scale_groups)`` as they are stored."""

    @abstractmethod
    def unpack_zero_points(self, stored: NDArray[Any], geometry: Geometry) -> NDArray[Any]:
        """Returns stored zero points as ``(..., out_features, scale_groups)``."""

    def pack(
        self, codes: NDArray[np.int8], geometry: Geometry, symmetric: bool
    ) -> NDArray[np.uint8]:
        """Returns the packed form of int8 codes ``(..., out_features, in_features)``.

        The codes are trusted to be ``code_levels``. Padding is zero bits.
        """
        lead = codes.shape[:-2]
        shape = self.packed_shape(geometry)
        packed = _memory.zeros((prod(lead), *shape), np.uint8)
        if packed.size:
            matrices = np.ascontiguousarray(codes).reshape(-1, *codes.shape[-2:])
            for matrix, target in zip(matrices, packed, strict=True):
                _core.pack(
                    self.native, matrix, target.reshape(-1), geometry.kernel_group, symmetric
                )
        return packed.reshape(*lead, *shape)
