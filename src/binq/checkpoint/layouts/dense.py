"""Dense models and mixtures in the manner of Llama and Qwen 3: Bonsai is one of them."""

from binq.checkpoint.layouts.common import dense_rules
from binq.checkpoint.layouts.family import Family

FAMILY = Family(
    name="dense",
    model_types=("llama", "mistral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe"),
    rules=dense_rules,
)
