"""The formats: what their codes stand for, and how they lie in memory. A table of its own.

``_native/formats.h`` has the table that kernels read; the tests hold one to the other.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    """One format.

    - layout: ``"planes"`` of bits, or ``"nibbles"``
    - levels: what each stored code stands for, in units of the scale
    - search: how scales are found: ``"two levels"``, ``"ternary"``, or ``"even"``, which are one
      step apart
    - absmax: the level that method ``"absmax"`` gives the largest weight; negative: whatever its
      sign
    - largest: the largest magnitude of an integer that multiplies a scale
    - int16: the largest integer that stands for an int16 activation. 8191: the sum of four fits
      16 bits. 32639 = 127 · 257: it is 256 · high + low with signed bytes
    """

    layout: str
    levels: tuple[int, ...]
    search: str
    absmax: int
    largest: int
    int16: int

    @property
    def bits(self) -> int:
        """Returns the bits of a stored code."""
        return (len(self.levels) - 1).bit_length()

    def first(self, symmetric: bool) -> int:
        """Returns what the stored code 0 stands for.

        Where something says where zero lies in a group, codes count from 0, but for two levels.
        """
        return self.levels[0] if symmetric or self.search == "two levels" else 0


FORMATS = {
    "binary": Format("planes", (-1, 1), "two levels", 1, 1, 8191),
    "ternary": Format("planes", (-1, 0, 0, 1), "ternary", 1, 1, 8191),
    "int2": Format("planes", (-2, -1, 0, 1), "even", -2, 3, 32639),
    "int3": Format("planes", tuple(range(-4, 4)), "even", -4, 7, 8191),
    "int4": Format("nibbles", tuple(range(-8, 8)), "even", 7, 15, 32639),
}
