"""Writes the test vectors, with binq.reference alone: python tests/vectors/make_vectors.py"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from binq import reference

FOLDER = Path(__file__).parent
KINDS = (
    ("binary", "none"),
    ("binary", "offset"),
    ("ternary", "none"),
    ("int2", "none"),
    ("int2", "code"),
    ("int2", "offset"),
    ("int3", "none"),
    ("int3", "code"),
    ("int3", "offset"),
    ("int4", "none"),
    ("int4", "code"),
    ("int4", "offset"),
    ("int8", "none"),
    ("int8", "code"),
    ("int8", "offset"),
    ("mxfp4", "none"),
    ("iq4nl", "none"),
)
SHAPE = (5, 40)
GROUP_SIZE = 32


def numbers(count: int, seed: int) -> np.ndarray:
    """Returns multiples of 1/64 within ±8 by a formula: no generator that could change."""
    k = np.arange(count, dtype=np.uint64) + np.uint64(seed * 7919)
    mixed = k * np.uint64(2654435761) % np.uint64(2**32) >> np.uint64(10)
    return ((mixed % np.uint64(1024)).astype(np.float32) - 512) / 64


def little_endian(values: np.ndarray) -> str:
    return values.astype(values.dtype.newbyteorder("<")).tobytes().hex()


def bits(values: np.ndarray) -> list[str]:
    return [f"{word:08x}" for word in values.view(np.uint32).tolist()]


def vector(format: str, zero: str) -> dict[str, Any]:
    """Returns all that a file says."""
    w = numbers(SHAPE[0] * SHAPE[1], 1).reshape(SHAPE)
    x = numbers(4 * SHAPE[1], 2).reshape(4, SHAPE[1])
    x[2] *= np.float32(2.0**-20)
    x[3] *= np.float32(2.0**-120)
    symmetric = zero == "none"
    scale_dtype = "e8m0" if format == "mxfp4" else "float16"
    settings = (format, GROUP_SIZE, "mse", symmetric, scale_dtype, None, zero)
    codes, scales, zeros = reference.quantize_to_codes(w, *settings)
    packed, stored_scales, stored_zeros = reference.quantize(w, *settings)
    packed_parts = (packed, stored_scales, stored_zeros)
    shape = {"format": format, "shape": SHAPE, "group_size": GROUP_SIZE}
    found = {
        "format": format,
        "zero": zero,
        "group_size": GROUP_SIZE,
        "shape": list(SHAPE),
        "method": "mse",
        "weights": w.tolist(),
        "codes": codes.tolist(),
        "scales": reference.scale_values(scales, reference.FORMATS[format].bias).tolist(),
        "packed": packed.tobytes().hex(),
        "stored_scales": stored_scales.astype(stored_scales.dtype.newbyteorder("<"))
        .tobytes()
        .hex(),
        "x": x.astype(np.float64).tolist(),
        "products": {
            mode: [
                bits(row) for row in reference.matmul(x, *packed_parts, **shape, activations=mode)
            ]
            for mode in ("int8", "int16")
        },
        "exact": (
            x.astype(np.float64) @ reference.dequantize(*packed_parts, **shape).T.astype(np.float64)
        ).tolist(),
    }
    if scale_dtype != "float16":
        found["scale_dtype"] = scale_dtype
    if zeros is not None and stored_zeros is not None:
        name = "zero_points" if zero == "code" else "offsets"
        found[name] = zeros.astype(np.float64).tolist()
        plain = stored_zeros if zero == "code" else stored_zeros.astype("<f2")
        found["stored_zeros"] = plain.tobytes().hex()
    return found


def text(format: str, zero: str) -> str:
    fields = [f'"{name}": {json.dumps(value)}' for name, value in vector(format, zero).items()]
    return "{\n" + ",\n".join(fields) + "\n}\n"


def path(format: str, zero: str) -> Path:
    return FOLDER / (f"{format}.json" if zero == "none" else f"{format}_{zero}.json")


if __name__ == "__main__":
    for kind in KINDS:
        path(*kind).write_text(text(*kind))
