"""How exact and how fast is each format and each way to take x?

python examples/multiply.py [ROWS]
"""

import sys
import time

import numpy as np

import binq

if len(sys.argv) > 2 or not all(text.isdecimal() for text in sys.argv[1:]):
    sys.exit("usage: multiply.py [ROWS]")
ROWS = int(sys.argv[1]) if len(sys.argv) > 1 else 8

rng = np.random.default_rng(0)
w = rng.standard_normal((2048, 2048), dtype=np.float32)
x = rng.standard_normal((ROWS, 2048), dtype=np.float32)

print(f"{binq.cpu_info()['isa']} kernels, {binq.get_num_threads()} threads, {ROWS} rows of x")
print("format   mode      bits/weight  error of x  error in all  µs")
for format in ("binary", "ternary", "int4"):
    q = binq.quantize(w, format)
    packed = x.astype(np.float64) @ q.dequantize().T.astype(np.float64)
    exact = x.astype(np.float64) @ w.T.astype(np.float64)
    for mode in ("float32", "int16", "int8"):
        y = binq.linear(x, q, activations=mode)
        start = time.perf_counter()
        binq.linear(x, q, activations=mode, out=y)
        microseconds = (time.perf_counter() - start) * 1e6
        of_x = np.linalg.norm(y - packed) / np.linalg.norm(packed)
        in_all = np.linalg.norm(y - exact) / np.linalg.norm(exact)
        print(
            f"{format:8} {mode:8} {q.bits_per_weight:12.3f} {of_x:11.1e} {in_all:13.3f} "
            f"{microseconds:5.0f}"
        )
