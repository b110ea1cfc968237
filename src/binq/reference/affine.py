"""Codes from 0 with an offset a group: weight = scale · code + offset."""

import numpy as np
from numpy.typing import NDArray

from binq.reference.rounding import primitive_line
from binq.reference.search import Floats, lane_sum

STARTS = (1.0, 0.85, 0.7)
ROUNDS = 8


def absmax_affine(w: Floats, top: int) -> tuple[float, float]:
    """Returns (max − min) / top and min, top being the highest code."""
    return (float(w.max()) - float(w.min())) / top, float(w.min())


def best_affine(w: Floats, top: int, importance: Floats | None = None) -> tuple[float, float]:
    """Returns a scale and an offset of small squared error for codes 0 to top.

    Codes and line in alternation: the codes nearest to the weights under a line, then the line of
    least squares through these codes, up to 8 times; from the line from the smallest to the largest
    weight, and from lines of 0.85 and 0.7 of its slope about its middle. Before these comes the
    line from the smallest weight whose slope is the smallest gap between two weights, where the
    levels then span them: weights that lie on such levels come back exactly. Of all lines found the
    best is taken: within some per cent of the least error of all, which is not searched for.

    With sums over the weights of a group, each times its importance h (1 where none is given), the
    line through codes q has the slope (H·Σhwq − Σhq·Σhw) / (H·Σhq² − (Σhq)²), where H = Σh, and
    removes the square of that numerator over H times the denominator from the error.
    """
    h = np.ones_like(w) if importance is None else importance
    matters = h > 0
    low, high = float(w[matters].min()), float(w[matters].max())
    if high <= low:
        return 0.0, low
    count, total = lane_sum(h), lane_sum(h * w)
    best = (0.0, (high - low) / top, low)
    lines = [(shrink * ((high - low) / top), (low + high) * 0.5) for shrink in STARTS]
    starts = [(scale, middle - 0.5 * top * scale) for scale, middle in lines]
    gaps = np.diff(np.sort(w[matters]))
    gap = float(gaps[gaps > 0].min())
    if high - low <= (top + 0.5) * gap:
        starts.insert(0, (gap, low))
    for scale, offset in starts:
        for _ in range(ROUNDS):
            codes: NDArray[np.float64] = np.rint(np.clip((w - offset) / scale, 0.0, top))
            sum_q, sum_qq = lane_sum(h * codes), lane_sum(h * (codes * codes))
            rise = count * lane_sum(h * w * codes) - sum_q * total
            spread = count * sum_qq - sum_q * sum_q
            if not (rise > 0 and spread > 0):
                break
            before = scale, offset
            scale = rise / spread
            offset = (total - scale * sum_q) / count
            gain = rise * rise / (count * spread)
            if gain > best[0]:
                best = (gain, scale, offset)
            if before == (scale, offset):
                break
    return primitive_line(w[matters], best[1], best[2], top)
