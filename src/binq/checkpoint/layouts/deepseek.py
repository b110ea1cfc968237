"""DeepSeek V3: latent attention, experts one by one, and a last layer that drafts tokens."""

from collections.abc import Mapping
from typing import Any

from binq.checkpoint.layouts.common import DENSE, MTP
from binq.checkpoint.layouts.family import Family, Rule, layers
from binq.errors import FormatError

_MOST = 1000
_RULES = (
    Rule(r"\.self_attn\.(q_a|q_b|kv_b)_proj\.weight$", "linear"),
    Rule(r"\.self_attn\.kv_a_proj_with_mqa\.weight$", "linear"),
    *DENSE,
)


def _rules(config: Mapping[str, Any]) -> tuple[Rule, ...]:
    """Returns the rules; layers from num_hidden_layers on belong to the drafting module."""
    count = layers(config)
    drafting = config.get("num_nextn_predict_layers") or 0
    if not isinstance(drafting, int) or not 0 <= drafting <= _MOST:
        raise FormatError(f"num_nextn_predict_layers of config.json is {drafting!r}")
    if count is None or not drafting:
        return _RULES
    numbers = "|".join(str(count + at) for at in range(drafting))
    return (Rule(rf"^model\.layers\.({numbers})\.", "mtp", MTP), *_RULES)


FAMILY = Family(
    name="DeepSeek V3",
    model_types=("deepseek_v3",),
    rules=_rules,
)
