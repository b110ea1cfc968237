"""The models that are timed: shapes of real ones, weights by chance, the same for every library.

What a model says costs the same time whatever it says: no download is needed.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

import binq

# Those of llama.cpp's smallest type; its Q4_0 has blocks of 32, that repeat a scale.
GROUP_SIZES = {"binary": 128, "ternary": 256, "int4": 128}
# The root mean square of the codes of a format, each as likely as the others.
SPREAD = {"binary": 1.0, "ternary": 0.82, "int4": 4.6}
# What llama.cpp holds the same weights in.
GGUF_TYPES = {"binary": "Q1_0", "ternary": "TQ2_0", "int4": "Q4_0"}


def _shape(
    hidden: int, layers: int, heads: int, kv_heads: int, size: int, inner: int, vocabulary: int
) -> dict[str, Any]:
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": size,
        "intermediate_size": inner,
        "vocab_size": vocabulary,
        "tie_word_embeddings": True,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "max_position_embeddings": 4096,
        "hidden_act": "silu",
        "attention_bias": False,
        "torch_dtype": "float32",
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


SHAPES = {
    "Qwen3-0.6B": _shape(1024, 28, 16, 8, 128, 3072, 151936),
    # 4 of its 36 layers and a fifth of its vocabulary: float32 weights of all would be 16 GB.
    "Qwen3-4B, 4 layers": _shape(2560, 4, 32, 8, 128, 9728, 32768),
    "tiny": _shape(256, 2, 4, 2, 64, 512, 1024),
}


def _matrices(c: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Returns the shapes of all matrices by name."""
    hidden, inner = c["hidden_size"], c["intermediate_size"]
    q, kv = (c[f"num_{name}_heads"] * c["head_dim"] for name in ("attention", "key_value"))
    found = {"model.embed_tokens.weight": (c["vocab_size"], hidden)}
    for n in range(c["num_hidden_layers"]):
        for name, shape in {
            "self_attn.q_proj": (q, hidden),
            "self_attn.k_proj": (kv, hidden),
            "self_attn.v_proj": (kv, hidden),
            "self_attn.o_proj": (hidden, q),
            "mlp.gate_proj": (inner, hidden),
            "mlp.up_proj": (inner, hidden),
            "mlp.down_proj": (hidden, inner),
        }.items():
            found[f"model.layers.{n}.{name}.weight"] = shape
    return found


def _norms(c: dict[str, Any]) -> dict[str, int]:
    """Returns the sizes of all vectors by name."""
    found = {"model.norm.weight": c["hidden_size"]}
    for n in range(c["num_hidden_layers"]):
        for name in ("input_layernorm", "post_attention_layernorm"):
            found[f"model.layers.{n}.{name}.weight"] = c["hidden_size"]
        for name in ("q_norm", "k_norm"):
            found[f"model.layers.{n}.self_attn.{name}.weight"] = c["head_dim"]
    return found


def _codes(
    rng: np.random.Generator, format: str, shape: tuple[int, int]
) -> np.ndarray[Any, np.dtype[np.int8]]:
    if format == "int4":
        return rng.integers(-8, 8, shape, dtype=np.int8)
    if format == "ternary":
        return rng.integers(-1, 2, shape, dtype=np.int8)
    return rng.integers(0, 2, shape, dtype=np.int8) * np.int8(2) - np.int8(1)


def make(shape: str, format: str, folder: Path) -> Path:
    """Returns a packed folder of random weights, which may be there already."""
    if (folder / "config.json").exists():  # Written last.
        return folder
    config = SHAPES[shape]
    group = GROUP_SIZES[format]
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Any] = {}
    for name, (rows, columns) in _matrices(config).items():
        size = (0.5 + rng.random((rows, columns // group))) / SPREAD[format] / columns**0.5
        tensors[name] = binq.QuantizedArray.from_codes(
            _codes(rng, format, (rows, columns)),
            size.astype(np.float16),
            format=format,
            group_size=group,
        )
    for name, length in _norms(config).items():
        tensors[name] = (0.8 + 0.4 * rng.random(length)).astype(np.float32)
    shard = "model-00001-of-00001.safetensors"
    binq.save_file(tensors, folder / shard)
    index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, shard)}
    (folder / "binq.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(config))
    return folder
