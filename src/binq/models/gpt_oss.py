"""GPT-OSS: fused experts, in MXFP4 output-major or in bfloat16 input-major.

Rows of gate_up_proj (columns, in the bfloat16 releases) alternate between gate and up: a
quantizer with groups along the inputs need not care.
"""

from binq.models.dense import DENSE, ROUTER, SMALL
from binq.models.family import Family, Rule

_EXPERTS = r"\.mlp\.experts\.(gate_up|down)_proj$"
_RULES = (
    Rule(_EXPERTS, "expert"),
    Rule(r"\.mlp\.router\.(weight|bias)$", "router", ROUTER),
    Rule(r"\.self_attn\.sinks$", "other", SMALL),
    *DENSE,
)


FAMILY = Family(
    name="GPT-OSS",
    model_types=("gpt_oss",),
    rules=_RULES,
    input_major=_EXPERTS,
)
