"""Scales that are powers of two: the rule of OCP's microscaling formats, and the best of all."""

import numpy as np

from binq.reference.search import Floats, lane_sum, nearest_level


def power_of_largest(amax: float, level: int) -> float:
    """Returns 2^(floor(log2 amax) − floor(log2 level)): the largest weight is near that level."""
    return 2.0 ** (floor_log2(amax) - floor_log2(level))


def floor_log2(value: float) -> int:
    """Returns the exponent of a positive number."""
    return int(np.frexp(value)[1]) - 1


def best_power(w: Floats, levels: tuple[int, ...], importance: Floats | None = None) -> float:
    """Returns the power of two with the least squared error as a scale, the largest of such.

    The codes q nearest to w / s (halfway the even one where levels are one step apart, else the
    lower one), with A = sum(h·w·q) and B = sum(h·q²), take 2·s·A − s²·B off sum(h·w²). That is at
    most 2·s·L·sum(h·|w|), L being the largest magnitude of a level: powers are tried downwards,
    from the first above all weights, until that bound is no more than what the best has taken off.
    """
    h = np.ones_like(w) if importance is None else importance
    w = np.where(h > 0, w, 0.0)
    table = np.array(levels, np.float64)
    even = len(levels) == levels[-1] - levels[0] + 1
    most = 2.0 * np.abs(table).max() * lane_sum(h * np.abs(w))
    scale = best = 2.0 ** (floor_log2(float(np.abs(w).max())) + 1)
    gain = 0.0
    while most * scale > gain:
        x = (1.0 / scale) * w
        codes = np.rint(np.clip(x, levels[0], levels[-1])) if even else nearest_level(x, table)
        a, b = lane_sum(h * w * codes), lane_sum(h * (codes * codes))
        saved = 2.0 * scale * a - scale * scale * b
        if saved > gain:
            gain, best = saved, scale
        scale *= 0.5
    return best
