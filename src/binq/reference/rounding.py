"""From the best scale of a group to the one that is stored."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from binq.reference.scales import SMALLEST_SCALE, next_scale, rounded_scale
from binq.reference.search import Floats, lane_sum


def primitive_scale(w: Floats, scale: float, lowest: int, highest: int) -> float:
    """Returns the scale whose codes have no common divisor, for the same weights.

    Weights that are multiples of one number have many best scales: for ones, 1/8 with the codes 8
    is as good as 1 with the codes 1, but only 1 is exact in float16.
    """
    codes = np.rint(np.clip(w / scale, lowest, highest)).astype(np.int64)
    return scale * max(int(np.gcd.reduce(np.abs(codes))), 1)


def primitive_line(w: Floats, scale: float, offset: float, top: int) -> tuple[float, float]:
    """Returns scale and offset whose codes, from 0 on, have no common divisor; codes are 0 to top.

    They stay as they are where the divisor is 1 already.
    """
    codes: NDArray[np.int64] = np.rint(np.clip((w - offset) / scale, 0, top)).astype(np.int64)
    base = int(codes.min())
    divisor = int(np.gcd.reduce(codes - base))
    return (scale * divisor, offset + scale * base) if divisor > 1 else (scale, offset)


def better_neighbour(
    w: Floats,
    scale: float,
    lowest: int,
    highest: int,
    scale_dtype: str,
    importance: Floats | None = None,
) -> float:
    """Returns that of the two numbers of a type around a positive scale with the smaller error.

    The nearer one where they are equal, or where a type of 16 bits does not hold the scale; a
    scale of float32 as it is.
    """
    return better_of_two(
        w, scale, lambda x: np.rint(np.clip(x, lowest, highest)), scale_dtype, importance
    )


def better_of_two(
    w: Floats,
    scale: float,
    nearest: Callable[[Floats], Floats],
    scale_dtype: str,
    importance: Floats | None,
) -> float:
    """Returns :func:`better_neighbour` with whatever codes are nearest to w / scale."""
    if scale_dtype == "float32":
        return scale
    near = rounded_scale(scale, scale_dtype)
    if near == scale or not SMALLEST_SCALE[scale_dtype] <= near < np.inf:
        return scale
    other = next_scale(near, scale, scale_dtype)
    h = np.ones_like(w) if importance is None else importance

    def saved(stored: float) -> float:
        """Returns what the codes under this scale take off the sum of squares."""
        codes = nearest((1.0 / stored) * w)
        a, b = lane_sum(h * w * codes), lane_sum(h * (codes * codes))
        return 2.0 * stored * a - stored * stored * b

    with np.errstate(invalid="ignore"):
        return other if saved(other) > saved(near) else near
