"""transformers runs what binq export wrote to compressed-tensors: logits of the same weights."""

import json

import numpy as np
import pytest

import binq

pytestmark = [pytest.mark.interop, pytest.mark.filterwarnings("ignore")]


def logits(folder, **arguments):
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, **arguments
    ).eval()
    with torch.no_grad():
        return model(torch.arange(24)[None]).logits.numpy()


CASES = [
    ("int4", {}),
    ("int4", {"group_size": 32}),
    ("int4", {"group_size": 256}),
    ("int4", {"group_size": None}),
    ("int4", {"group_size": 64, "symmetric": False}),
    ("int8", {}),
    ("int8", {"group_size": 64, "symmetric": False}),
    ("ternary", {}),
    ("binary", {"group_size": 64}),
    ("int2", {"group_size": 32}),
    ("int3", {}),
    ("mxfp4", {"group_size": 32}),
    ("int4", {"rules": ["*.down_proj.weight=ternary:g64", "*.v_proj.weight=keep"]}),
    ("int4", {"embeddings": "int4"}),
]


@pytest.mark.parametrize(("format", "settings"), CASES, ids=str)
def test_logits_are_those_of_the_dequantized_model(model, tmp_path, format, settings):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("compressed_tensors")
    packed = tmp_path / "packed"
    binq.quantize_checkpoint(model, packed, format, **settings)
    binq.export_checkpoint(packed, tmp_path / "out", to="compressed-tensors")
    binq.dequantize_checkpoint(packed, tmp_path / "plain", dtype="float32")
    expected = logits(tmp_path / "plain")
    saved = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    groups = saved["config_groups"].values()
    if len(groups) == 1:  # transformers 5.24 dequantizes all layers by the settings of the first
        dense = transformers.CompressedTensorsConfig(dequantize=True)
        found = logits(tmp_path / "out", quantization_config=dense)
        assert np.array_equal(found, expected)
    plain = all(group["weights"]["symmetric"] for group in groups) and format != "mxfp4"
    if plain and "embeddings" not in settings:
        # It expects zero points as they are before they are packed, embeddings not to be, and makes
        # bfloat16 of mxfp4 in a model of float32.
        assert np.array_equal(logits(tmp_path / "out"), expected)
