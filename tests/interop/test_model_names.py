"""The table of families against the classes of transformers: the roles of all their matrices."""

import pytest

from binq.models import UNKNOWN, table
from binq.models.family import judge

pytestmark = pytest.mark.interop
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "encoder_layers", "decoder_layers", "depth",
          "num_decoder_layers", "n_layers")  # fmt: skip
CLASSES = ("AutoModelForPreTraining", "AutoModelForCausalLM", "AutoModelForImageTextToText",
           "AutoModelForSpeechSeq2Seq", "AutoModelForSeq2SeqLM", "AutoModelForMaskedLM",
           "AutoModelForCTC", "AutoModelForImageClassification", "AutoModel")  # fmt: skip
# Those whose default configuration makes a model; the rest have the names of one of these.
TYPES = (
    "albert", "apertus", "arcee", "bart", "beit", "bert", "bloom", "clip", "cohere", "cohere2",
    "deberta-v2", "dinov2", "distilbert", "electra", "ernie4_5", "exaone4", "falcon", "gemma",
    "gemma2", "gemma3", "gemma3_text", "glm", "glm4", "glm4_moe", "gpt2", "gpt_bigcode", "gpt_neo",
    "gpt_neox", "gptj", "granite", "hubert", "idefics3", "internvl", "llama", "llava",
    "m2m_100", "marian", "mbart", "ministral3", "mistral", "mistral3", "modernbert", "mpnet", "mt5",
    "nomic_bert", "olmo", "olmo2", "olmo3", "olmoe", "openai-gpt", "opt", "paligemma", "pegasus",
    "phi", "phi3", "qwen2", "qwen2_5_vl", "qwen2_vl", "qwen3", "qwen3_vl", "roberta", "seed_oss",
    "siglip", "siglip2", "smollm3", "smolvlm", "stablelm", "starcoder2", "t5", "vit", "wav2vec2",
    "whisper", "xlm-roberta",
)  # fmt: skip


def shapes_of(kind):
    """Returns name -> shape of the tensors of a model of few layers, which takes no memory."""
    config = transformers.CONFIG_MAPPING[kind]()
    parts = [config, *(getattr(config, f"{part}_config", None) for part in ("text", "vision"))]
    for part in filter(None, parts):
        for key in LAYERS:
            if isinstance(getattr(part, key, None), int):
                setattr(part, key, min(getattr(part, key), 2))
    for name in CLASSES:
        try:
            with torch.device("meta"):
                made = getattr(transformers, name).from_config(config)
        except ValueError:  # no such class for this model
            continue
        return {name: tuple(tensor.shape) for name, tensor in made.state_dict().items()}
    raise AssertionError(f"{kind}: no class of transformers makes it")


@pytest.mark.parametrize("kind", TYPES)
def test_every_matrix_of_a_family_has_a_role(kind):
    rules = table.FAMILIES[kind].rules_for({"num_hidden_layers": 2})
    shapes = {name: shape for name, shape in shapes_of(kind).items() if len(shape) > 1}
    verdicts = {name: judge(rules, name, shape) for name, shape in shapes.items()}
    assert [name for name, verdict in verdicts.items() if verdict.reason == UNKNOWN] == []
    linears = {name for name, verdict in verdicts.items() if verdict.quantize}
    assert linears
    for name in linears:
        assert not any(word in name for word in ("embed_", "embeddings", "lm_head", "norm", "conv"))
    # What is looked up, and what gives the numbers of a vocabulary, has as many rows as that.
    vocabulary = max(shape[0] for shape in shapes.values())
    if vocabulary > 20000:
        assert not any(shapes[name][0] == vocabulary for name in linears)
