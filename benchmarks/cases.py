"""What every benchmark multiplies: the shapes, the weights, and the numbers a row carries.

``BINQ_BENCH_SMOKE=1`` shrinks everything so that each benchmark runs once in milliseconds.
"""

import ctypes
import os
import time
from concurrent.futures import ThreadPoolExecutor

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


def read_bandwidth(threads: int, seconds: float = 0.3) -> float:
    """Returns the bytes a second that ``threads`` threads can read from memory together.

    The C library's memchr looks for a byte that is not there: one wide load per 32 bytes and
    nothing else. ctypes releases the GIL for its duration.
    """
    nbytes = (4 if SMOKE else 128) << 20
    memchr = ctypes.CDLL(None).memchr
    memchr.restype = ctypes.c_void_p
    memchr.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
    # Written once: untouched zeros would all be one page of memory.
    buffers = [np.full(nbytes, 2, np.uint8) for _ in range(threads)]

    def scan(buffer: NDArray[np.uint8]) -> None:
        memchr(buffer.ctypes.data, 1, nbytes)

    best = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        stop = time.perf_counter() + seconds
        while time.perf_counter() < stop:
            start = time.perf_counter()
            list(pool.map(scan, buffers))
            best = min(best, time.perf_counter() - start)
    return threads * nbytes / best
