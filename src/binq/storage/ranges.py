"""Which integers hold the codes of weights that are stored as integers."""


class Ranges:
    """Whether all codes are signed integers of some bits when their zeros are taken off, or
    unsigned ones with zeros of as many bits."""

    def __init__(self, bits: int) -> None:
        self.unsigned = True
        self._bits = bits
        self._first = self._last = 0

    @property
    def signed(self) -> bool:
        """Returns whether codes less their zeros are signed integers, or the negatives of such."""
        return of_bits(self._bits, self._first, self._last)

    @property
    def holds(self) -> bool:
        """Returns whether they are either."""
        return self.signed or self.unsigned

    def look(self, low: int, high: int, least: int, most: int) -> None:
        """Takes codes from low to high with zeros from least to most into account."""
        self._first, self._last = min(self._first, low - most), max(self._last, high - least)
        # Signed codes and their zeros become unsigned ones together.
        first = min(low, 0)
        self.unsigned &= max(high, most) - first < 1 << self._bits and least >= first


def of_bits(bits: int, first: int, last: int) -> bool:
    """Returns whether codes, or their negatives, are signed integers of so many bits."""
    most = 1 << bits - 1
    return -most <= first <= last <= most and last - first < 2 * most
