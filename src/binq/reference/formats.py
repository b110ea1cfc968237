"""The formats: what their codes stand for, and how they lie in memory. A table of its own.

``_native/formats.h`` has the table that kernels read; the tests hold one to the other.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    """One format.

    - layout: ``"planes"`` of bits, ``"nibbles"`` or ``"bytes"``
    - levels: what each stored code stands for, in units of the scale
    - search: how scales are found: ``"two levels"``, ``"ternary"``, or ``"even"``, which are one
      step apart, or ``"levels"``, which are not
    - absmax: the level that method ``"absmax"`` gives the largest weight; negative: whatever its
      sign
    - largest: the largest magnitude of an integer that multiplies a scale
    - int16: the largest integer that stands for an int16 activation. 8191: the sum of four fits
      16 bits. 32639 = 127 · 257: it is 256 · high + low with signed bytes
    - bias: a scale of e8m0 with the exponent e is 2^(e − bias)
    """

    layout: str
    levels: tuple[int, ...]
    search: str
    absmax: int
    largest: int
    int16: int
    bias: int = 127

    @property
    def bits(self) -> int:
        """Returns the bits of a stored code."""
        return (len(self.levels) - 1).bit_length()

    @property
    def ascending(self) -> tuple[int, ...]:
        """Returns the levels in ascending order, each once."""
        return tuple(sorted(set(self.levels)))

    def first(self, symmetric: bool) -> int:
        """Returns what the stored code 0 stands for.

        Where something says where zero lies in a group, codes count from 0, but for two levels.
        """
        return self.levels[0] if symmetric or self.search == "two levels" else 0


# Twice the numbers of FP4, in the order of its codes: 8 is −0.
_FP4 = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)
_IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
FORMATS = {
    "binary": Format("planes", (-1, 1), "two levels", 1, 1, 8191),
    "ternary": Format("planes", (-1, 0, 0, 1), "ternary", 1, 1, 8191),
    "int2": Format("planes", (-2, -1, 0, 1), "even", -2, 3, 8191),
    "int3": Format("planes", tuple(range(-4, 4)), "even", -4, 7, 8191),
    "int4": Format("nibbles", tuple(range(-8, 8)), "even", 7, 15, 32639),
    "int8": Format("bytes", tuple(range(-128, 128)), "even", 127, 255, 32639),
    "mxfp4": Format("nibbles", _FP4, "levels", 12, 12, 32639, 128),
    "iq4nl": Format("nibbles", _IQ4, "levels", -127, 127, 32639),
}
