"""A folder that binq packed, of two layers of Qwen 3."""

import json

import numpy as np
import pytest
from checkpoints.exported import CONFIG, SIZES

import binq


@pytest.fixture(scope="session")
def qwen3(tmp_path_factory):
    """A float folder, with a file beside the weights."""
    folder = tmp_path_factory.mktemp("qwen3")
    rng = np.random.default_rng(0)
    tensors = {
        "model.embed_tokens.weight": rng.standard_normal((96, 256), np.float32),
        "model.norm.weight": rng.uniform(0.5, 1.5, 256).astype(np.float32),
        "lm_head.weight": rng.standard_normal((96, 256), np.float32) / 16,
    }
    for layer in range(2):
        for name, shape in SIZES.items():
            values = rng.standard_normal(shape, np.float32) / 16
            tensors[f"model.layers.{layer}.{name}.weight"] = values
        for name, size in (
            ("input_layernorm", 256),
            ("post_attention_layernorm", 256),
            ("self_attn.q_norm", 32),
            ("self_attn.k_norm", 32),
        ):
            tensors[f"model.layers.{layer}.{name}.weight"] = rng.uniform(0.5, 1.5, size).astype(
                np.float32
            )
    binq.save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "tokenizer_config.json").write_text("{}")
    return folder


@pytest.fixture
def packed(qwen3, tmp_path):
    """Returns a function that packs the folder as its arguments say."""

    def pack(*args, **kwargs):
        folder = tmp_path / f"packed{len(list(tmp_path.glob('packed*')))}"
        binq.quantize_checkpoint(qwen3, folder, *args, **kwargs)
        return folder

    return pack
