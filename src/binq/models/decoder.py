"""Decoders whose linears have names of their own: GPT-NeoX, Falcon, BLOOM, OPT, Phi, StarCoder.

Some took over the names of GPT-2, but not its class: their matrices lie ``(out, in)``.
"""

from binq.models.family import Family, Rule
from binq.models.generic import GENERIC

_RULES = (
    Rule(r"(^|\.)(attn|mlp)\.(c_attn|c_proj|c_fc)\.weight$", "linear"),
    *GENERIC,
)

FAMILY = Family(
    name="GPT-NeoX and others",
    model_types=(
        "bloom", "codegen", "falcon", "gpt_bigcode", "gpt_neo", "gpt_neox", "gptj", "mpt", "opt",
        "phi", "starcoder2",
    ),
    rules=_RULES,
)  # fmt: skip
