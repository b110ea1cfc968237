"""``binq bench``: how fast this machine multiplies, side by side with numpy's float32."""

import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from binq.array.choices import FORMAT_NAMES
from binq.array.linear import linear
from binq.formats import get_format
from binq.methods.quantize import METHODS, quantize
from binq.runtime import cpu_info

ROWS = (1, 8, 128)


def bench(features: int, say: Callable[[str], None]) -> None:
    """Says G products a second for each format, mode and number of rows of x."""
    info = cpu_info()
    say(f"{features} x {features}, groups of 128, {info['isa']} kernels, {info['threads']} threads")
    say(f"{'':24} {'bits/weight':>11} " + " ".join(f"{rows:>5} rows" for rows in ROWS))
    rng = np.random.default_rng(0)
    w = rng.standard_normal((features, features), dtype=np.float32)
    xs = [rng.standard_normal((rows, features), dtype=np.float32) for rows in ROWS]
    _row(say, "numpy float32", 32.0, w.size, [partial(np.matmul, x, w.T) for x in xs])
    for format in FORMAT_NAMES:
        q = quantize(w, format, method=METHODS[get_format(format).methods[-1]])
        for mode in ("int8", "int16", "float32"):
            calls = [partial(linear, x, q, activations=mode) for x in xs]
            _row(say, f"{format} {mode}", q.bits_per_weight, w.size, calls)


def _row(
    say: Callable[[str], None],
    name: str,
    bits: float,
    size: int,
    calls: Sequence[Callable[[], object]],
) -> None:
    cells = []
    for rows, call in zip(ROWS, calls, strict=True):
        call()
        seconds: list[float] = []
        while len(seconds) < 3 or (sum(seconds) < 0.2 and len(seconds) < 50):
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
        cells.append(f"{rows * size / min(seconds) / 1e9:>10.1f}")
    say(f"{name:24} {bits:>11.3f} " + " ".join(cells))
