"""How far packed weights are from the floats they came from, summed up block by block."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binq import _core
from binq.array import QuantizedArray


class Errors:
    """Signal, noise, the largest error, clipped weights and zero scales of one tensor.

    The sums depend on the weights and their order alone, not on how rows were cut in blocks of a
    multiple of 32.
    """

    def __init__(self) -> None:
        self._totals = np.zeros(5)

    def add(self, values: NDArray[Any], packed: QuantizedArray) -> None:
        """Adds a block of rows, of any float dtype, and what became of it."""
        dtype = values.dtype if values.dtype.name in _core.INPUT_TYPES else np.dtype(np.float32)
        values = np.ascontiguousarray(values, dtype)
        for matrix in packed._matrices():
            matrix.measure(
                values.reshape(-1).view(np.uint8),
                _core.INPUT_TYPES[dtype.name],
                values.strides[0],
                self._totals,
            )

    def result(self) -> tuple[float, float, int, int]:
        """Returns SQNR in dB, the largest error, clipped weights and zero scales."""
        signal, noise, worst, clipped, zero_scales = self._totals.tolist()
        decibels = math.inf
        if noise != 0.0:
            ratio = signal / noise
            decibels = 10 * math.log10(ratio) if ratio > 0 else -math.inf
        return decibels, worst, int(clipped), int(zero_scales)
