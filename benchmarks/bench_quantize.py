"""How many bytes of float32 a second are quantized by each method, and dequantized, per thread?"""

import ml_dtypes
import numpy as np
import pytest
from cases import SMOKE, relative_error, weights
from quantize_rivals import QUANTIZERS

import binq

METHODS = [
    ("int4", "absmax", True),
    ("int4", "mse", True),
    ("int4", "absmax", False),
    ("int4", "mse", False),
    ("ternary", "absmean", True),
    ("ternary", "mse", True),
    ("binary", "mse", True),
    ("binary", "mse", False),
]
ROWS = 64 if SMOKE else 2048
TYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("format", "method", "symmetric"), METHODS)
def bench_quantize(benchmark, format, method, symmetric, dtype):
    slow = format == "int4" and method == "mse"
    w = weights(ROWS // 8 if slow else ROWS, 512 if SMOKE else 4096).astype(TYPES[dtype])
    binq.set_num_threads(1)
    q = binq.quantize(w, format, method=method, symmetric=symmetric)
    w64 = w.astype(np.float64)
    benchmark.extra_info.update(
        question="quantize",
        name=f"{format} {method}{'' if symmetric else ' asymmetric'}",
        dtype=dtype,
        float32_bytes=w.size * 4,
        bits_per_weight=q.bits_per_weight,
        error=relative_error(q.dequantize(), w64) ** 2,
    )
    benchmark(binq.quantize, w, format, method=method, symmetric=symmetric)


@pytest.mark.parametrize("question", ["quantize", "dequantize"])
@pytest.mark.parametrize("name", QUANTIZERS)
def bench_rival(benchmark, name, question):
    quantize, dequantize = QUANTIZERS[name]
    w = weights(ROWS // 4, 512 if SMOKE else 4096)
    blob = quantize(w)
    benchmark.extra_info.update(
        question=question,
        name=name if question == "quantize" else f"{name} dequantize",
        dtype="float32",
        float32_bytes=w.nbytes,
        bits_per_weight=blob.nbytes * 8 / w.size,
        error=relative_error(dequantize(blob, w.shape), w.astype(np.float64)) ** 2,
    )
    if question == "quantize":
        benchmark(quantize, w)
    else:
        benchmark(dequantize, blob, w.shape)


@pytest.mark.parametrize("format", ["binary", "ternary", "int4"])
def bench_dequantize(benchmark, format):
    w = weights(ROWS, 512 if SMOKE else 4096)
    binq.set_num_threads(1)
    q = binq.quantize(w, format, method="absmax" if format == "int4" else "absmean")
    out = np.empty(w.shape, np.float32)
    benchmark.extra_info.update(
        question="dequantize",
        name=f"{format} dequantize",
        dtype="float32",
        float32_bytes=w.size * 4,
        bits_per_weight=q.bits_per_weight,
        error=0.0,
    )
    benchmark(q.dequantize, out=out)


def bench_copy(benchmark):
    """The yardstick of dequantize: numpy writing a constant to the same float32 output."""
    out = np.empty((ROWS, 512 if SMOKE else 4096), np.float32)
    benchmark.extra_info.update(
        question="dequantize",
        name="numpy fill",
        dtype="float32",
        float32_bytes=out.nbytes,
        bits_per_weight=32.0,
        error=0.0,
    )
    benchmark(out.fill, 1.0)
