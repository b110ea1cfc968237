"""The checkpoint that the tests of conversion begin with."""

import ml_dtypes
import numpy as np
import pytest
from checkpoints.folders import LAYER, write_json

import binq


@pytest.fixture
def source(tmp_path):
    """A Qwen 3 folder in three shards, with a tokenizer, a stray file and a folder."""
    folder = tmp_path / "source"
    folder.mkdir()
    rng = np.random.default_rng(0)
    tensors = {
        "model.embed_tokens.weight": (70, 96),
        f"{LAYER}.self_attn.q_proj.weight": (96, 96),
        f"{LAYER}.self_attn.q_norm.weight": (24,),
        f"{LAYER}.mlp.up_proj.weight": (130, 96),
        f"{LAYER}.mlp.up_proj.bias": (130,),
        f"{LAYER}.mlp.down_proj.weight": (96, 130),
        "lm_head.weight": (70, 96),
        "unheard.of": (40, 40),
    }
    names = list(tensors)
    weight_map = {}
    for n in range(3):
        part = {
            name: rng.standard_normal(tensors[name]).astype(ml_dtypes.bfloat16)
            for name in names[n::3]
        }
        binq.save_file(part, folder / f"model-{n}.safetensors")
        weight_map |= dict.fromkeys(part, f"model-{n}.safetensors")
    write_json(folder / "model.safetensors.index.json", {"weight_map": weight_map})
    write_json(folder / "config.json", {"model_type": "qwen3", "hidden_size": 96})
    (folder / "tokenizer.json").write_text("{}")
    (folder / "stray.safetensors").write_bytes(b"not part of the model")
    (folder / "original").mkdir()
    (folder / "original" / "model.safetensors").write_bytes(b"nor this")
    return folder
