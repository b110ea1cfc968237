"""Qwen 3.5: three layers of linear attention to one of full attention, a vision tower, MTP."""

from binq.models.dense import DENSE, MTP, SMALL, VISION
from binq.models.family import Family, Rule

_RULES = (
    Rule(r"(^|\.)(visual|vision_tower)\.", "vision", VISION),
    Rule(r"(^|\.)mtp\.", "mtp", MTP),
    Rule(r"\.linear_attn\.in_proj_(qkv|z|qkvz)\.weight$", "linear"),
    Rule(r"\.linear_attn\.out_proj\.weight$", "linear"),
    # Gates of decay and update: 0.1 % of the weights, and they steer the state of the layer.
    Rule(r"\.linear_attn\.in_proj_(a|b|ba)\.weight$", "gate", SMALL),
    Rule(r"\.linear_attn\.(A_log|dt_bias)$", "gate", SMALL),
    Rule(r"\.linear_attn\.conv1d\.(weight|bias)$", "conv", "a convolution, not a product"),
    *DENSE,
)


FAMILY = Family(
    name="Qwen 3.5",
    model_types=(
        "qwen3_5",
        "qwen3_5_text",
        "qwen3_5_moe",
        "qwen3_5_moe_text",
        "qwen3_next",
        "prism_hadamard_qwen35",
    ),
    rules=_RULES,
)
