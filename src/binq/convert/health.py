"""Whether weights look like weights: their mean, their size, what of them is not finite.

Weights that were read wrongly show: a zero point that is off by one gives a matrix whose mean lies
0.3 of its deviation from 0, and a broken file is zero throughout more often than a pruned one.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from binq.storage.base import to_float32

# Of a block of rows, about this many weights are looked at, evenly chosen.
_SAMPLE = 1 << 14
_CHANCE = 4  # deviations of a sample's mean


def moments(values: NDArray[Any]) -> NDArray[np.float64]:
    """Returns count, sum and sum of squares of the finite weights in a sample of the rows."""
    return moments_of(values[:: sample_step(values.size)])


def sample_step(size: int) -> int:
    """Returns which rows of a block of ``size`` weights are looked at: every so many."""
    return max(1, size // _SAMPLE)


def moments_of(sample: NDArray[Any]) -> NDArray[np.float64]:
    """Returns :func:`moments` of rows that are a sample already."""
    sample = to_float32(np.ascontiguousarray(sample)).reshape(-1)
    with np.errstate(over="ignore", invalid="ignore"):
        total = sample.sum(dtype=np.float64)
        if not np.isfinite(total):
            sample = sample[np.isfinite(sample)]
            total = sample.sum(dtype=np.float64)
        # Not a dot product: that would wake the threads of numpy's matrix library.
        squares = np.square(sample, dtype=np.float64).sum()
        return np.array([sample.size, total, squares])


class Health:
    """Collects what blocks of rows say of each matrix of a tensor."""

    def __init__(self, matrices: int) -> None:
        self._moments = np.zeros((matrices, 3))
        self._signal = np.zeros(matrices)
        self.nonfinite = 0

    def add(self, matrix: int, found: NDArray[np.float64], signal: float, nonfinite: int) -> None:
        """Adds the moments of a block, its sum of squares, and its count of inf and NaN."""
        self._moments[matrix] += found
        self._signal[matrix] += signal
        self.nonfinite += nonfinite

    @property
    def zeros(self) -> int:
        """Returns how many matrices are 0 throughout."""
        return int(np.count_nonzero(self._signal == 0))

    @property
    def mean(self) -> float:
        """Returns the mean that is farthest from 0 of all matrices, in standard deviations.

        Infinity for a matrix of one value. A mean that a sample of this size has by chance counts
        as 0.
        """
        count, total, squares = self._moments.T
        with np.errstate(all="ignore"):
            mean = total / count
            means = np.abs(mean) / np.sqrt(np.maximum(squares / count - mean**2, 0))
        means = np.where(means > _CHANCE / np.sqrt(np.maximum(count, 1)), means, 0)
        return float(means.max(initial=0.0))
