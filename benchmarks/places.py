"""How should one thread read weights: from how many places at once, asked for how far ahead?

``python benchmarks/places.py [SECONDS] [--plot FILE]`` prints a table of one row of x by int4
weights in memory (places.c, AVX2), and draws its curves. The kernels take what is near the best
everywhere.
"""

import argparse
import ctypes
import os
import shlex
import subprocess
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

FEATURES = 4096
GROUP = 128
COPIES = 13  # 109 MB: more than a cache holds
PLACES = (1, 2, 4, 8)
LEVELS = ("nothing", "into L1", "into L2", "past L2")
AHEAD = (512, 1024, 2048, 4096, 8192)
FLAGS = ("-O3", "-mavx2", "-fno-tree-reassoc", "-fno-tree-pre", "-fno-tree-ter")


def loop(folder: str) -> Any:
    """Returns the function of places.c, compiled with the compiler that Python names."""
    library = Path(folder) / "places.so"
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    source = Path(__file__).with_name("places.c")
    subprocess.run([*compiler, *FLAGS, "-shared", "-fPIC", source, "-o", library], check=True)
    multiply = ctypes.CDLL(str(library)).multiply
    P, N = ctypes.c_void_p, ctypes.c_ssize_t
    multiply.argtypes = [P, P, P, N, N, N, N, ctypes.c_int]
    return multiply


def microseconds(seconds: float) -> dict[tuple[int, int, int], float]:
    """Returns the fastest run for each (places, level, bytes ahead)."""
    rng = np.random.default_rng(0)
    weights = rng.integers(0, 256, (COPIES, FEATURES * FEATURES // 2), np.uint8)
    x = rng.integers(-127, 128, FEATURES, np.int8)
    y = np.empty(FEATURES, np.float32)
    choices = [(p, 0, 0) for p in PLACES]
    choices += [(p, level, ahead) for p in PLACES for level in (1, 2, 3) for ahead in AHEAD]
    best = dict.fromkeys(choices, float("inf"))
    with tempfile.TemporaryDirectory() as folder:
        multiply = loop(folder)
        stop = time.perf_counter() + seconds * len(choices)
        # In turn, so that a slow moment of the machine meets all alike.
        while time.perf_counter() < stop:
            for places, level, ahead in choices:
                for w in weights:
                    start = time.perf_counter()
                    multiply(
                        w.ctypes.data,
                        x.ctypes.data,
                        y.ctypes.data,
                        FEATURES // 32,
                        FEATURES // GROUP,
                        places,
                        ahead,
                        level,
                    )
                    took = time.perf_counter() - start
                    best[places, level, ahead] = min(best[places, level, ahead], took)
    return {choice: took * 1e6 for choice, took in best.items()}


def draw(best: dict[tuple[int, int, int], float], path: str) -> None:
    """Draws a curve over the bytes ahead for each number of places and level."""
    import matplotlib

    matplotlib.use("svg" if path.endswith(".svg") else "agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(PLACES), sharey=True, figsize=(3 * len(PLACES), 3))
    for axis, places in zip(axes, PLACES, strict=True):
        axis.axhline(best[places, 0, 0], color="black", linestyle=":", label=LEVELS[0])
        for level in (1, 2, 3):
            axis.plot(AHEAD, [best[places, level, n] for n in AHEAD], "o-", label=LEVELS[level])
        axis.set(title=f"{places} places", xlabel="bytes ahead", xscale="log", ylim=(0, None))
    axes[0].set_ylabel("µs")
    axes[-1].legend()
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("seconds", nargs="?", type=float, default=0.3, help="for each choice")
    parser.add_argument("--plot", metavar="FILE", help="draw the curves")
    options = parser.parse_args()
    best = microseconds(options.seconds)
    gigabytes = FEATURES * FEATURES / 2 / 1e3
    print("µs (GB/s); asked for ahead:", *AHEAD, sep="\t")
    for places in PLACES:
        for level, name in enumerate(LEVELS):
            row = [best[places, level, ahead] for ahead in (AHEAD if level else (0,))]
            cells = [f"{us:.0f} ({gigabytes / us:.1f})" for us in row]
            print(f"{places} places, {name}", *cells, sep="\t")
    if options.plot:
        draw(best, options.plot)


if __name__ == "__main__":
    main()
