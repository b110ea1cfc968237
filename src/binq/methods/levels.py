"""Scales of formats whose levels are not one step apart: binq.reference.levels, vectorised."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binq._native import _search
from binq.array.packing import Packing
from binq.methods.stored import Floats
from binq.methods.storing import better_of_two

# A table has the levels nearest to numbers x at ceil(2 x) from -256 on: middles are whole halves.
_HALF = 256


def nearest_levels(levels: tuple[int, ...]) -> Callable[[Floats], Floats]:
    """Returns the function from numbers to the nearest of ascending levels.

    Halfway it is the even one where levels are one step apart, else the lower one.
    """
    table = np.array(levels, np.float64)
    if levels[-1] - levels[0] == len(levels) - 1:
        return lambda x: np.rint(np.clip(x, table[0], table[-1]))
    middles = (table[1:] + table[:-1]) * 0.5
    return lambda x: table[np.searchsorted(middles, x)]


def best_level_scales(
    w: NDArray[np.float32], packing: Packing, importance: NDArray[np.float32], groups: int
) -> tuple[Floats, NDArray[np.int16], list[tuple[int, ...]]]:
    """Returns the best scale > 0 of each group, and which of the tables of levels it belongs to.

    The tables are the levels and, where these are others, the negated levels.
    """
    levels = packing.kind.codes(packing.zero)
    negated = tuple(-level for level in reversed(levels))
    tables = [levels] if levels == negated else [levels, negated]
    halves: Floats = np.arange(-_HALF, _HALF + 1, dtype=np.float64) * 0.5
    searched = np.stack([nearest_levels(table)(halves) for table in tables])
    scales = np.zeros((len(w), groups))
    numbers = np.zeros((len(w), groups), np.int16)
    _search.best_level_scales(w, importance, packing.group_size or 0, searched, scales, numbers)
    return scales, numbers, tables


def fit_levels_to_storage(
    w: Floats,
    h: Floats,
    scales: Floats,
    numbers: NDArray[np.int16],
    tables: list[tuple[int, ...]],
    dtype: np.dtype[Any],
) -> Floats:
    """Returns the scales that are stored, negative where the negated levels are the better ones.

    - w, h: weights and importance ``(groups, size)``; w is 0 where h is
    - scales: 0 or more; numbers: of the table of each group
    """
    result = scales.copy()
    for number, table in enumerate(tables):
        used = np.flatnonzero((scales > 0) & (numbers == number))
        if not used.size:
            continue
        nearest = nearest_levels(table)
        s = scales[used]
        codes = nearest(w[used] / s[:, np.newaxis]).astype(np.int64)
        matters = h[used] > 0
        divisors = np.gcd.reduce(np.where(matters, np.abs(codes), 0), axis=1)
        divisors = np.maximum(divisors, 1)
        are_levels = np.isin(codes // divisors[:, np.newaxis], table)
        divided = np.all(are_levels | ~matters, axis=1)
        s = s * np.where(divided, divisors, 1)
        s = better_of_two(w[used], h[used], s, nearest, dtype)
        result[used] = s if number == 0 else -s
    return result
