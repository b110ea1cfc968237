"""What a calibration knows of the inputs of one layer: their mean and covariance."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binq.array.checks import as_float32, check_int

_TILE = 256


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and covariance of the inputs of a layer, over the rows that were seen.

    - covariance: float32 ``(in_features, in_features)``: the mean over all rows x of
      ``(x − mean)·(x − mean)ᵀ``
    - mean: float32 ``(in_features,)``
    - count: how many rows were seen

    The second moment, the mean of ``x·xᵀ``, is ``covariance + mean·meanᵀ``.
    :class:`binq.Calibrator` makes them; your own arrays serve as well.
    """

    covariance: NDArray[np.float32]
    mean: NDArray[np.float32]
    count: int

    @property
    def in_features(self) -> int:
        """Returns how many inputs the layer has."""
        return len(self.mean)

    @property
    def mean_square(self) -> NDArray[np.float32]:
        """Returns the mean square of each input: an ``importance`` for :func:`binq.quantize`.

        The largest number of float32 where it is more.
        """
        mean = self.mean.astype(np.float64)
        square = self.covariance.diagonal() + mean * mean
        return np.clip(square, 0.0, np.finfo(np.float32).max).astype(np.float32)

    def second_moment(self) -> NDArray[np.float64]:
        """Returns covariance + mean·meanᵀ in float64."""
        mean = self.mean.astype(np.float64)
        moment = np.multiply.outer(mean, mean)
        moment += self.covariance
        return moment


def check_moments(stats: Any, in_features: int) -> Moments:
    """Returns ``stats``, in float32, if they are moments of that many inputs that can be.

    Raises TypeError for another type, ValueError that says which number is wrong.
    """
    if not isinstance(stats, Moments):
        raise TypeError(f"stats must be the Moments of a Calibrator, got {type(stats).__name__}")
    expected = {"covariance": (in_features, in_features), "mean": (in_features,)}
    found = {name: as_float32(f"stats.{name}", getattr(stats, name)) for name in expected}
    for name, shape in expected.items():
        values = found[name]
        if values.shape != shape:
            raise ValueError(
                f"stats.{name} must have shape {shape}, as w has {in_features} columns, "
                f"got {values.shape}"
            )
        if not np.isfinite(values).all():
            index = tuple(int(i) for i in np.argwhere(~np.isfinite(values))[0])
            raise ValueError(f"stats.{name} must be finite, got {values[index]} at {index}")
    count = check_int("stats.count", stats.count, -(2**63), 2**63 - 1)
    if count < 2:
        raise ValueError(f"stats.count must be 2 or more rows of x, got {count}")
    covariance = found["covariance"]
    diagonal = covariance.diagonal()
    if in_features and diagonal.min() < 0:
        at = int(diagonal.argmin())
        raise ValueError(f"stats.covariance must not be below 0 at ({at}, {at}): {diagonal[at]}")
    # Squares of it and its transpose lie in the processor's caches.
    tiles = [slice(start, start + _TILE) for start in range(0, in_features, _TILE)]
    for n, rows in enumerate(tiles):
        for columns in tiles[n:]:
            with np.errstate(over="ignore"):
                uneven = np.abs(covariance[rows, columns] - covariance[columns, rows].T)
            if uneven.max() > 1e-3 * diagonal.max():
                i, j = (int(k) for k in np.unravel_index(int(uneven.argmax()), uneven.shape))
                i, j = i + rows.start, j + columns.start
                raise ValueError(
                    f"stats.covariance must be symmetric, got {covariance[i, j]} at {(i, j)} and "
                    f"{covariance[j, i]} at {(j, i)}"
                )
    same = all(found[name] is getattr(stats, name) for name in expected)
    return stats if same else Moments(covariance, found["mean"], count)
