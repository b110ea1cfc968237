"""Groups of one size as several of a smaller one: the same scales, repeated, and so no loss."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def smaller_group(group: int | None, columns: int, sizes: Sequence[int]) -> int | None:
    """Returns the largest of some sizes that divides both the groups and the row, None for none.

    - group: the size of the groups, the last of which may be ragged; None for one a row

    >>> smaller_group(128, 192, (32, 64, 128)), smaller_group(None, 256, (32, 64, 128))
    (64, 128)
    """
    one = group is None or group >= columns
    fitting = [n for n in sizes if columns % n == 0 and (one or (group or 0) % n == 0)]
    return max(fitting, default=None)


def spread(values: NDArray[Any], group: int | None, columns: int, size: int) -> NDArray[Any]:
    """Returns what belongs to groups, ``(..., groups)``, for each smaller group of a row."""
    places = np.arange(-(-columns // size)) * size // (group or columns)
    spread: NDArray[Any] = values[..., places]
    return spread
