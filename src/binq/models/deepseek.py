"""DeepSeek V3: latent attention, experts one by one, and a last layer that drafts tokens."""

from collections.abc import Mapping
from typing import Any

from binq.errors import FormatError
from binq.models.dense import DENSE, MTP, SMALL
from binq.models.family import Family, Rule, layers

_MOST = 10_000
_RULES = (
    Rule(r"\.self_attn\.(q_a|q_b|kv_b)_proj\.weight$", "linear"),
    Rule(r"\.self_attn\.kv_a_proj_with_mqa\.weight$", "linear"),
    Rule(r"\.self_attn\.indexer\.", "gate", SMALL),
    *DENSE,
)


def _rules(config: Mapping[str, Any]) -> tuple[Rule, ...]:
    """Returns the rules; layers from num_hidden_layers on belong to the drafting module."""
    count = layers(config)
    if count is None:
        return _RULES
    if not 0 <= count <= _MOST:
        raise FormatError(f"num_hidden_layers of config.json is {count}")
    numbers = "|".join(map(str, range(count)))
    return (Rule(rf"^model\.layers\.(?!({numbers})\.)\d+\.", "mtp", MTP), *_RULES)


FAMILY = Family(
    name="DeepSeek V3",
    model_types=("deepseek_v2", "deepseek_v3", "deepseek_v32", "kimi_k2"),
    rules=_rules,
)
