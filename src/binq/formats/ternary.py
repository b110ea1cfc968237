"""The ternary format: two bit planes a weight, levels −scale, 0, +scale.

Plane 0 has a bit where the code is >= 0 and plane 1 where it is > 0, each laid out as the binary
format's codes: a ternary product is half the sum of two binary ones.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from binq.formats.base import Format
from binq.formats.layout import TILE_ROWS, Geometry

_MESSAGE = "ternary weights have no zero points: symmetric must be True"


class Ternary(Format):
    """−1, 0 or +1 times a scale. There is no asymmetric form."""

    name = "ternary"
    bits = 2
    methods = ("mse", "absmean")
    has_asymmetric = False

    def code_levels(self, symmetric: bool) -> tuple[int, ...]:
        return (-1, 0, 1)

    def packed_shape(self, geometry: Geometry) -> tuple[int, ...]:
        return (geometry.tiles, geometry.padded_in // 8, 2, TILE_ROWS)

    def zero_points_shape(self, geometry: Geometry) -> tuple[int, ...]:
        raise ValueError(_MESSAGE)

    def zero_points_dtype(self, scales_dtype: np.dtype[Any]) -> np.dtype[Any]:
        raise ValueError(_MESSAGE)

    def pack_zero_points(self, values: NDArray[Any], geometry: Geometry) -> NDArray[Any]:
        raise ValueError(_MESSAGE)

    def unpack_zero_points(self, stored: NDArray[Any], geometry: Geometry) -> NDArray[Any]:
        raise ValueError(_MESSAGE)


TERNARY = Ternary()
