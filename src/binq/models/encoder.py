"""Encoders of text: BERT and its kin, which sentence-transformers and rerankers are made of."""

from binq.models.dense import EMBEDDING, HEAD
from binq.models.family import Family, Rule
from binq.models.generic import GENERIC, NORMS

_RULES = (
    *NORMS,
    Rule(r"(^|\.)(rel_)?embeddings(_project)?\.", "embedding", EMBEDDING),
    Rule(r"(^|\.)(predictions|discriminator_predictions|generator_\w+|vocab_\w+|seq_relationship)\.",
         "head", HEAD),
    *GENERIC,
)  # fmt: skip

FAMILY = Family(
    name="BERT",
    model_types=(
        "albert", "bert", "camembert", "deberta", "deberta-v2", "distilbert", "electra", "esm",
        "modernbert", "mpnet", "nomic_bert", "roberta", "xlm-roberta", "xlm-roberta-xl",
    ),
    rules=_RULES,
)  # fmt: skip
