"""Integers of 1 to 4 and 8 bits, MXFP4 and IQ4: what is taken over exactly, in how many bytes.

A row for each way to store them. Exact: the weights of the format that holds them are those of the
source's formula in float32, every one, in at most an eighth more bytes than the source has, and a
conversion's report says so.
"""

from collections.abc import Callable
from typing import NamedTuple

import ml_dtypes
import numpy as np
import pytest
from checkpoints import models
from checkpoints.fixtures import (
    GGUF_TYPES,
    Written,
    awq,
    bitnet_packed,
    compressed,
    gguf_file,
    gguf_tensor,
    gptq,
    integers,
    mlx_affine,
    mxfp4,
    save,
    scales_of,
)

import binq
from binq.files.checkpoint import Checkpoint
from binq.formats import FORMATS
from binq.models import logical_tensors

F16, BF16 = np.float16, ml_dtypes.bfloat16
MODULE, SHAPE = "model.layers.0.mlp.down_proj", (256, 384)
DOWN = f"{MODULE}.weight"
QWEN3 = models.QWEN3
# Types of GGUF that are read as they are: type, weights and bytes of a block, places of float16.
GGUF_RAW = {
    "Q4_1": (3, 32, 20, (0, 2)),
    "Q4_K": (12, 256, 144, (0, 2)),
    "IQ4_NL": (20, 32, 18, (0,)),
    "IQ4_XS": (23, 256, 136, (0,)),
    "MXFP4": (39, 32, 17, ()),
}


class Row(NamedTuple):
    """One way to store weights: how it is written, what becomes of it.

    - format: of binq; the row is exact once binq has it
    - rounded: whether the codes stay and only the scales are rounded, to more than 60 dB
    - growth: how many times the bytes of the source are taken at most
    """

    write: Callable[[Written], Written]
    format: str
    rounded: bool = False
    growth: float = 9 / 8


