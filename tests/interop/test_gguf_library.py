"""GGUF against the gguf library: files that it writes, and its own dequantization."""

import numpy as np
import pytest

import binq
from binq.files.checkpoint import Checkpoint
from binq.models import logical_tensors
from binq.storage.gguf_writer import write_blocks

pytestmark = pytest.mark.interop
gguf = pytest.importorskip("gguf")

NAME = "blk.0.ffn_up.weight"
# Where the float16 scales lie in a block.
SCALES = {
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "Q2_K": (80, 82),
    "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "TQ1_0": (52,),
    "TQ2_0": (64,), "MXFP4": (), "NVFP4": (), "IQ4_NL": (0,), "IQ4_XS": (0,), "IQ1_S": (0,),
    "IQ2_XXS": (0,), "IQ2_XS": (0,), "IQ2_S": (0,), "IQ3_XXS": (0,), "IQ3_S": (0,), "IQ1_M": (),
}  # fmt: skip


def written(folder, kind, blocks):
    writer = gguf.GGUFWriter(str(folder / "m.gguf"), "qwen3")
    writer.add_file_type(1)
    writer.add_array("tokenizer.ggml.tokens", [f"token {i}" for i in range(3000)])
    writer.add_tensor(NAME, blocks, raw_dtype=kind)
    writer.add_tensor("blk.0.ffn_norm.weight", np.ones(512, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return Checkpoint(folder)


@pytest.mark.parametrize("name", sorted(SCALES))
def test_random_blocks_have_the_values_that_the_library_gives(tmp_path, name):
    kind = getattr(gguf.GGMLQuantizationType, name)
    weights, size = gguf.GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(7)
    blocks = rng.integers(0, 256, (40 * 512 // weights, size), dtype=np.uint8)
    for at in SCALES[name]:
        half = rng.uniform(-1, 1, len(blocks)).astype(np.float16)
        blocks[:, at : at + 2] = half.view(np.uint8).reshape(-1, 2)
    if name == "MXFP4":
        blocks[:, 0] = rng.integers(90, 150, len(blocks))
    if name == "NVFP4":
        blocks[:, :4] &= 0x7F
    if name == "IQ1_M":  # its scale is made of the upper bits of four words: never inf or NaN
        blocks[:, 55] &= 0x3F
    blocks = blocks.reshape(40, -1)
    with written(tmp_path, kind, blocks) as source:
        tensor = next(tensor for tensor in logical_tensors(source) if tensor.stored[0] == NAME)
        np.testing.assert_array_equal(tensor.read(source), gguf.dequantize(blocks, kind))


@pytest.mark.parametrize("name", ["Q4_0", "Q8_0", "TQ1_0", "TQ2_0", "MXFP4"])
def test_weights_that_the_library_quantized_are_read_exactly(tmp_path, name):
    kind = getattr(gguf.GGMLQuantizationType, name)
    weights = np.random.default_rng(3).standard_normal((40, 512)).astype(np.float32)
    blocks = gguf.quantize(weights, kind)
    with written(tmp_path, kind, blocks) as source:
        tensor = next(tensor for tensor in logical_tensors(source) if tensor.stored[0] == NAME)
        np.testing.assert_array_equal(tensor.read(source), gguf.dequantize(blocks, kind))


@pytest.mark.parametrize(
    ("format", "group", "name"),
    [
        ("int4", 32, "Q4_0"),
        ("int4", 128, "Q5_0"),
        ("ternary", 256, "TQ2_0"),
        ("binary", 64, "Q8_0"),
    ],
)
def test_the_library_reads_what_is_written(format, group, name):
    weights = np.random.default_rng(4).standard_normal((40, 512)).astype(np.float32)
    q = binq.quantize(weights, format, group_size=group)
    kind, blocks = write_blocks(q, name)
    values = gguf.dequantize(blocks, gguf.GGMLQuantizationType[kind])
    np.testing.assert_array_equal(values, q.dequantize())
