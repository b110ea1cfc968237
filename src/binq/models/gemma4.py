"""Gemma 4, dense, with experts, or with embeddings for each layer; and gemma4_unified.

Fused experts are output-major, gate then up, and have no ``.weight``. Linears of the vision and
audio towers are ``X.linear.weight`` beside scalar buffers.
"""

from binq.models.dense import AUDIO, DENSE, ROUTER, SMALL, VISION
from binq.models.family import Family, Rule

_LAYER_EMBEDDING = "embeddings of each layer stay as they are unless asked for"
_RULES = (
    Rule(r"(^|\.)(vision_tower|vision_embedder|embed_vision)\.", "vision", VISION),
    Rule(r"(^|\.)(audio_tower|embed_audio)\.", "audio", AUDIO),
    Rule(r"\.embed_tokens_per_layer\.weight$", "embedding", _LAYER_EMBEDDING),
    Rule(r"\.per_layer_(model_projection|input_gate|projection)\.weight$", "gate", SMALL),
    Rule(r"\.layer_scalar$", "other", SMALL),
    Rule(r"\.router\.(proj\.weight|scale|per_expert_scale)$", "router", ROUTER),
    # As published; taken apart by quantizers; by MLX.
    Rule(r"\.experts\.(gate_up|down)_proj(\.weight)?$", "expert"),
    Rule(r"\.experts\.\d+\.(gate_up|gate|up|down)_proj\.weight$", "expert"),
    Rule(r"\.(experts\.)?switch_glu\.(gate_up|gate|up|down)_proj(\.weight)?$", "expert"),
    *DENSE,
)


FAMILY = Family(
    name="Gemma 4",
    model_types=("gemma4", "gemma4_text", "gemma4_unified", "gemma4_unified_text"),
    rules=_RULES,
)
