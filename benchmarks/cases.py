"""What every benchmark multiplies: the shapes, the weights, and the numbers a row carries.

``BINQ_BENCH_SMOKE=1`` shrinks everything so that each benchmark runs once in milliseconds.
"""

import os

import numpy as np
from numpy.typing import NDArray

SMOKE = os.environ.get("BINQ_BENCH_SMOKE") == "1"
FEATURES = 256 if SMOKE else 4096
GROUP_SIZE = 128
ROTATED_BYTES = (1 if SMOKE else 100) << 20  # weights in rotation: more than any cache holds

Floats = NDArray[np.float32]


def weights(out_features: int, in_features: int, seed: int = 0) -> Floats:
    """Returns Gaussian weights of the size trained layers have, float32 (out, in)."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((out_features, in_features), dtype=np.float32) * np.float32(0.02)


def activations(rows: int, in_features: int, seed: int = 1) -> Floats:
    """Returns Gaussian activations, float32 (rows, in)."""
    return np.random.default_rng(seed).standard_normal((rows, in_features), dtype=np.float32)


def copies_for(nbytes: int, rows: int) -> int:
    """Returns how many matrices rotate so that a single row of x finds its weights in memory."""
    if rows > 1:
        return 1
    return max(2, -(-ROTATED_BYTES // nbytes))


def relative_error(y: Floats, exact: NDArray[np.float64]) -> float:
    """Returns the root mean square of y - exact over that of exact."""
    return float(np.linalg.norm(y - exact) / np.linalg.norm(exact))
