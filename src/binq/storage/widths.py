"""The number of inputs that config.json gives a linear layer, told by the layer's name.

Some packed weights fit several shapes; which one is right, the configuration of the model knows.
"""

import re
from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

# Parts of a model that have a configuration of their own.
_ELSEWHERE = re.compile(r"(^|\.)(visual|vision\w*|audio\w*|embed_vision|multi_modal\w*|mtp)\.")
_WIDE = re.compile(
    r"((q|k|v|qkv|gate|up|gate_up|q_a|in_proj_qkv|in_proj_z)_proj|kv_a_proj_with_mqa"
    r"|in_proj_(qkv|qkvz|z|a|b|ba)|lm_head|embed_tokens)$"
)
_EXPERT = re.compile(r"\.(experts|switch_mlp|switch_glu)\.")
_SHARED = re.compile(r"\.shared_experts?\.")
# Models whose experts are as wide as intermediate_size says.
_PLAIN_EXPERTS = ("gpt_oss", "llama4", "llama4_text")


def input_widths(config: Mapping[str, Any], module: str) -> frozenset[int]:
    """Returns the numbers of inputs that a module may have, none where that is not known.

    >>> sorted(input_widths({"hidden_size": 64, "intermediate_size": 256}, "m.mlp.down_proj"))
    [256]
    >>> sorted(input_widths({"hidden_size": 64}, "model.layers.0.mlp.gate"))
    []
    """
    text = config.get("text_config")
    sizes = text if isinstance(text, Mapping) else config
    if _ELSEWHERE.search(module):
        return frozenset()
    return frozenset(_widths(sizes, module))


def _widths(sizes: Mapping[str, Any], module: str) -> Iterator[int]:
    def product(*keys: str) -> Iterator[int]:
        values = [sizes.get(key) for key in keys]
        if all(type(value) is int and value > 0 for value in values):
            yield prod(value for value in values if value is not None)

    last = module.rpartition(".")[2]
    if _WIDE.fullmatch(last):
        yield from product("hidden_size")
    elif last == "o_proj" and not str(sizes.get("model_type")).startswith("gemma4"):
        # Heads of Gemma 4 are of two sizes, one of which may stand nowhere.
        for key in ("head_dim", "global_head_dim", "v_head_dim"):
            yield from product("num_attention_heads", key)
    elif last == "out_proj" and ".linear_attn." in module:
        yield from product("linear_num_value_heads", "linear_value_head_dim")
    elif last in ("q_b_proj", "kv_b_proj"):
        yield from product(f"{last[:-7]}_lora_rank")
    elif last == "down_proj" and _SHARED.search(module):
        yield from product("shared_expert_intermediate_size")
        yield from product("moe_intermediate_size", "n_shared_experts")
        if sizes.get("model_type") in _PLAIN_EXPERTS:
            yield from product("intermediate_size")
    elif last == "down_proj" and _EXPERT.search(module):
        own = "moe_intermediate_size" in sizes
        if own or sizes.get("model_type") in _PLAIN_EXPERTS:
            yield from product("moe_intermediate_size" if own else "intermediate_size")
    elif last == "down_proj":
        for width in product("intermediate_size"):
            yield width
            if sizes.get("use_double_wide_mlp"):
                yield 2 * width
        yield from product("intermediate_size_mlp")
