"""Any model: matrices named ``*.weight`` are linears, but embeddings, heads and norms by name.

What a name does not tell is kept: a stack of three axes may be a convolution, or experts that lie
either way. Families whose names were checked put their own rules before these.
"""

from binq.models.dense import BIAS, EMBEDDING, HEAD, NORM, ROUTER, SMALL
from binq.models.family import Family, Rule

CONV = "a convolution, or a stack of matrices whose inputs may lie on either axis"
_INPUT_MAJOR = "GPT-2 stores this name input-major, others do not: name the family"

NORMS = (Rule(r"(?i)(norm(_?\w+)?|(^|[._])(ln|bn|gn)(_?\w+)?)\.(weight|bias)$", "norm", NORM),)
REST = (
    Rule(r"\.weight$", "linear", axes=2),
    Rule(r"\.weight$", "conv", CONV),
)
GENERIC = (
    *NORMS,
    Rule(r"(\.|_|^)bias$", "bias", BIAS),
    Rule(r"(?i)(embed\w*|(^|[._])(wte|wpe|emb|position_ids|rel_pos\w*))\.", "embedding", EMBEDDING),
    Rule(r"^((model|encoder|decoder|transformer)\.)?shared\.weight$", "embedding", EMBEDDING),
    Rule(r"(?i)relative_attention_bias\.weight$", "embedding", EMBEDDING),
    Rule(r"(?i)(^|\.)(lm_head|embed_out|output_layer|head|classifier|pre_classifier|score|cls|pooler"
         r"|qa_outputs|logits?)(\.|$)", "head", HEAD),
    Rule(r"^(output|proj_out|decoder)\.weight$", "head", HEAD),
    Rule(r"(^|\.)(router|gate|shared_expert_gate|gate_inp)(\.\w+)?\.weight$", "router", ROUTER),
    Rule(r"\.(A_log|D|dt_bias|conv1d\.\w+|x_proj\.weight|dt_proj\.weight)$", "gate", SMALL),
    Rule(r"\.(c_attn|c_proj|c_fc)\.weight$", "other", _INPUT_MAJOR),
    *REST,
)  # fmt: skip

FAMILY = Family(name="generic", model_types=(), rules=GENERIC)
