"""GGUF files, whatever the model: llama.cpp gives the tensors of all of them the same names."""

from collections.abc import Mapping
from typing import Any

from binq.models.dense import BIAS, EMBEDDING, HEAD, NORM, ROUTER, SMALL
from binq.models.family import Family, Rule

# general.architecture of the files whose names and meaning were checked.
ARCHITECTURES = (
    "bitnet", "deepseek2", "gemma4", "gpt-oss", "llama", "llama4", "qwen2", "qwen3", "qwen3moe",
    "qwen35",
)  # fmt: skip

_RULES = (
    Rule(r"^token_embd\.weight$", "embedding", EMBEDDING),
    Rule(r"^per_layer_token_embd\.weight$", "embedding", EMBEDDING),
    Rule(r"^output\.weight$", "head", HEAD),
    Rule(r"norm\.(weight|bias)$", "norm", NORM),
    Rule(r"\.(ffn_gate_inp(_shexp)?|exp_probs_b)(\.|$)", "router", ROUTER),
    Rule(r"\.bias$", "bias", BIAS),
    Rule(r"\.scale$", "other", SMALL),
    Rule(r"\.(ssm_(a|dt|conv1d|alpha|beta)|attn_sinks|layer_output_scale)(\.|$)", "gate", SMALL),
    Rule(r"^rope_freqs\.weight$", "other", SMALL),
    Rule(r"\.attn_(q|k|v|qkv|output|gate|q_a|q_b|kv_a_mqa|kv_b|k_b|v_b)\.weight$", "linear"),
    Rule(r"\.ffn_(gate|up|down)(_shexp)?\.weight$", "linear"),
    Rule(r"\.ffn_(gate|up|down|gate_up)_exps\.weight$", "expert"),
    Rule(r"\.ssm_out\.weight$", "linear"),
)


def _rules(config: Mapping[str, Any]) -> tuple[Rule, ...]:
    return _RULES


FAMILY = Family(
    name="GGUF",
    model_types=ARCHITECTURES,
    rules=_rules,
)
