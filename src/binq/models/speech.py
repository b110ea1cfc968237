"""Models that hear: Whisper, wav2vec 2.0 and its kin."""

from binq.models.dense import EMBEDDING, HEAD, SMALL
from binq.models.family import Family, Rule
from binq.models.generic import GENERIC, NORMS

_RULES = (
    *NORMS,
    Rule(r"(^|\.)embed_positions\.weight$", "embedding", EMBEDDING),
    Rule(r"(^|\.)(conv\d?|conv_layers|pos_conv_embed)\.", "conv", "a convolution"),
    Rule(r"(^|\.)(proj_out|projector|ctc_proj)\.weight$", "head", HEAD),
    Rule(r"(^|\.)(quantizer|project_hid|project_q|gru_rel_pos_linear)\.", "other", SMALL),
    *GENERIC,
)

FAMILY = Family(
    name="Whisper, wav2vec 2.0",
    model_types=("hubert", "wav2vec2", "wavlm", "whisper"),
    rules=_RULES,
)
