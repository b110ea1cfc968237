"""Prints how fast q[ids].dequantize() is beside numpy's w[ids] of float32.

    python benchmarks/gathering.py [--threads 1 2] [--formats int4 ternary ...] [--seconds 0.2]

Each call has ids of its own, at random, so that their rows come from memory. Both take turns, so
that a busy machine slows both; a cell is the ratio of the best rounds and that of the medians,
above 1 where binq is faster, and for one id binq's microseconds. BINQ_ISA=avx2 measures other
kernels.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import numpy as np
from cases import SMOKE

import binq

TABLES = ((512, 128),) if SMOKE else ((151_936, 1024), (32_000, 4096))
COUNTS = (1, 64, 1024) if SMOKE else (1, 64, 1024, 8192)
FORMATS = ("binary", "ternary", "int2", "int3", "int4", "mxfp4", "iq4nl", "int8")


def table(rows: int, columns: int) -> np.ndarray:
    """Returns Gaussian weights: the rows of one block, over and over."""
    block = np.random.default_rng(0).standard_normal((512, columns), np.float32)
    w = np.empty((rows, columns), np.float32)
    for start in range(0, rows, 512):
        w[start : start + 512] = block[: min(512, rows - start)]
    return w


def seconds(look_up: Callable[[np.ndarray], object], ids: np.ndarray) -> float:
    start = time.perf_counter()
    look_up(ids)
    return time.perf_counter() - start


def cell(q: binq.QuantizedArray, w: np.ndarray, count: int, limit: float) -> str:
    rng = np.random.default_rng(count)
    ours, numpys = [], []
    until = time.perf_counter() + limit
    while len(ours) < 5 or time.perf_counter() < until:
        ours.append(seconds(lambda ids: q[ids].dequantize(), rng.integers(0, len(w), count)))
        numpys.append(seconds(lambda ids: w[ids], rng.integers(0, len(w), count)))
    if count == 1:
        return f"{min(ours) * 1e6:.1f} | {median(ours) * 1e6:.1f} us"
    return f"{min(numpys) / min(ours):.2f} | {median(numpys) / median(ours):.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--formats", nargs="+", default=list(FORMATS))
    parser.add_argument("--seconds", type=float, default=0.001 if SMOKE else 0.2)
    options = parser.parse_args()
    print(f"{binq.cpu_info()['isa']} kernels")
    for rows, columns in TABLES:
        w = table(rows, columns)
        print(f"\n{rows} x {columns}: best | median")
        print("format, threads".ljust(20) + "".join(f"{n} ids".rjust(18) for n in COUNTS))
        for name in options.formats:
            method = "absmean" if name in ("binary", "ternary") else "absmax"
            q = binq.quantize(w, name, method=method)
            for threads in options.threads:
                binq.set_num_threads(threads)
                cells = [cell(q, w, count, options.seconds) for count in COUNTS]
                print(f"{name}, {threads}".ljust(20) + "".join(c.rjust(18) for c in cells))
            binq.set_num_threads(max(options.threads))


if __name__ == "__main__":
    main()
