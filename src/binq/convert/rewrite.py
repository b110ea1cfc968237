"""Kept tensors whose bytes cannot be copied: types that the output does not have.

They become float16 where that is nearer to them, and bfloat16 where float16 overflows, or loses
small numbers. Never float32, which would be several times the size of what they were.
"""

import math
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

HALF, BRAIN = np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)


class Rounding:
    """Rounds blocks of float32 to float16 and knows how far both 16-bit types are from them."""

    def __init__(self) -> None:
        self.signal = 0.0
        self._noise = {HALF: 0.0, BRAIN: 0.0}
        self._worst = {HALF: 0.0, BRAIN: 0.0}

    def add(self, values: NDArray[np.float32]) -> NDArray[np.float16]:
        """Returns values as float16, and counts the errors of both types."""
        half = round_to(values, HALF)
        self.signal += _energy(values)
        for dtype, rounded in ((HALF, half), (BRAIN, round_to(values, BRAIN))):
            error = rounded.astype(np.float32) - values
            self._noise[dtype] += _energy(error)
            self._worst[dtype] = max(self._worst[dtype], float(np.abs(error).max(initial=0.0)))
        return half

    @property
    def dtype(self) -> np.dtype[Any]:
        """Returns the nearer of the two types."""
        return BRAIN if self._noise[BRAIN] < self._noise[HALF] else HALF

    @property
    def sqnr_db(self) -> float:
        noise = self._noise[self.dtype]
        return 10 * math.log10(self.signal / noise) if noise and self.signal else math.inf

    @property
    def max_error(self) -> float:
        return self._worst[self.dtype]


def round_to(values: NDArray[np.float32], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Returns values in another float type, to nearest; too large ones become inf."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return values.astype(dtype)


def _energy(values: NDArray[np.float32]) -> float:
    with np.errstate(all="ignore"):
        return float(np.square(values, dtype=np.float64).sum())
