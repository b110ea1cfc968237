"""How many bytes a second this machine's memory gives to threads that only read."""

import ctypes
import os
import shlex
import subprocess
import sysconfig
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from cases import SMOKE
from numpy.typing import NDArray

STREAMS = (1, 2, 4, 8, 16)
NBYTES = (4 if SMOKE else 128) << 20


@cache
def read_bandwidth(threads: int, seconds: float = 0.2) -> dict[int, float]:
    """Returns, for each number of streams a thread reads side by side, bytes a second of all."""
    read = _reader()
    # Written once: untouched zeros would all be one page of memory.
    buffers = [np.full(NBYTES // 8, 2, np.uint64) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        return {n: _fastest(pool, read, buffers, n, seconds) for n in STREAMS}


def _fastest(
    pool: ThreadPoolExecutor,
    read: Any,
    buffers: list[NDArray[np.uint64]],
    streams: int,
    seconds: float,
) -> float:
    def scan(buffer: NDArray[np.uint64]) -> None:
        read(buffer.ctypes.data, buffer.size, streams)

    best = float("inf")
    stop = time.perf_counter() + seconds
    while time.perf_counter() < stop:
        start = time.perf_counter()
        list(pool.map(scan, buffers))
        best = min(best, time.perf_counter() - start)
    return len(buffers) * NBYTES / best


@cache
def _reader() -> Any:
    """Returns streams.c's function; ctypes releases the GIL for its duration."""
    source = Path(__file__).with_name("streams.c")
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "streams.so"
        command = [*compiler, "-O3", "-march=native", "-shared", "-fPIC", source, "-o", library]
        subprocess.run(command, check=True)
        read = ctypes.CDLL(str(library)).read_streams
    read.restype = ctypes.c_uint64
    read.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return read


if __name__ == "__main__":
    for threads in (1, 2):
        speeds = read_bandwidth(threads, 1.0)
        print(threads, "threads:", *(f"{n} streams {v / 1e9:.1f} GB/s" for n, v in speeds.items()))
