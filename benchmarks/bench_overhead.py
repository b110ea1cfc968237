"""What does a call cost beyond its arithmetic, on a matrix of 256 x 256?"""

import numpy as np
import pytest
from cases import activations, weights

import binq


@pytest.mark.parametrize("features", [32, 256])
@pytest.mark.parametrize("call", ["x @ q.T", "linear", "linear out=", "numpy x @ w.T"])
def bench_call(benchmark, call, features):
    w, x = weights(features, features), activations(1, features)
    q = binq.quantize(w, "int4", method="absmax")
    out = np.empty((1, features), np.float32)
    calls = {
        "x @ q.T": lambda: x @ q.T,
        "linear": lambda: binq.linear(x, q),
        "linear out=": lambda: binq.linear(x, q, out=out),
        "numpy x @ w.T": lambda: x @ w.T,
    }
    benchmark.extra_info.update(
        question="overhead",
        name=call,
        shape=f"{features}x{features}",
        bits_per_weight=q.bits_per_weight,
        error=0.0,
    )
    benchmark(calls[call])
