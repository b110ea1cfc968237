"""What a GGUF file says of a model: keys of llama.cpp from a Hugging Face configuration.

Source: the GGUF specification and what llama.cpp's own converter writes for these families.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binq.errors import FormatError
from binq.files.gguf_writer import Value

# Key of config.json -> key of the architecture. llama.cpp has no default for those of _NEEDED.
_SIZES = {
    "max_position_embeddings": "context_length",
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "num_local_experts": "expert_count",
    "num_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length",
}
_NEEDED = (*list(_SIZES)[:5], "rms_norm_eps")
_YARN = {
    "extrapolation_factor": "yarn_ext_factor",
    "attention_factor": "yarn_attn_factor",
    "beta_fast": "yarn_beta_fast",
    "beta_slow": "yarn_beta_slow",
}
_MOST = 3.4e38  # what float32 holds
# Rotary embeddings whose frequencies are as they are, or are in a tensor.
_PLAIN = (None, "default", "llama3")


def metadata_of(
    config: Mapping[str, Any], architecture: str, head_dim: int | None
) -> tuple[dict[str, Value], list[str]]:
    """Returns the keys of an architecture, and notes on what the configuration does not say.

    - head_dim: the rows of q by the number of heads, None where there is no q

    Raises FormatError for another value there, and for a rotary embedding that is not known.
    """
    found: dict[str, Value] = {}
    for key, name in _SIZES.items():
        if config.get(key) is not None:
            found[f"{architecture}.{name}"] = _size(config, key)
    if config.get("rms_norm_eps") is not None:
        found[f"{architecture}.attention.layer_norm_rms_epsilon"] = _real(config, "rms_norm_eps")
    size = _size(config, "head_dim") if config.get("head_dim") is not None else head_dim
    if size is not None:
        found[f"{architecture}.attention.key_length"] = size
        found[f"{architecture}.attention.value_length"] = size
        if architecture == "llama":
            found["llama.rope.dimension_count"] = size
    rope = rope_parameters(config)
    if rope.get("rope_theta") is not None:
        found[f"{architecture}.rope.freq_base"] = _real(rope, "rope_theta")
    kind = rope.get("rope_type")
    if kind in ("linear", "yarn"):
        scaling = f"{architecture}.rope.scaling"
        found[f"{scaling}.type"] = str(kind)
        found[f"{scaling}.factor"] = _real(rope, "factor")
        if kind == "yarn":
            key = "original_max_position_embeddings"
            found[f"{scaling}.original_context_length"] = _size(rope, key)
            for key, name in _YARN.items():
                if rope.get(key) is not None:
                    found[f"{scaling}.{name}"] = _real(rope, key)
    elif kind not in _PLAIN:
        raise FormatError(
            f"config.json: rope_type {kind!r} is not written to GGUF: default, linear, yarn and "
            "llama3 are"
        )
    notes = []
    if config.get("use_sliding_window", True) and config.get("sliding_window") is not None:
        notes.append(
            f"config.json has a sliding_window of {config['sliding_window']!r}: llama.cpp has none "
            f"for {architecture} and attends to all that came before"
        )
    missing = [key for key in _NEEDED if config.get(key) is None]
    if missing:
        notes.append(f"config.json has no {', '.join(missing)}, which llama.cpp needs")
    return found, notes


def rope_parameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of the rotary embedding, wherever a release of transformers has them."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(rope, Mapping):
        raise FormatError(f"config.json: rope_parameters is {str(rope)[:40]}, not an object")
    found = dict(rope)
    if config.get("rope_theta") is not None:
        found.setdefault("rope_theta", config["rope_theta"])
    if "type" in found:
        found.setdefault("rope_type", found["type"])
    return found


def rope_factors(config: Mapping[str, Any], head_dim: int) -> NDArray[np.float32] | None:
    """Returns by what llama.cpp divides each rotary frequency of a Llama 3, None for others.

    Long waves are slowed by ``factor``, short ones are not, those between in proportion. Source:
    transformers' ``rope_type`` ``"llama3"``.
    """
    rope = rope_parameters(config)
    if rope.get("rope_type") != "llama3":
        return None
    base = _real(rope, "rope_theta") if rope.get("rope_theta") is not None else 10000.0
    factor, low, high = (_real(rope, k) for k in ("factor", "low_freq_factor", "high_freq_factor"))
    before = _size(rope, "original_max_position_embeddings")
    waves = 2 * math.pi * base ** (np.arange(0, head_dim, 2) / head_dim)
    smooth = (before / waves - low) / (high - low)
    between = 1 / ((1 - smooth) / factor + smooth)
    slow = np.where(waves > before / low, factor, between)
    return np.where(waves < before / high, 1.0, slow).astype(np.float32)


def _size(config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    if type(value) is not int or not 0 < value < 1 << 31:
        raise FormatError(f"config.json: {key} is {str(value)[:40]}, expected a size above 0")
    return value


def _real(config: Mapping[str, Any], key: str) -> float:
    value = config.get(key)
    if type(value) is bool or not isinstance(value, int | float) or not abs(value) <= _MOST:
        raise FormatError(f"config.json: {key} is {str(value)[:40]}, expected a number")
    return float(value)
