"""Which integers hold the codes of weights that are stored as integers."""


class Ranges:
    """Whether all codes are signed integers of some bits when their zeros are taken off, or
    unsigned ones with zeros of as many bits."""

    def __init__(self, bits: int) -> None:
        self.signed = self.unsigned = True
        self._most = (1 << bits) - 1
        self._half = 1 << bits - 1

    @property
    def holds(self) -> bool:
        """Returns whether they are either."""
        return self.signed or self.unsigned

    def look(self, low: int, high: int, least: int, most: int) -> None:
        """Takes codes from low to high with zeros from least to most into account."""
        self.signed &= low - most >= -self._half and high - least < self._half
        # Signed codes and their zeros become unsigned ones together.
        first = min(low, 0)
        self.unsigned &= max(high, most) - first <= self._most and least >= first


def of_bits(bits: int, first: int, last: int) -> bool:
    """Returns whether codes, or their negatives, are signed integers of so many bits."""
    most = 1 << bits - 1
    return -most <= first <= last <= most and last - first < 2 * most
