"""GGUF against the gguf library: files that it writes, and its own dequantization."""

import numpy as np
import pytest

from binq.files.checkpoint import Checkpoint
from binq.models import logical_tensors

pytestmark = pytest.mark.interop
gguf = pytest.importorskip("gguf")

NAME = "blk.0.ffn_up.weight"
TYPES = ["Q4_0", "Q8_0", "Q4_K", "Q6_K", "TQ1_0", "TQ2_0", "MXFP4"]


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


def scale_offsets(name):
    """The places of the float16 scales in a block."""
    return {"Q4_K": (0, 2), "Q6_K": (208,), "TQ1_0": (52,), "TQ2_0": (64,), "MXFP4": ()}.get(
        name, (0,)
    )


@pytest.mark.parametrize("name", TYPES)
def test_random_blocks_have_the_values_that_the_library_gives(tmp_path, name):
    kind = getattr(gguf.GGMLQuantizationType, name)
    weights, size = gguf.GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(7)
    blocks = rng.integers(0, 256, (40 * 512 // weights, size), dtype=np.uint8)
    for at in scale_offsets(name):
        half = rng.uniform(-1, 1, len(blocks)).astype(np.float16)
        blocks[:, at : at + 2] = half.view(np.uint8).reshape(-1, 2)
    if name == "MXFP4":
        blocks[:, 0] = rng.integers(90, 150, len(blocks))
    blocks = blocks.reshape(40, -1)
    with written(tmp_path, kind, blocks) as source:
        tensor = next(tensor for tensor in logical_tensors(source) if tensor.name == NAME)
        np.testing.assert_array_equal(tensor.read(source), gguf.dequantize(blocks, kind))


@pytest.mark.parametrize("name", ["Q4_0", "Q8_0", "TQ1_0", "TQ2_0", "MXFP4"])
def test_weights_that_the_library_quantized_are_read_exactly(tmp_path, name):
    kind = getattr(gguf.GGMLQuantizationType, name)
    weights = np.random.default_rng(3).standard_normal((40, 512)).astype(np.float32)
    blocks = gguf.quantize(weights, kind)
    with written(tmp_path, kind, blocks) as source:
        tensor = next(tensor for tensor in logical_tensors(source) if tensor.name == NAME)
        np.testing.assert_array_equal(tensor.read(source), gguf.dequantize(blocks, kind))
