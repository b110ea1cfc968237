"""How far packed weights are from the floats they came from, summed up block by block."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binq import _core
from binq._memory import as_bytes
from binq.array.packed import Packed
from binq.formats.layout import TILE_ROWS


def tile_errors(values: NDArray[Any], packed: Packed) -> NDArray[np.float64]:
    """Returns signal, noise, largest error, clipped weights and zero scales of each tile.

    ``values`` are the rows, of any float dtype, that became ``packed``.
    """
    if packed.packing.rotation is not None:
        return _errors_of_floats(values.astype(np.float32), packed)
    dtype = values.dtype if values.dtype.name in _core.INPUT_TYPES else np.dtype(np.float32)
    values = np.ascontiguousarray(values, dtype)
    tiles = np.zeros((-(-len(values) // TILE_ROWS), 5))
    (matrix,) = packed.matrices() or (None,)
    if matrix is not None:
        matrix.measure(
            as_bytes(values),
            _core.INPUT_TYPES[dtype.name],
            values.strides[0],
            tiles,
        )
    return tiles


def stored_errors(rows: _core.StoredRows, packed: Packed) -> NDArray[np.float64]:
    """Returns what :func:`tile_errors` does, of rows as a file stores them."""
    tiles = np.zeros((-(-rows.shape[0] // TILE_ROWS), 5))
    (matrix,) = packed.matrices()
    rows.measure(matrix, tiles)
    return tiles


def _errors_of_floats(values: NDArray[np.float32], packed: Packed) -> NDArray[np.float64]:
    """Returns what :func:`tile_errors` does, of weights in another basis, where none is clipped."""
    floats = np.empty(packed.shape, np.float32)
    packed.dequantize(floats)
    errors = floats.astype(np.float64) - values
    tiles = np.zeros((-(-len(values) // TILE_ROWS), 5))
    for number, tile in enumerate(tiles):
        rows = slice(number * TILE_ROWS, (number + 1) * TILE_ROWS)
        tile[0] = np.square(values[rows], dtype=np.float64).sum()
        tile[1] = np.square(errors[rows]).sum()
        tile[2] = np.abs(errors[rows]).max(initial=0.0)
        count = len(values[rows])
        tile[4] = np.count_nonzero(packed.scales[number].T[:count] == 0)
    return tiles


class Errors:
    """Signal, noise, the largest error, clipped weights and zero scales of one tensor.

    The sums depend on the weights and their order alone, not on how rows were cut in blocks of a
    multiple of 32.
    """

    def __init__(self) -> None:
        self._totals = np.zeros(5)

    def add(self, tiles: NDArray[np.float64]) -> None:
        """Adds what :func:`tile_errors` found in the next block of rows, tile by tile."""
        sums = np.add.accumulate(np.vstack([self._totals, tiles]))[-1]
        worst = max(self._totals[2], tiles[:, 2].max(initial=0.0))
        self._totals = sums
        self._totals[2] = worst

    @property
    def signal(self) -> float:
        """Returns the sum of the squares of the floats."""
        return float(self._totals[0])

    def result(self) -> tuple[float, float, int, int]:
        """Returns SQNR in dB, the largest error, clipped weights and zero scales."""
        signal, noise, worst, clipped, zero_scales = self._totals.tolist()
        decibels = math.inf
        if noise != 0.0:
            ratio = signal / noise
            decibels = 10 * math.log10(ratio) if ratio > 0 else -math.inf
        return decibels, worst, int(clipped), int(zero_scales)
