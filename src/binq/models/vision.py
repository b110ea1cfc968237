"""Models that see: vision transformers alone, or beside a text encoder as in CLIP and SigLIP."""

from binq.models.dense import EMBEDDING, HEAD
from binq.models.family import Family, Rule
from binq.models.generic import GENERIC, NORMS

_RULES = (
    *NORMS,
    Rule(r"(^|\.)(patch_embeddings?|patch_embed)\.", "conv", "embeddings of patches are small"),
    Rule(r"(^|\.)embeddings\.", "embedding", EMBEDDING),
    Rule(r"(^|\.)(visual_projection|text_projection|head)\.", "head", HEAD),
    *GENERIC,
)

FAMILY = Family(
    name="ViT, CLIP, SigLIP",
    model_types=(
        "beit", "clip", "clip_text_model", "clip_vision_model", "deit", "dinov2", "siglip",
        "siglip2", "siglip_text_model", "siglip_vision_model", "vit", "vit_mae",
    ),
    rules=_RULES,
)  # fmt: skip
