"""GGUF files, whatever the model: llama.cpp gives the tensors of all of them the same names."""

from collections.abc import Mapping
from typing import Any

from binq.models.dense import BIAS, EMBEDDING, HEAD, MTP, NORM, ROUTER, SMALL
from binq.models.family import Family, Rule
from binq.models.generic import GENERIC

# general.architecture of the files whose names and meaning were checked.
ARCHITECTURES = (
    "bitnet", "cohere2", "command-r", "deepseek2", "ernie4_5", "exaone4", "gemma", "gemma2",
    "gemma3", "gemma4", "gpt-oss", "granite", "granitemoe", "hunyuan-dense", "llama", "llama4",
    "mistral3", "olmo2", "olmoe", "phi3", "qwen2", "qwen2moe", "qwen2vl", "qwen3", "qwen3moe",
    "qwen3vl", "qwen3vlmoe", "qwen35", "qwen35moe", "seed_oss", "smollm3", "stablelm",
)  # fmt: skip

_PROJECTOR = "the vision or audio part stays as it is"
_RULES = (
    Rule(r"^token_embd\.weight$", "embedding", EMBEDDING),
    Rule(r"^per_layer_token_embd\.weight$", "embedding", EMBEDDING),
    Rule(r"^output\.weight$", "head", HEAD),
    Rule(r"norm\.(weight|bias)$", "norm", NORM),
    Rule(r"\.(ffn_gate_inp(_shexp)?|exp_probs_b)(\.|$)", "router", ROUTER),
    Rule(r"\.bias$", "bias", BIAS),
    Rule(r"\.scale$", "other", SMALL),
    Rule(r"\.(ssm_(a|dt|conv1d|alpha|beta)|attn_sinks|layer_output_scale)(\.|$)", "gate", SMALL),
    Rule(r"^rope_(freqs|factors_long|factors_short)\.weight$", "other", SMALL),
    Rule(r"\.attn_(q|k|v|qkv|output|gate|q_a|q_b|kv_a_mqa|kv_b|k_b|v_b)\.weight$", "linear"),
    Rule(r"\.ffn_(gate|up|down)(_shexp)?\.weight$", "linear"),
    Rule(r"\.ffn_(gate|up|down|gate_up)_exps\.weight$", "expert"),
    Rule(r"\.ssm_out\.weight$", "linear"),
)


# Architectures that were not checked: what else llama.cpp names, and then any matrix.
_ANY = (
    *_RULES,
    Rule(r"^(token_types|position_embd|.*_embd)\.weight$", "embedding", EMBEDDING),
    Rule(r"^(cls|cls\.output|dense_\d)\.weight$", "head", HEAD),
    Rule(r"(^|\.)nextn\.", "mtp", MTP),
    Rule(r"^(v|a|mm)\.", "vision", _PROJECTOR),
    Rule(r"(_norm_\d|_norm_exps|\.ln\d|norm_embd)\.weight$", "norm", NORM),
    Rule(r"\.(ssm_(x|d|ba|f_\w|g_\w|conv1d_\w)|time_mix_(?!key|value|receptance|output|gate\b)\w+"
         r"|altup_\w+|laurel_\w|inp_gate|proj|indexer\.\w+|attn_rel_b)\.weight$", "gate", SMALL),
    *GENERIC,
)  # fmt: skip


def _rules(config: Mapping[str, Any]) -> tuple[Rule, ...]:
    return _RULES if config.get("general.architecture") in ARCHITECTURES else _ANY


FAMILY = Family(
    name="GGUF",
    model_types=ARCHITECTURES,
    rules=_rules,
)
