"""Llama 4: fused experts stored input-major, so that their groups run along the first axis.

Quantizers that take the experts apart, and MLX, store them output-major under names of their own.
"""

from binq.models.dense import DENSE, ROUTER, VISION
from binq.models.family import Family, Rule

_EXPERTS = r"\.feed_forward\.experts\.(gate_up|down)_proj$"
_RULES = (
    Rule(r"^(model\.)?(vision_model|multi_modal_projector)\.", "vision", VISION),
    Rule(_EXPERTS, "expert"),
    Rule(r"\.feed_forward\.experts\.\d+\.(gate_up|gate|up|down)_proj\.weight$", "expert"),
    Rule(
        r"\.feed_forward\.(experts|switch_mlp)\.(gate_up|gate|up|down)_proj(\.weight)?$", "expert"
    ),
    Rule(r"\.feed_forward\.router\.weight$", "router", ROUTER),
    Rule(r"\.feed_forward\.(shared_expert\.)?(gate|up|down)_proj\.weight$", "linear"),
    *DENSE,
)


FAMILY = Family(
    name="Llama 4",
    model_types=("llama4", "llama4_text"),
    rules=_RULES,
    input_major=_EXPERTS,
)
