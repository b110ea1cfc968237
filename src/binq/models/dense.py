"""Models in the manner of Llama and Qwen 3, with experts or without: Bonsai is one of them.

Most families begin with the same rules, and put their own before them.
"""

from collections.abc import Mapping
from typing import Any

from binq.models.family import Family, Rule

NORM = "norms are small and sensitive"
BIAS = "biases are small"
ROUTER = "a router chooses experts: small and sensitive"
EMBEDDING = "embeddings stay as they are unless asked for"
HEAD = "the output head stays as it is unless asked for"
VISION = "the vision part stays as it is"
AUDIO = "the audio part stays as it is"
MTP = "the module that drafts further tokens stays as it is"
SMALL = "small and sensitive"

EMBEDDINGS = (
    Rule(r"(^|\.)embed_tokens\.weight$", "embedding", EMBEDDING),
    Rule(r"(^|\.)lm_head\.weight$", "head", HEAD),
)
NORMS = (Rule(r"norm(_?\d)?\.(weight|bias)$", "norm", NORM),)
BIASES = (Rule(r"(\.|_)bias$", "bias", BIAS),)
ATTENTION = (Rule(r"\.self_attn\.([qkvo]|qkv)_proj\.weight$", "linear"),)
MLP = (Rule(r"\.mlp\.(gate|up|down|gate_up)_proj\.weight$", "linear"),)
EXPERTS = (
    Rule(r"\.mlp\.experts\.\d+\.(gate|up|down)_proj\.weight$", "expert"),
    Rule(r"\.mlp\.(experts|switch_mlp)\.(gate_up|gate|up|down)_proj(\.weight)?$", "expert"),
    Rule(r"\.mlp\.shared_experts?\.(gate|up|down)_proj\.weight$", "linear"),
)
ROUTERS = (
    Rule(r"\.mlp\.gate\.(weight|bias|e_score_correction_bias)$", "router", ROUTER),
    Rule(r"\.mlp\.shared_expert_gate\.weight$", "router", ROUTER),
)
DENSE = (*EMBEDDINGS, *NORMS, *ROUTERS, *BIASES, *ATTENTION, *MLP, *EXPERTS)


def dense_rules(config: Mapping[str, Any]) -> tuple[Rule, ...]:
    """Returns the rules of dense models and of mixtures whose experts have their usual names."""
    return DENSE


FAMILY = Family(
    name="dense",
    model_types=("llama", "mistral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe"),
    rules=dense_rules,
)