def gguf(kind):
    def write(written):
        shape = (256, 512)
        name = "blk.0.ffn_down.weight"
        if kind in GGUF_RAW:
            number, weights, nbytes, halves = GGUF_RAW[kind]
            rng = np.random.default_rng(3)
            blocks = rng.integers(0, 256, (256 * 512 // weights, nbytes), dtype=np.uint8)
            for place in halves:
                scales = rng.uniform(0.01, 0.1, len(blocks)).astype(F16)
                blocks[:, place : place + 2] = scales.view(np.uint8).reshape(-1, 2)
            if kind == "MXFP4":
                blocks[:, 0] = rng.integers(118, 127, len(blocks))
            tensor = (number, shape, blocks.tobytes())
        else:
            tensor = gguf_tensor(written, name, kind, shape)
        metadata = {"general.architecture": "qwen3", "qwen3.block_count": 1}
        written.path.mkdir(exist_ok=True)
        (written.path / "m.gguf").write_bytes(gguf_file(metadata, {name: tensor}))
        return written

    return write


def mlx(bits, group, dtype, whole=False):
    def write(written):
        groups = (SHAPE[0], SHAPE[1] // group)
        scales = scales_of("s", groups, dtype)
        if whole:
            biases = -scales * integers("z", 0, (1 << bits) - 1, groups).astype(dtype)
        else:
            biases = np.asarray(scales_of("b", groups, np.float32) / -7, dtype)
        codes = integers("codes", 0, (1 << bits) - 1, SHAPE)
        settings = {"group_size": group, "bits": bits}
        mlx_affine(written, MODULE, SHAPE, bits, group, scales=scales, biases=biases, codes=codes)
        return save(written, {**QWEN3, "quantization": settings})

    return write


def mlx_mxfp4(written):
    mxfp4(written, MODULE, SHAPE)
    blocks = written.stored.pop(f"{MODULE}_blocks").reshape(SHAPE[0], -1)
    written.stored[DOWN] = blocks.view("<u4")
    written.stored[f"{MODULE}.scales"] = written.stored.pop(f"{MODULE}_scales")
    settings = {"group_size": 32, "bits": 4, "mode": "mxfp4"}
    return save(written, {**QWEN3, "quantization": settings})


def gptq_of(bits, group, zero=None):
    def write(written):
        gptq(written, MODULE, SHAPE, bits, group, zero=zero)
        del written.stored[f"{MODULE}.g_idx"]
        settings = {"quant_method": "gptq", "bits": bits, "group_size": group, "desc_act": False}
        return save(written, {**QWEN3, "quantization_config": settings})

    return write


def awq_of(group):
    def write(written):
        awq(written, MODULE, SHAPE, group)
        settings = {
            "quant_method": "awq",
            "bits": 4,
            "group_size": group,
            "zero_point": True,
            "version": "gemm",
        }
        return save(written, {**QWEN3, "quantization_config": settings})

    return write


def ct(bits, group, symmetric=True):
    def write(written):
        compressed(written, MODULE, SHAPE, bits, group, symmetric)
        settings = models.ct_config(bits, group, symmetric)
        return save(written, {**QWEN3, "quantization_config": settings})

    return write


def bitnet(written):
    bitnet_packed(written, DOWN, SHAPE, divide=False)
    settings = {"quant_method": "bitnet", "linear_class": "autobitlinear"}
    return save(written, {"model_type": "bitnet", "quantization_config": settings})


def gpt_oss(written):
    return models.gpt_oss(written.path)


ROWS = {
    "GGUF Q1_0": Row(gguf("Q1_0"), "binary"),
    "GGUF TQ1_0": Row(gguf("TQ1_0"), "ternary", growth=2.125 / 1.6875),
    "GGUF TQ2_0": Row(gguf("TQ2_0"), "ternary"),
    "GGUF Q2_0": Row(gguf("Q2_0"), "int2"),
    "GGUF Q2_0 of 128": Row(gguf("Q2_0_G128"), "int2"),
    "GGUF Q4_0": Row(gguf("Q4_0"), "int4"),
    "GGUF Q4_1": Row(gguf("Q4_1"), "int4"),
    "GGUF Q4_K": Row(gguf("Q4_K"), "int4", rounded=True),
    "GGUF IQ4_NL": Row(gguf("IQ4_NL"), "iq4nl"),
    "GGUF IQ4_XS": Row(gguf("IQ4_XS"), "iq4nl", rounded=True),
    "GGUF MXFP4": Row(gguf("MXFP4"), "mxfp4"),
    "GGUF Q8_0": Row(gguf("Q8_0"), "int8"),
    "MLX mxfp4": Row(mlx_mxfp4, "mxfp4"),
    **{
        f"MLX {bits} bits g{group} {np.dtype(dtype).name}{' whole' if whole else ''}": Row(
            mlx(bits, group, dtype, whole), f"int{bits}"
        )
        for bits in (2, 3, 4, 8)
        for group in (32, 64, 128)
        for dtype in (F16, BF16)
        for whole in (False, True)
    },
    **{
        f"GPTQ {bits} bits g{group}{'' if zero else ' asymmetric'}": Row(
            gptq_of(bits, group, zero),
            f"int{bits}",
        )
        for bits in (2, 3, 4, 8)
        for group in (32, 64, 128, 192)
        for zero in (None, 1 << (bits - 1))
    },
    **{f"AWQ g{group}": Row(awq_of(group), "int4") for group in (32, 64, 128)},
    **{
        f"compressed-tensors {bits} bits g{group}{'' if symmetric else ' asymmetric'}": Row(
            ct(bits, group, symmetric), f"int{bits}"
        )
        for bits in (2, 3, 4, 8)
        for group in (32, 64, 128, 192)
        for symmetric in (True, False)
    },
    "BitNet": Row(bitnet, "ternary"),
    "GPT-OSS": Row(gpt_oss, "mxfp4"),
}


def weight_of(source):
    """Returns the low-bit tensor of a checkpoint."""
    return next(t for t in logical_tensors(source) if t.quantize and not t.has_floats)


@pytest.mark.parametrize("name", ROWS)
def test_what_is_taken_over_and_in_how_many_bytes(tmp_path, name):
    row = ROWS[name]
    with Checkpoint(row.write(Written(tmp_path / "source")).path) as source:
        tensor = weight_of(source)
        found = tensor.exact_format(source)
        near = tensor.near_format(source)
        if row.format not in FORMATS:
            pytest.skip(f"{name} needs {row.format}")
        if row.rounded:
            assert found is None
            assert near is not None
            found = near
        assert found is not None
        before = sum(source.info(part).nbytes for part in tensor.stored)
        after = 0
        signal = noise = 0.0
        for matrix in range(tensor.matrices):
            rows = tensor.shape[-2]
            packed = tensor.exact_rows(source, found, matrix, 0, rows)
            after += packed.nbytes
            values = tensor.read_values(source, matrix, 0, rows).astype(np.float64)
            signal += float(np.square(values).sum())
            noise += float(np.square(packed.dequantize() - values).sum())
    print(f"{name}: {found.packing} {found.scale_dtype}, {after / before:.3f} of the bytes")
    assert found.packing.format == row.format
    assert after <= row.growth * before
    assert noise <= (1e-6 * signal if row.rounded else 0.0)


@pytest.mark.parametrize("name", ["GGUF IQ4_NL", "GGUF MXFP4", "MLX mxfp4", "AWQ g128"])
def test_the_report_says_so(tmp_path, name):
    source = ROWS[name].write(Written(tmp_path / "source")).path
    if name.startswith("GGUF"):
        source = source / "m.gguf"
    report = binq.quantize_checkpoint(source, tmp_path / "packed", "int4")
    (entry,) = [t for t in report.tensors if t.name == DOWN]
    assert entry.format.endswith("exact")
    assert entry.sqnr_db == np.inf
    assert entry.bytes_after <= 9 / 8 * entry.bytes_before
    again = binq.load(tmp_path / "packed")[DOWN]
    assert again.format == ROWS[name].format


@pytest.mark.parametrize(
    ("group", "size"), [(96, 32), (160, 32), (320, 64), (512, 256), (1024, 256)]
)
@pytest.mark.parametrize("symmetric", [True, False])
def test_larger_groups_are_several(tmp_path, group, size, symmetric):
    """Scales are repeated; the last group of a row may be shorter."""
    written = Written(tmp_path / "source")
    compressed(written, MODULE, (64, 2560), 4, group, symmetric)
    save(written, {**QWEN3, "quantization_config": models.ct_config(4, group, symmetric)})
    report = binq.quantize_checkpoint(written.path, tmp_path / "packed", "int4")
    (entry,) = [t for t in report.tensors if t.name == DOWN]
    zero = "" if symmetric else " asymmetric"
    assert entry.format == f"int4 g{size}{zero} exact"
    assert entry.sqnr_db == np.inf
    again = binq.load(tmp_path / "packed")[DOWN]
    with Checkpoint(written.path) as source:
        values = weight_of(source).read_values(source, 0, 0, 64)
        assert np.array_equal(binq.load(written.path)[DOWN].dequantize(), values)
    assert np.array_equal(again.dequantize(), values)


def test_every_source_of_gguf_has_a_row():
    assert {"Q4_0", "Q8_0", "TQ1_0", "TQ2_0", "Q1_0", "Q2_0", "MXFP4"} <= {
        *GGUF_TYPES,
        *GGUF_RAW,
    }
