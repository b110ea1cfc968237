"""Scales of formats whose levels are not one step apart: binq.reference.levels, vectorised."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binq._native import _search
from binq.array.packing import Packing
from binq.formats.scales import scale_number
from binq.methods.stored import Floats, group_starts

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
    w: NDArray[np.float32],
    packing: Packing,
    importance: NDArray[np.float32],
    dtype: np.dtype[Any],
) -> Floats:
    """Returns the scales of all groups that are stored as that dtype.

    Negative ones where the negated levels are others, and the better ones.
    """
    levels = packing.kind.codes(packing.zero)
    negated = tuple(-level for level in reversed(levels))
    tables = [levels] if levels == negated else [levels, negated]
    halves: Floats = np.arange(-_HALF, _HALF + 1, dtype=np.float64) * 0.5
    searched = np.stack([nearest_levels(table)(halves) for table in tables])
    groups = len(group_starts(packing, w.shape[1]))
    scales = np.zeros((len(w), groups))
    numbers = np.zeros((len(w), groups), np.int16)
    _search.best_level_scales(
        w, importance, packing.group_size or 0, searched, scale_number(dtype, 127), scales, numbers
    )
    return np.where(numbers == 0, scales, -scales)
