"""From the best scales of groups to those that are stored: binq.reference.rounding, vectorised."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binq.formats.scales import BFLOAT16, FLOAT16, scale_values
from binq.methods.stored import LARGEST_LEVEL, SMALLEST_SCALE, Floats, lane_sums, round_to


def fit_to_storage(
    w: Floats,
    h: Floats,
    scales: Floats,
    lows: NDArray[np.int16],
    span: int,
    dtype: np.dtype[Any],
) -> Floats:
    """Returns scales whose codes have no common divisor, the better of two of a 16-bit dtype.

    - w, h: weights and importance ``(groups, size)``; w is 0 where h is
    - scales: 0 or more; lows: the lowest code of each group, span less than the highest
    """
    used = np.flatnonzero(scales > 0)
    result = scales.copy()
    w, h, s = w[used], h[used], scales[used]
    low = lows[used, np.newaxis].astype(np.float64)
    codes = np.rint(np.clip(w / s[:, np.newaxis], low, low + span)).astype(np.int64)
    s = s * np.maximum(np.gcd.reduce(np.abs(codes), axis=1), 1)

    def nearest(x: Floats) -> Floats:
        return np.rint(np.clip(x, low, low + span))

    result[used] = better_of_two(w, h, s, nearest, dtype)
    return result


def better_of_two(
    w: Floats,
    h: Floats,
    scales: Floats,
    nearest: Callable[[Floats], Floats],
    dtype: np.dtype[Any],
) -> Floats:
    """Returns of the two numbers of a dtype of 16 bits around each scale that with less error.

    nearest: the codes of all groups from weights divided by scales. Scales that the dtype does not
    hold, or holds exactly, and those of other dtypes stay as they are.
    """
    if dtype not in (FLOAT16, BFLOAT16):
        return scales
    near = round_to(scales, dtype)
    nears = scale_values(near).astype(np.float64)
    bits = near.view(np.uint16)
    other = np.where(nears < scales, bits + np.uint16(1), bits - np.uint16(1)).view(dtype)
    others = scale_values(other).astype(np.float64)
    held = (nears != scales) & (nears >= SMALLEST_SCALE[dtype]) & (nears <= LARGEST_LEVEL)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        better = _saved(w, h, others, nearest) > _saved(w, h, nears, nearest)
    return np.where(held, np.where(better, others, nears), scales)


def _saved(w: Floats, h: Floats, scales: Floats, nearest: Callable[[Floats], Floats]) -> Floats:
    """Returns what the codes under these scales take off the sum of squares."""
    codes = nearest((1.0 / scales)[:, np.newaxis] * w)
    a, b = lane_sums(h * w * codes), lane_sums(h * (codes * codes))
    found: Floats = 2.0 * scales * a - scales * scales * b
    return found


def primitive_lines(
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
