"""Prints the tables of docs/choosing.md: what each format, method and group size loses.

    python benchmarks/errors.py

Relative squared error, sum((w - w_hat)²) / sum(w²), of 1024 x 4096 random weights.
"""

import numpy as np

import binq

DISTRIBUTIONS = {
    "Gaussian": lambda rng, shape: rng.standard_normal(shape),
    "Laplace": lambda rng, shape: rng.laplace(size=shape),
    "Student t5": lambda rng, shape: rng.standard_t(5, shape),
}
METHODS = [
    ("int8", "mse", True),
    ("int8", "absmax", True),
    ("int8", "mse", False),
    ("int4", "mse", True),
    ("int4", "absmax", True),
    ("int4", "mse", False),
    ("int4", "absmax", False),
    ("int4", "mse", "offset"),
    ("int4", "absmax", "offset"),
    ("int3", "mse", True),
    ("int3", "absmax", True),
    ("int3", "mse", "code"),
    ("int3", "mse", "offset"),
    ("int2", "mse", "offset"),
    ("int2", "mse", "code"),
    ("int2", "mse", True),
    ("int2", "absmax", True),
    ("ternary", "mse", True),
    ("ternary", "absmean", True),
    ("binary", "mse", True),
    ("binary", "mse", False),
    ("binary", "absmean", False),
]
GROUP_SIZES = (32, 64, 128, 256, None)


def loss(w, q):
    return np.square(q.dequantize() - w).sum() / np.square(w, dtype=np.float64).sum()


def shown(error):
    return f"{error:.4f}" if error >= 1e-3 else f"{error:.6f}"


def quantize(w, format, symmetric, **settings):
    if isinstance(symmetric, str):
        return binq.quantize(w, format, symmetric=False, zero=symmetric, **settings)
    return binq.quantize(w, format, symmetric=symmetric, **settings)


def name(format, symmetric):
    kinds = {True: "", False: " asymmetric", "code": " zero point", "offset": " offset"}
    return format + kinds[symmetric]


def main():
    shape = (1024, 4096)
    samples = {
        kind: draw(np.random.default_rng(0), shape).astype(np.float32)
        for kind, draw in DISTRIBUTIONS.items()
    }
    print("| format | method | bits | " + " | ".join(DISTRIBUTIONS) + " |")
    print("|---|---|---|" + "---|" * len(DISTRIBUTIONS))
    for format, method, symmetric in METHODS:
        cells = []
        for w in samples.values():
            q = quantize(w, format, symmetric, method=method)
            cells.append(shown(loss(w, q)))
        print(
            f"| {name(format, symmetric)} | {method} | {q.bits_per_weight:.3f} | "
            + " | ".join(cells)
            + " |"
        )

    print("\n| format | " + " | ".join(f"{size or 'row'}" for size in GROUP_SIZES) + " |")
    print("|---|" + "---|" * len(GROUP_SIZES))
    w = samples["Gaussian"]
    for format, method, symmetric in METHODS:
        if method == "mse":
            cells = []
            for size in GROUP_SIZES:
                q = quantize(w, format, symmetric, group_size=size)
                cells.append(f"{shown(loss(w, q))} ({q.bits_per_weight:.2f})")
            print(f"| {name(format, symmetric)} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
