"""The int4 format: a nibble a weight, 16 levels a group.

Weight = scale · code with codes −8..7; asymmetric: scale · (code − zero point), both 0..15. Byte j
of ``packed[tile, k // 8, row]`` holds the code of k + j low and of k + 4 + j high; a symmetric
code is stored plus 8.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from binq.formats.base import Format
from binq.formats.layout import TILE_ROWS, Geometry, tile_rows, untile_rows


class Int4(Format):
    """16 evenly spaced levels; asymmetric: with an integer zero point a group."""

    name = "int4"
    bits = 4
    methods = ("mse", "absmax")
    integer_zero_points = True
    packed_row_axis = -2

    def code_levels(self, symmetric: bool) -> tuple[int, ...]:
        return tuple(range(-8, 8)) if symmetric else tuple(range(16))

    def packed_shape(self, geometry: Geometry) -> tuple[int, ...]:
        return (geometry.tiles, geometry.padded_in // 8, TILE_ROWS, 4)

    def zero_points_shape(self, geometry: Geometry) -> tuple[int, ...]:
        return (geometry.tiles, geometry.scale_groups, TILE_ROWS // 2)

    def zero_points_dtype(self, scales_dtype: np.dtype[Any]) -> np.dtype[Any]:
        return np.dtype(np.uint8)

    def pack_zero_points(self, values: NDArray[Any], geometry: Geometry) -> NDArray[Any]:
        tiled = tile_rows(values.astype(np.uint8), geometry)
        half = TILE_ROWS // 2
        packed: NDArray[np.uint8] = tiled[..., :half] | tiled[..., half:] << np.uint8(4)
        return packed

    def unpack_zero_points(self, stored: NDArray[Any], geometry: Geometry) -> NDArray[Any]:
        tiled = np.concatenate((stored & 15, stored >> 4), axis=-1)
        return untile_rows(tiled, geometry)


INT4 = Int4()
