"""The ternary format: two bit planes a weight, levels −scale, 0, +scale.

Plane 0 has a bit where the code is >= 0 and plane 1 where it is > 0, each laid out as the binary
format's codes: a ternary product is half the sum of two binary ones.
"""

from binq.formats.base import Format
from binq.formats.layout import TILE_ROWS, Geometry


class Ternary(Format):
    """−1, 0 or +1 times a scale. There is no asymmetric form."""

    name = "ternary"
    bits = 2
    methods = ("mse", "absmean")

    def codes(self, zero: str) -> tuple[int, ...]:
        return (-1, 0, 1)

    def packed_shape(self, geometry: Geometry) -> tuple[int, ...]:
        return (geometry.tiles, geometry.padded_in // 8, 2, TILE_ROWS)


TERNARY = Ternary()
