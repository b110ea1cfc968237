"""Scales of formats whose levels are not one step apart.

The levels of mxfp4 are twice the numbers of FP4 in the OCP microscaling specification, those of
iq4nl are llama.cpp's of IQ4_NL.
"""

import numpy as np

from binq.reference.rounding import better_of_two
from binq.reference.search import Floats, ScaleSearch, nearest_level


def best_level_scale(
    w: Floats, levels: Floats, scale_dtype: str, importance: Floats | None = None
) -> float:
    """Returns the scale with the least squared error, of all scales of either sign.

    levels: ascending. A negative scale is a positive one with the negated levels: where these are
    others, both are searched, alternately, by :class:`ScaleSearch`.

    The scale is the one whose levels have no common divisor, where these divided by it are levels
    too; and, for a type of 16 bits, that of its two neighbours there with the smaller error.
    """
    search = ScaleSearch(w, importance)
    tables = [levels] if (levels == -levels[::-1]).all() else [levels, -levels[::-1]]
    turns = [search.level_turns(table, number) for number, table in enumerate(tables)]
    while turns:
        turns = [turn for turn in turns if next(turn, True) is None]
    if search.scale <= 0:
        return 0.0
    table = tables[search.low]
    found = nearest_level((search.w / search.scale)[search.importance > 0], table)
    divisor = max(int(np.gcd.reduce(np.abs(found).astype(np.int64))), 1)
    scale = search.scale
    if np.isin(found / divisor, table).all():
        scale = scale * divisor
    scale = better_of_two(
        search.w, scale, lambda x: nearest_level(x, table), scale_dtype, importance
    )
    return scale if search.low == 0 else -scale
