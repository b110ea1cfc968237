"""The binary format: one bit a weight, two levels a group.

Weight = scale · c with c in {−1, +1}; asymmetric: scale · c + offset. Bit i of the byte
``packed[tile, k // 8, row]`` is the code of k + i: 1 is +1, 0 is −1.
"""

from binq.formats.base import Format
from binq.formats.layout import TILE_ROWS, Geometry
from binq.formats.zeros import OFFSET


class Binary(Format):
    """±1 times a scale; asymmetric: any two levels, as half their distance and the middle."""

    name = "binary"
    bits = 1
    methods = ("mse", "absmean")
    zero_kinds = (OFFSET,)

    def codes(self, zero: str) -> tuple[int, ...]:
        return (-1, 1)

    def packed_shape(self, geometry: Geometry) -> tuple[int, ...]:
        return (geometry.tiles, geometry.padded_in // 8, TILE_ROWS)


BINARY = Binary()
