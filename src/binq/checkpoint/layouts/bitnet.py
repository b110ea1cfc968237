"""BitNet b1.58: packed ternary weights, or the bfloat16 masters that they are made from."""

from binq.checkpoint.layouts.dense import dense_rules
from binq.checkpoint.layouts.family import Family

FAMILY = Family(
    name="BitNet",
    model_types=("bitnet",),
    rules=dense_rules,
)
