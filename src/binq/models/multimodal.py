"""Language models that see or hear, in the manner of LLaVA: the tower beside them is kept."""

from binq.models.dense import AUDIO, DENSE, VISION
from binq.models.family import Family, Rule

_TOWERS = (
    r"(^|\.)(visual|vision_tower|vision_model|vision_encoder|multi_modal_projector|connector"
    r"|image_newline)(\.|$)"
)
_RULES = (
    Rule(_TOWERS, "vision", VISION),
    Rule(r"(^|\.)(audio_tower|embed_audio)\.", "audio", AUDIO),
    *DENSE,
)

FAMILY = Family(
    name="LLaVA and others that see",
    model_types=(
        "gemma3", "idefics3", "internvl", "llava", "llava_next", "mistral3", "paligemma",
        "qwen2_5_vl", "qwen2_vl", "qwen3_vl", "smolvlm",
    ),
    rules=_RULES,
)  # fmt: skip
