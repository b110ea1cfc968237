"""Quantizes a checkpoint, loads the result and multiplies with it.

    python examples/quantize_checkpoint.py SRC DST [--format int4|int3|int2|...] [--overwrite] ...

Prints a line for each tensor and the largest difference from the product with the float weights.
"""

import argparse
from pathlib import Path

import numpy as np

import binq
from binq.convert import Checkpoint, logical_tensors

FORMATS = ("int8", "int4", "iq4nl", "int3", "int2", "ternary", "binary")


def largest_difference(source: Path, target: Path) -> tuple[str, float, float]:
    """Returns the tensor whose product differs most, by how much, and the size of that product.

    The product is x @ w.T for one Gaussian row x: with the packed weights in the default mode,
    and with the float weights of the source.
    """
    packed = binq.load(target)
    worst = ("", 0.0, 0.0)
    rng = np.random.default_rng(0)
    with Checkpoint(source) as checkpoint:
        for tensor in logical_tensors(checkpoint):
            q = packed.get(tensor.name)
            if not isinstance(q, binq.QuantizedArray):
                continue
            x = rng.standard_normal((1, q.shape[-1]), dtype=np.float32)
            first = (0,) * (q.ndim - 2)
            w = tensor.read_rows(checkpoint, 0, 0, q.shape[-2])
            y, exact = x @ (q[first] if first else q).T, x @ w.T
            difference = float(np.abs(y - exact).max())
            if difference >= worst[1]:
                worst = (tensor.name, difference, float(np.abs(exact).max()))
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("src", type=Path)
    parser.add_argument("dst", type=Path)
    parser.add_argument("--format", default="int4", choices=FORMATS)
    parser.add_argument("--group-size", type=int, default=128)
    parser.add_argument("--rule", action="append", default=[])
    parser.add_argument("--embeddings")
    parser.add_argument("--overwrite", action="store_true", help="replace what lies at DST")
    options = parser.parse_args()
    report = binq.quantize_checkpoint(
        options.src,
        options.dst,
        options.format,
        group_size=options.group_size,
        rules=options.rule,
        embeddings=options.embeddings,
        overwrite=options.overwrite,
        progress=True,
    )
    print(report)
    name, difference, size = largest_difference(options.src, options.dst)
    print(f"largest difference from the float product: {difference:.4g} of {size:.4g} ({name})\n")


if __name__ == "__main__":
    main()
