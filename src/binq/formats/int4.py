"""The int4 format: a nibble a weight, 16 levels a group.

Weight = scale · code with codes −8..7; asymmetric: scale · (code − zero point), both 0..15. Byte j
of ``packed[tile, k // 8, row]`` holds the code of k + j low and of k + 4 + j high; a symmetric
code is stored plus 8.
"""

from binq.formats.base import Format
from binq.formats.layout import TILE_ROWS, Geometry
from binq.formats.zeros import CODE


class Int4(Format):
    """16 evenly spaced levels; asymmetric: with an integer zero point a group."""

    name = "int4"
    bits = 4
    methods = ("mse", "absmax")
    zero_kinds = (CODE,)
    packed_row_axis = -2

    def codes(self, zero: str) -> tuple[int, ...]:
        return tuple(range(16)) if zero == CODE else tuple(range(-8, 8))

    def packed_shape(self, geometry: Geometry) -> tuple[int, ...]:
        return (geometry.tiles, geometry.padded_in // 8, TILE_ROWS, 4)


INT4 = Int4()
