"""Prints how long method "gptq" takes for a matrix of 4096 x 4096 weights.

    python benchmarks/calibrated.py

Least and median seconds of some rounds, a row of the table for each number of sweeps, in groups of
128: what ``binq.quantize(w, format, method="gptq", stats=...)`` does from the moments of the inputs
to packed weights, its factorisation of the moments among it.
"""

import argparse
import os
import time

import numpy as np

import binq
from binq.methods import Moments


def moments(columns: int, count: int, seed: int = 0) -> Moments:
    """Returns those of inputs of different sizes that depend on each other."""
    rng = np.random.default_rng(seed)
    sizes = np.exp(0.7 * rng.standard_normal(columns)).astype(np.float32)
    mixing = rng.standard_normal((columns, columns), np.float32) * sizes
    cal = binq.Calibrator()
    for start in range(0, count, 1024):
        rows = min(1024, count - start)
        x = rng.standard_normal((rows, columns), np.float32) @ mixing
        cal.update("w", x / np.float32(np.sqrt(columns)))
    return cal["w"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--format", action="append", help="int4, where none is given")
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--sweeps", type=int, action="append", help="0 and 2, where none is given")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    stats = moments(options.size, 2 * options.size)
    rng = np.random.default_rng(1)
    w = rng.standard_normal((options.size, options.size), np.float32) * np.float32(0.02)
    print(f"{binq.cpu_info()}, {os.cpu_count()} cores\n")
    print("| format | sweeps | least seconds | median | seconds of processor |")
    print("|---|---|---|---|---|", flush=True)
    for format in options.format or ("int4",):
        for sweeps in options.sweeps or (0, 2):
            seconds, used = [], []
            for _ in range(options.rounds):
                # The factor of moments that were used before would be at hand.
                fresh = Moments(stats.covariance, stats.mean, stats.count)
                start, busy = time.perf_counter(), time.process_time()
                binq.quantize(w, format, method="gptq", stats=fresh, sweeps=sweeps)
                seconds.append(time.perf_counter() - start)
                used.append(time.process_time() - busy)
            print(
                f"| {format} | {sweeps} | {min(seconds):.2f} | {np.median(seconds):.2f} "
                f"| {min(used):.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
