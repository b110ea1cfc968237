"""The best powers of two as scales: binq.reference.powers, for many groups at once."""

import numpy as np

from binq.methods.levels import nearest_levels
from binq.methods.stored import Floats, lane_sums


def best_powers(w: Floats, h: Floats, levels: tuple[int, ...]) -> Floats:
    """Returns the best scale of each group of weights ``(groups, size)`` with importance h.

    0 for groups in which no weight that is not 0 is of any importance.
    """
    w = np.where(h > 0, w, 0.0)
    nearest = nearest_levels(levels)
    most = 2.0 * max(-levels[0], levels[-1]) * lane_sums(h * np.abs(w))
    scales = np.exp2(np.frexp(np.abs(w).max(axis=1))[1].astype(np.float64))
    best, gains = np.where(most > 0, scales, 0.0), np.zeros(len(w))
    while (left := np.flatnonzero(most * scales > gains)).size:
        some_w, some_h, scale = w[left], h[left], scales[left]
        codes = nearest((1.0 / scale)[:, np.newaxis] * some_w)
        a, b = lane_sums(some_h * some_w * codes), lane_sums(some_h * (codes * codes))
        saved = 2.0 * scale * a - scale * scale * b
        better = saved > gains[left]
        gains[left[better]], best[left[better]] = saved[better], scale[better]
        scales[left] *= 0.5
    return best
