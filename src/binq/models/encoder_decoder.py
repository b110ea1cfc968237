"""Encoder-decoders of text: T5 and BART, and what was made of them (NLLB, Marian, Pegasus)."""

from binq.models.family import Family
from binq.models.generic import GENERIC

FAMILY = Family(
    name="T5 and BART",
    model_types=(
        "bart", "blenderbot", "longt5", "m2m_100", "marian", "mbart", "mt5", "pegasus", "t5",
        "umt5",
    ),
    rules=GENERIC,
)  # fmt: skip
