"""The binary format: one bit a weight, two levels a group.

Weight = scale · c with c in {−1, +1}; asymmetric: scale · c + midpoint. Bit i of the byte
``packed[tile, k // 8, row]`` is the code of k + i: 1 is +1, 0 is −1.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from binq.formats.base import Format
from binq.formats.layout import TILE_ROWS, Geometry, tile_rows, untile_rows


class Binary(Format):
    """±1 times a scale; asymmetric: any two levels, stored as half distance and midpoint."""

    name = "binary"
    bits = 1
    methods = ("mse", "absmean")

    def code_levels(self, symmetric: bool) -> tuple[int, ...]:
        return (-1, 1)

    def packed_shape(self, geometry: Geometry) -> tuple[int, ...]:
        return (geometry.tiles, geometry.padded_in // 8, TILE_ROWS)

    def zero_points_shape(self, geometry: Geometry) -> tuple[int, ...]:
        return geometry.scales_shape

    def zero_points_dtype(self, scales_dtype: np.dtype[Any]) -> np.dtype[Any]:
        return scales_dtype

    def pack_zero_points(self, values: NDArray[Any], geometry: Geometry) -> NDArray[Any]:
        return tile_rows(values, geometry)

    def unpack_zero_points(self, stored: NDArray[Any], geometry: Geometry) -> NDArray[Any]:
        return untile_rows(stored, geometry)


BINARY = Binary()
