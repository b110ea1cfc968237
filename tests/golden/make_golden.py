"""Made vN.safetensors and vN.npz. Files of released versions are never made again:

python tests/golden/make_golden.py VERSION
"""

import sys
from pathlib import Path

import ml_dtypes
import numpy as np

import binq

HERE = Path(__file__).parent


def tensors_1():
    """Yields name and packed weights: every format, group size and kind of scale."""
    rng = np.random.default_rng(20260401)
    for format in ("binary", "ternary", "int4"):
        for symmetric in (True, False) if format != "ternary" else (True,):
            for group_size in (32, 64, 128, 256, None):
                w = rng.standard_normal((35, 150), dtype=np.float32)
                kind = "symmetric" if symmetric else "asymmetric"
                name = f"{format}.{kind}.{group_size or 'row'}"
                method = "absmax" if format == "int4" else "absmean"
                yield (
                    name,
                    binq.quantize(
                        w, format, group_size=group_size, symmetric=symmetric, method=method
                    ),
                )
        w = rng.standard_normal((2, 3, 33, 40), dtype=np.float32)
        yield f"{format}.stack", binq.quantize(w, format, group_size=32)
        w = rng.standard_normal((32, 64), dtype=np.float32)
        yield f"{format}.float32", binq.quantize(w, format, scale_dtype="float32")


def tensors_2():
    """Yields name and packed weights of what version 2 added: int2, and int4 with offsets."""
    rng = np.random.default_rng(20261127)
    for format, settings in (("int2", {}), ("int4", {"symmetric": False, "zero": "offset"})):
        kind = settings.get("zero", "symmetric")
        settings = settings | {"method": "absmax"}
        for group_size in (32, 64, 128, 256, None):
            w = rng.standard_normal((35, 150), dtype=np.float32) + np.float32(0.25)
            q = binq.quantize(w, format, group_size=group_size, **settings)
            yield f"{format}.{kind}.{group_size or 'row'}", q
        w = rng.standard_normal((2, 3, 33, 40), dtype=np.float32)
        yield f"{format}.stack", binq.quantize(w, format, group_size=32, **settings)
        w = rng.standard_normal((32, 64), dtype=np.float32)
        yield f"{format}.float32", binq.quantize(w, format, scale_dtype="float32", **settings)


def tensors_3():
    """Yields name and packed weights of what version 3 added: three formats, types of scales."""
    rng = np.random.default_rng(20261128)
    kinds = {
        "int3": {},
        "int8": {},
        "int8.zero_points": {"symmetric": False},
        "mxfp4": {},
        "iq4nl": {},
        "int4.bfloat16": {"scale_dtype": "bfloat16"},
        "int4.e8m0": {"scale_dtype": "e8m0"},
        "int3.offset.bfloat16": {"symmetric": False, "scale_dtype": "bfloat16"},
    }
    for kind, settings in kinds.items():
        format = kind.partition(".")[0]
        settings = settings | {"method": "absmax"}
        for group_size in (32, 128, None):
            w = rng.standard_normal((35, 150), dtype=np.float32) + np.float32(0.25)
            q = binq.quantize(w, format, group_size=group_size, **settings)
            yield f"{kind}.{group_size or 'row'}", q
        w = rng.standard_normal((2, 3, 33, 40), dtype=np.float32)
        yield f"{kind}.stack", binq.quantize(w, format, group_size=32, **settings)


def tensors_4():
    """Yields name and packed weights of what version 4 added: rotations."""
    rng = np.random.default_rng(20261129)
    for format in ("binary", "ternary", "int4"):
        for block in (32, 128):
            signs = rng.choice([-1, 1], 256)
            codes = binq.quantize(rng.standard_normal((35, 256)), format, group_size=64).codes()
            scales = rng.uniform(0.5, 2, (35, 4)).astype(np.float16)
            yield (
                f"{format}.{block}",
                binq.QuantizedArray.from_codes(
                    codes,
                    scales,
                    format=format,
                    group_size=64,
                    rotation=binq.Rotation.of(block, signs),
                ),
            )


def tensors_5():
    """Yields name and packed weights of what version 5 added: int2 and int3 with zero points."""
    rng = np.random.default_rng(20261130)
    settings = {"symmetric": False, "zero": "code", "method": "absmax"}
    for format in ("int2", "int3"):
        for group_size in (32, 64, 128, 256, None):
            w = rng.standard_normal((35, 150), dtype=np.float32) + np.float32(0.25)
            q = binq.quantize(w, format, group_size=group_size, **settings)
            yield f"{format}.code.{group_size or 'row'}", q
        w = rng.standard_normal((2, 3, 33, 40), dtype=np.float32)
        yield f"{format}.stack", binq.quantize(w, format, group_size=32, **settings)
        w = rng.standard_normal((32, 64), dtype=np.float32)
        yield f"{format}.bfloat16", binq.quantize(w, format, scale_dtype="bfloat16", **settings)


def main(version: str) -> None:
    tensors = {
        "1": tensors_1,
        "2": tensors_2,
        "3": tensors_3,
        "4": tensors_4,
        "5": tensors_5,
    }
    packed = dict(tensors[version]())
    plain = {
        "plain.bf16": np.arange(6).astype(ml_dtypes.bfloat16).reshape(2, 3),
        "plain.f8": np.arange(4).astype(ml_dtypes.float8_e4m3fn),
        "plain.scalar": np.array(7, np.int64),
        "plain.empty": np.zeros((0, 3), np.float32),
    }
    binq.save_file(packed | plain, HERE / f"v{version}.safetensors", {"made by": "make_golden.py"})
    values = {name: q.dequantize() for name, q in packed.items()}
    values |= {name: array.astype(np.float32) for name, array in plain.items()}
    np.savez_compressed(HERE / f"v{version}.npz", **values)


if __name__ == "__main__":
    main(sys.argv[1])
