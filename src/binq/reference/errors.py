"""How far packed weights are from the floats they came from."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from binq.reference.formats import FORMATS
from binq.reference.layout import untile_scales
from binq.reference.product import dequantize
from binq.reference.scales import scale_values


def measure(
    w: NDArray[Any],
    packed: NDArray[np.uint8],
    scales: NDArray[Any],
    zero_points: NDArray[Any] | None,
    *,
    format: str,
    group_size: int | None,
) -> tuple[float, float, float, int, int]:
    """Returns signal, noise, the largest error, clipped weights and scales that are 0.

    With ``e = w - dequantize(packed)``, both float32: signal is ``sum(w**2)``, noise
    ``sum(e**2)``. Clipped, in 16 levels one step apart only, are the weights with
    ``|e| > 0.5000001 |scale|``: farther from their level than rounding brings them.

    Sums are in float64: 8 of each row, column k in number k mod 8, folded to one; these added up
    from the first row of a tile to the last, and the tiles likewise.
    """
    w = w.astype(np.float32)
    error = np.abs(
        w
        - dequantize(
            packed, scales, zero_points, format=format, shape=w.shape, group_size=group_size
        )
    )
    row_scales = np.abs(scale_values(untile_scales(scales, w.shape[0]), FORMATS[format].bias))
    clipped = 0
    if FORMATS[format].search == "even" and FORMATS[format].bits == 4:
        limit = row_scales * np.float32(0.5000001)
        size = w.shape[1] if group_size is None else group_size
        clipped = int((error > np.repeat(limit, size, axis=1)[:, : w.shape[1]]).sum())
    return (
        ordered_sum(square_sums(w)),
        ordered_sum(square_sums(error)),
        float(error.max(initial=0.0)),
        clipped,
        int((row_scales == 0).sum()),
    )


def square_sums(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Returns the sum of squares of each row, in 8 sums that are folded to one."""
    rows, columns = values.shape
    padded = np.zeros((rows, -(-columns // 8) * 8))
    padded[:, :columns] = values
    lanes = np.zeros((rows, 8))
    for at in range(0, padded.shape[1], 8):
        lanes += padded[:, at : at + 8] ** 2
    fours = lanes[:, :4] + lanes[:, 4:]
    twos = fours[:, :2] + fours[:, 2:]
    return twos[:, 0] + twos[:, 1]


def ordered_sum(sums: NDArray[np.float64]) -> float:
    """Returns the sum over rows: in order within tiles of 32, and in order over these."""
    total = 0.0
    for start in range(0, len(sums), 32):
        tile = 0.0
        for value in sums[start : start + 32]:
            tile += float(value)
        total += tile
    return total
