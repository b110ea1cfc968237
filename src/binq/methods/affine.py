"""Scales and offsets of codes from 0 where the error of each input has an importance of its own.

The rule is binq.reference.affine.best_affine, for many groups at once.
"""

import numpy as np
from numpy.typing import NDArray

from binq.methods.stored import Floats, lane_sums

# 0: the smallest gap between two weights.
_STARTS = (0.0, 1.0, 0.85, 0.7)
_ROUNDS = 8


def best_affine(w: Floats, h: Floats, top: int) -> tuple[Floats, Floats]:
    """Returns a scale and an offset of each group of weights ``(rows, size)`` with importance h.

    Codes are 0 to top.

    h, of the shape of w, has a positive number in each row, and 0 for what is only padding.
    """
    matters = h > 0
    low = np.where(matters, w, np.inf).min(axis=1)
    high = np.where(matters, w, -np.inf).max(axis=1)
    count, total = lane_sums(h), lane_sums(h * w)
    step = (high - low) / top
    gain, best_scale, best_offset = np.zeros(len(w)), step.copy(), low.copy()
    gap = _smallest_gaps(w, matters)
    for start in _STARTS:
        scale = start * step
        offset = (low + high) * 0.5 - 0.5 * top * scale
        left = np.flatnonzero(high > low)
        if start == 0:
            scale, offset = gap.copy(), low.copy()
            left = left[(high - low <= (top + 0.5) * gap)[left]]
        for _ in range(_ROUNDS):
            if not left.size:
                break
            some_h = h[left]
            steps = (w[left] - offset[left, np.newaxis]) / scale[left, np.newaxis]
            codes = np.rint(np.clip(steps, 0.0, top))
            sum_q, sum_qq = lane_sums(some_h * codes), lane_sums(some_h * (codes * codes))
            some_count, some_total = count[left], total[left]
            rise = some_count * lane_sums(some_h * w[left] * codes) - sum_q * some_total
            spread = some_count * sum_qq - sum_q * sum_q
            fits = (rise > 0) & (spread > 0)
            left, rise, spread, sum_q = left[fits], rise[fits], spread[fits], sum_q[fits]
            next_scale = rise / spread
            next_offset = (total[left] - next_scale * sum_q) / count[left]
            gained = rise * rise / (count[left] * spread)
            better = gained > gain[left]
            at = left[better]
            gain[at], best_scale[at] = gained[better], next_scale[better]
            best_offset[at] = next_offset[better]
            moved = (next_scale != scale[left]) | (next_offset != offset[left])
            scale[left], offset[left] = next_scale, next_offset
            left = left[moved]
    best_scale = np.where(high > low, best_scale, 0.0)
    return _primitive_lines(w, matters, best_scale, best_offset, top)


def _smallest_gaps(w: Floats, matters: NDArray[np.bool_]) -> Floats:
    """Returns the smallest gap between two different weights of each row."""
    if w.shape[1] < 2:
        return np.full(len(w), np.inf)
    with np.errstate(invalid="ignore"):
        gaps = np.diff(np.sort(np.where(matters, w, np.inf), axis=1))
    found: Floats = np.where(gaps > 0, gaps, np.inf).min(axis=1)
    return found


def _primitive_lines(
    w: Floats, matters: NDArray[np.bool_], scales: Floats, offsets: Floats, top: int
) -> tuple[Floats, Floats]:
    """Returns scales and offsets whose codes, from 0 to top, have no common divisor."""
    used = np.flatnonzero(scales > 0)
    s, o = scales[used], offsets[used]
    steps = (w[used] - o[:, np.newaxis]) / s[:, np.newaxis]
    codes = np.rint(np.clip(steps, 0, top)).astype(np.int64)
    base = np.where(matters[used], codes, top).min(axis=1)
    apart = np.where(matters[used], codes - base[:, np.newaxis], 0)
    divisor = np.maximum(np.gcd.reduce(apart, axis=1), 1)
    scales, offsets = scales.copy(), offsets.copy()
    offsets[used] = np.where(divisor > 1, o + s * base, o)
    scales[used] = s * divisor
    return scales, offsets
