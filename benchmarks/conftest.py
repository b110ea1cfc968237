"""Fixtures of the benchmarks: one timed product, with what it costs in bits and in error."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from cases import Floats, activations, copies_for, relative_error, weights
from rivals import MULTIPLIERS

# Bits of a weight, rounded down: enough matrices rotate for none to stay in cache.
BITS = {"float32": 32, "int4": 4, "int8": 8, "ternary": 2, "binary": 1}
BITS |= {"Q4_0": 4, "Q8_0": 8, "repacked": 4, "TQ2_0": 2, "Q1_0": 1}
BITS |= {"Q4_0_R8": 4, "IQ2_BN_R4": 2, "Q1_0_G128": 1}


@lru_cache(maxsize=2)
def _exact(out_features: int, in_features: int, rows: int) -> tuple[Floats, Floats, Any]:
    w, x = weights(out_features, in_features), activations(rows, in_features)
    return w, x, x.astype(np.float64) @ w.T.astype(np.float64)


@pytest.fixture
def time_product(benchmark: Any) -> Callable[..., None]:
    """Times one multiplier on one shape; the row carries speed, bits per weight and error."""

    def run(
        name: str, out_features: int, in_features: int, rows: int, threads: int = 1, **labels: Any
    ) -> None:
        w, x, exact = _exact(out_features, in_features, rows)
        bits = BITS[name.split()[-1] if "llama" in name else name.split()[1]]
        copies = copies_for(w.size * bits // 8, rows) if labels.pop("rotate", True) else 1
        multiplier = MULTIPLIERS[name](w, x, copies, threads)
        multiplier.multiply()
        benchmark.extra_info.update(
            name=name,
            shape=f"{out_features}x{in_features}",
            rows=rows,
            threads=threads,
            copies=copies,
            products=copies * rows * w.size,
            bits_per_weight=round(multiplier.bits_per_weight, 4),
            error=relative_error(multiplier.result(), exact),
            **labels,
        )
        benchmark(multiplier.multiply)

    return run
