"""GPT-2, whose matrices (class ``Conv1D``) are stored input-major: ``(in_features, out_features)``.

Others gave the same names to matrices that lie the usual way, so the model's type must say it.
"""

from binq.models.dense import EMBEDDING, HEAD, SMALL
from binq.models.family import Family, Rule
from binq.models.generic import NORMS

_LINEAR = r"(^|\.)(attn|crossattention|mlp)\.(c_attn|c_proj|c_fc|q_attn)\.weight$"
_RULES = (
    *NORMS,
    Rule(r"(^|\.)(wte|wpe|tokens_embed|positions_embed)\.weight$", "embedding", EMBEDDING),
    Rule(r"(^|\.)(lm_head|score|classifier|multiple_choice_head\.summary)\.weight$", "head", HEAD),
    Rule(r"(^|\.)attn\.(bias|masked_bias)$", "other", SMALL),  # the causal mask
    Rule(r"(\.|_)bias$", "bias", "biases are small"),
    Rule(_LINEAR, "linear"),
)

FAMILY = Family(
    name="GPT-2",
    model_types=("gpt2", "openai-gpt"),
    rules=_RULES,
    input_major=_LINEAR,
)
