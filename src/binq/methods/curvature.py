"""How much errors of weights cost: the damped moments of a layer's inputs, and their factor."""

import threading
from collections import OrderedDict
from weakref import ref

import numpy as np
from numpy.typing import NDArray

from binq.methods.moments import Moments

# Of the diagonal's mean: what is more than this, H is nothing but the damping.
MOST_DAMPING = 1e6
# What is tried where none was asked for and H is singular: a few roundings of its factor.
_LEAST_DAMPING = 1e-12


class Curvature:
    """The damped moments H of the inputs; errors E of weights cost trace(E·H·Eᵀ).

    H is the covariance where centred, else the second moment, divided by the mean of its diagonal;
    then ``damping`` is added to the diagonal, and more by the ratio of inputs to rows where fewer
    rows were seen than there are inputs. Where H is not positive definite all the same, damping
    grows tenfold until it is.

    - matrix: float32 H in the order of the weights
    - order: the columns in the order in which they are rounded, the costly ones first
    - unit: float32 U of H = U·D·Uᵀ in that order, upper triangular with a diagonal of ones
    - pivots: the diagonal of D
    """

    def __init__(self, moments: Moments, centred: bool, damping: float) -> None:
        exact = moments.covariance.astype(np.float64) if centred else moments.second_moment()
        diagonal = exact.diagonal().copy()
        typical = float(diagonal.mean()) if diagonal.size else 1.0
        if not typical > 0:
            typical = 1.0  # Inputs that never change: all errors cost alike.
        exact /= typical
        self.order: NDArray[np.intp] = np.argsort(-diagonal, kind="stable")
        self.damping = damping * max(1.0, moments.in_features / moments.count)
        while True:
            found = _factor(exact, self.order, self.damping)
            if found is not None:
                break
            self.damping = max(10 * self.damping, _LEAST_DAMPING)
            if self.damping > MOST_DAMPING:
                low = float(np.linalg.eigvalsh(exact)[0] * typical)
                raise ValueError(f"stats.covariance must not have an eigenvalue below 0: {low:g}")
        self.unit, self.pivots = found
        exact[np.diag_indices(len(exact))] += self.damping
        self.matrix: NDArray[np.float32] = exact.astype(np.float32)

    @property
    def importance(self) -> NDArray[np.float32]:
        """Returns what the square of each input's error costs by itself."""
        return np.ascontiguousarray(self.matrix.diagonal())


def _factor(
    exact: NDArray[np.float64], order: NDArray[np.intp], damping: float
) -> tuple[NDArray[np.float32], NDArray[np.float64]] | None:
    """Returns U and the diagonal of D, or None where H is not positive definite."""
    from scipy.linalg import LinAlgError, cholesky

    backwards = order[::-1]
    damped = exact[np.ix_(backwards, backwards)]
    damped[np.diag_indices(len(damped))] += damping
    try:
        # The transpose is the same matrix, and in the order that LAPACK overwrites.
        lower = cholesky(damped.T, lower=True, overwrite_a=True, check_finite=False)
    except LinAlgError:
        return None
    # H backwards = L·Lᵀ, so H = (L backwards)·(L backwards)ᵀ, with an upper triangle.
    upper = lower[::-1, ::-1]
    diagonal = upper.diagonal().copy()
    with np.errstate(over="ignore", invalid="ignore"):
        unit = np.ascontiguousarray(upper / diagonal, np.float32)
    return (unit, diagonal * diagonal) if np.isfinite(unit).all() else None


_lock = threading.RLock()
# Of moments that live: who has them no more needs no curvature.
_recent: OrderedDict[tuple[int, bool, float], tuple[ref[Moments], Curvature]] = OrderedDict()
_MOST_RECENT = 2


def curvature_of(moments: Moments, centred: bool, damping: float) -> Curvature:
    """Returns the curvature: one of the last two that were asked for is not computed again.

    Blocks of rows of one matrix, and layers with the same inputs, share it.
    """
    key = (id(moments), centred, damping)
    with _lock:
        known = _recent.pop(key, None)
        if known is None or known[0]() is not moments:
            while len(_recent) >= _MOST_RECENT:
                _recent.popitem(last=False)
            mark = ref(moments, lambda _: _forget(key))
            known = mark, Curvature(moments, centred, damping)
        _recent[key] = known
        return known[1]


def _forget(key: tuple[int, bool, float]) -> None:
    with _lock:
        _recent.pop(key, None)
