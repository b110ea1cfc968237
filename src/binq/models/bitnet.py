"""BitNet b1.58: packed ternary weights, or the bfloat16 masters that they are made from."""

from binq.models.dense import DENSE
from binq.models.family import Family

FAMILY = Family(
    name="BitNet",
    model_types=("bitnet",),
    rules=DENSE,
)
