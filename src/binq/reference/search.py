"""The best scale of a group of weights, of all scales: branch and bound over a convex function."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def lane_sum(values: Floats) -> float:
    """Returns the sum in binq's order: eight running sums, added in halves.

    Sum j has elements j, j + 8, j + 16, ...; then sum j + 4 is added to j, j + 2 to j, 1 to 0.
    """
    padded = np.zeros(-(-len(values) // 8) * 8)
    padded[: len(values)] = values
    lanes = np.add.accumulate(padded.reshape(-1, 8), axis=0)[-1]
    for half in (4, 2, 1):
        lanes = lanes[:half] + lanes[half:]
    return float(lanes[0])


def middles(levels: Floats) -> Floats:
    """Returns the middles between ascending levels."""
    return (levels[1:] + levels[:-1]) * 0.5


def nearest_level(x: NDArray[np.floating[Any]], levels: Floats) -> Floats:
    """Returns the level nearest to each number, the lower one halfway."""
    return levels[np.searchsorted(middles(levels), x, side="left")]


class ScaleSearch:
    """Finds the largest A² / B of a group by branch and bound. It is exact.

    Codes q with their best scale A / B leave the error sum(h·w²) − A² / B, where h is the
    importance of each weight (1 where none is given), A = sum(h·w·q) and B = sum(h·q²).

    Let u = 1 / scale and g(u) = max over all codes of 2·u·A − B. That is a maximum of lines in u,
    so it is convex and made of straight pieces; rounding u·w gives the codes of the piece at u.
    The error with scale 1 / u is sum(h·w²) − g(u) / u², least for g(u) / u² = A² / B at u = B / A.

    Between two points g is below its chord, whose largest value over u² bounds every A² / B whose
    best scale lies there: an interval that cannot beat the best known is dropped. Any other is cut
    where the lines of its ends meet. If no piece lies between theirs, the cut finds one of the two
    again, and both parts are done.
    """

    def __init__(self, w: Floats, importance: Floats | None = None) -> None:
        self.importance = np.ones_like(w) if importance is None else importance
        self.w = np.where(self.importance > 0, w, 0.0)
        self.products = self.importance * w
        self.gain = 0.0
        self.scale = 0.0
        self.low = 0

    def turns(self, lowest: int, highest: int) -> Iterator[None]:
        """Searches the codes lowest to highest, both signs of w; keeps scale > 0 and lowest.

        Yields before each evaluation, to let the search of other codes have a turn.
        """
        w, low, high = self.w, float(lowest), float(highest)
        largest = max(w.max() if high else 0.0, -w.min() if low else 0.0)
        if largest <= 0:
            return
        saturated = np.where(w > 0, high, np.where(w < 0, low, 0.0))
        start = (0.5 / largest, 0.0, 0.0)

        def nearest(x: Floats) -> Floats:
            return np.rint(np.clip(x, low, high))

        yield from self._cuts(start, saturated, nearest, lowest)

    def level_turns(self, levels: Floats, low: int) -> Iterator[None]:
        """Searches ascending levels of any distances, such that no scale > 0 is better.

        Keeps the scale and ``low``, which tells one table of levels from another. As u goes to 0
        all weights have the level nearest to 0, which need not be 0 itself.
        """
        w = self.w
        middle = middles(levels)
        zero = float(nearest_level(np.zeros(1), levels)[0])
        # Where the first weight leaves that level.
        above, below = middle[middle > 0], middle[middle < 0]
        limits = [
            above.min() / w.max() if above.size and w.max() > 0 else np.inf,
            below.max() / w.min() if below.size and w.min() < 0 else np.inf,
        ]
        if min(limits) == np.inf:
            return
        start = (float(min(limits)), *self.line(np.full_like(w, zero), low))
        saturated = np.where(w > 0, levels[-1], np.where(w < 0, levels[0], zero))

        def nearest(x: Floats) -> Floats:
            return nearest_level(x, levels)

        yield from self._cuts(start, saturated, nearest, low)

    def _cuts(
        self,
        start: tuple[float, float, float],
        saturated: Floats,
        nearest: Callable[[Floats], Floats],
        lowest: int,
    ) -> Iterator[None]:
        """Searches from a point with its line up to infinity, where codes are saturated."""
        ends = (np.inf, *self.line(saturated, lowest))
        stack = [(start, ends, 0)]
        while stack:
            left, right, depth = stack.pop()
            if not self.may_beat(left, right):
                continue
            u = meeting_point(left, right, depth)
            if not left[0] < u < right[0]:
                continue
            yield
            cut = (u, *self.line(nearest(u * self.w), lowest))
            for part in ((left, cut, depth + 1), (cut, right, depth + 1)):
                if part[0][1:] != part[1][1:]:
                    stack.append(part)

    def line(self, codes: Floats, lowest: int) -> tuple[float, float]:
        """Returns A and B of the codes, and keeps them if they are the best yet of a scale > 0."""
        a = lane_sum(self.products * codes)
        b = lane_sum(self.importance * (codes * codes))
        if a > 0 and a * a > self.gain * b:
            self.gain = a * a / b
            self.scale = a / b
            self.low = lowest
        return a, b

    def may_beat(self, left: tuple[float, float, float], right: tuple[float, float, float]) -> bool:
        """Returns whether (chord of g) / u², inside the interval, exceeds the best A² / B.

        The chord, rise / run · u − drop / run, is largest over u² at u = 2·drop / rise, where
        it is rise² / (4·drop·run). At the ends of the interval it is no better than their lines.
        """
        u0, a0, b0 = left
        u1, a1, b1 = right
        g0 = 2 * u0 * a0 - b0
        if np.isinf(u1):
            rise, run = 2 * a1, 1.0
        else:
            rise, run = (2 * u1 * a1 - b1) - g0, u1 - u0
        drop = rise * u0 - g0 * run
        inside = u0 * rise < 2 * drop and (np.isinf(u1) or 2 * drop < u1 * rise)
        return bool(drop > 0 and inside and rise * rise > 4 * self.gain * drop * run)


def meeting_point(
    left: tuple[float, float, float], right: tuple[float, float, float], depth: int
) -> float:
    """Returns the u where the lines of two points meet.

    Deep in the search it is the middle instead, so that the depth stays limited.
    """
    u0, a0, b0 = left
    u1, a1, b1 = right
    if depth >= 64:
        return 2 * u0 if np.isinf(u1) else 0.5 * (u0 + u1)
    return (b1 - b0) / (2 * (a1 - a0)) if a1 != a0 else u0
