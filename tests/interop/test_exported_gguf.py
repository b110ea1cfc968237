"""GGUF files that binq export wrote: gguf-py reads the same bits, llama.cpp the same model."""

import json

import numpy as np
import pytest

import binq

pytestmark = [pytest.mark.interop, pytest.mark.filterwarnings("ignore")]
TOKENS = list(range(24))
SIZES = {
    "vocab_size": 320,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Returns a function that gives the folder of a float model of a family."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    made = {}

    def model(family):
        if family in made:
            return made[family]
        own = {
            "qwen3": {"head_dim": 32},
            "llama": {"attention_bias": True},
            "llama3": {"rope_parameters": LLAMA3},
            "tied": {"tie_word_embeddings": True},
            "qwen3_moe": {
                "head_dim": 32,
                "num_experts": 4,
                "num_experts_per_tok": 2,
                "moe_intermediate_size": 256,
                "norm_topk_prob": True,
            },
            "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
        }
        kinds = {
            "qwen3": "Qwen3",
            "qwen2": "Qwen2",
            "tied": "Qwen2",
            "qwen3_moe": "Qwen3Moe",
            "mixtral": "Mixtral",
        }
        kind = kinds.get(family, "Llama")
        config = getattr(transformers, f"{kind}Config")(**{**SIZES, **own.get(family, {})})
        torch.manual_seed(0)
        made_of = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
        with torch.no_grad():
            for values in made_of.parameters():
                if values.ndim > 1:
                    values.mul_(3)
                else:
                    values.add_(0.3 * torch.randn_like(values))
        folder = tmp_path_factory.mktemp(family)
        made_of.save_pretrained(folder)
        made[family] = folder
        return folder

    return model


def expected(folder):
    """Returns what transformers computes with dequantized weights."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(torch.tensor([TOKENS])).logits.numpy()[0]


def found(path):
    """Returns what llama.cpp computes with a file."""
    llama_cpp = pytest.importorskip("llama_cpp")
    model = llama_cpp.Llama(
        str(path), n_ctx=64, logits_all=True, verbose=False, n_threads=1, type_k=0, type_v=0
    )
    model.eval(TOKENS)
    return np.array(model.scores[: len(TOKENS)])


def difference(models, tmp_path, family, *args, **settings):
    """Returns the relative difference of llama.cpp's logits from those of the same weights."""
    packed = tmp_path / "packed"
    binq.quantize_checkpoint(models(family), packed, *args, **settings)
    binq.export_checkpoint(packed, tmp_path / "m.gguf", to="gguf")
    binq.dequantize_checkpoint(packed, tmp_path / "plain", dtype="float32")
    want = expected(tmp_path / "plain")
    return np.linalg.norm(found(tmp_path / "m.gguf") - want) / np.linalg.norm(want)


@pytest.mark.parametrize(
    "family", ["qwen3", "qwen2", "llama", "llama3", "tied", "qwen3_moe", "mixtral"]
)
def test_llama_cpp_has_the_same_model(models, tmp_path, family):
    # One matrix is packed, so that what enters products is rounded to 8 bits for that one only:
    # the rest is float32.
    rules = ["*.layers.1.self_attn.v_proj.weight=int4", "*=keep"]
    assert difference(models, tmp_path, family, "int4", rules=rules) < 5e-3


@pytest.mark.parametrize("family", ["qwen3_moe", "mixtral"])
def test_llama_cpp_multiplies_packed_experts(models, tmp_path, family):
    # Those of the last layer: before it nothing is rounded that could change who is chosen.
    rules = ["*.layers.1.*.experts.*=int4", "*=keep"]
    assert difference(models, tmp_path, family, "int4", rules=rules) < 2e-2


@pytest.mark.parametrize(
    ("format", "settings"),
    [
        ("int4", {}),
        ("int4", {"group_size": 32, "symmetric": False, "zero": "offset"}),
        ("int4", {"symmetric": False}),
        ("int4", {"embeddings": "int4"}),
        ("ternary", {"group_size": 256}),
        ("ternary", {}),
        ("binary", {}),
        ("int2", {"group_size": 64}),
        ("int3", {}),
        ("mxfp4", {"group_size": 32}),
        ("iq4nl", {}),
        ("int8", {}),
    ],
    ids=str,
)
@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_llama_cpp_multiplies_the_packed_weights(models, tmp_path, family, format, settings):
    # All of them: llama.cpp rounds what enters each product to 8 bits, about 0.5% of it, in
    # fourteen matrices one behind the other.
    assert difference(models, tmp_path, family, format, **settings) < 0.04


@pytest.mark.parametrize(
    ("format", "settings"),
    [
        ("int4", {}),
        ("int4", {"group_size": 32, "symmetric": False, "zero": "offset"}),
        ("int4", {"symmetric": False, "group_size": 64}),
        ("ternary", {"group_size": 256}),
        ("ternary", {"group_size": 32}),
        ("int3", {}),
        ("mxfp4", {"group_size": 32}),
        ("iq4nl", {"group_size": 32}),
        ("int8", {"group_size": 64}),
    ],
    ids=str,
)
def test_gguf_py_reads_the_same_bits(models, tmp_path, format, settings):
    gguf = pytest.importorskip("gguf")
    from binq.models.gguf_names import written_name

    packed = tmp_path / "packed"
    binq.quantize_checkpoint(models("qwen2"), packed, format, **settings)
    binq.export_checkpoint(packed, tmp_path / "m.gguf", to="gguf")
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    read = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, 2)
    with binq.load(packed) as tensors:
        assert len(read) == len(tensors)
        for name, weights in tensors.items():
            base, _, ending = name.rpartition(".")
            assert f"{names.get_name(base)}.{ending}" == written_name(name)
            np.testing.assert_array_equal(read[written_name(name)], np.asarray(weights))
    assert reader.get_field("general.architecture").contents() == "qwen2"
    assert reader.get_field("qwen2.block_count").contents() == 2
    assert reader.get_field("qwen2.attention.key_length").contents() == 64


TEXTS = [
    "Hello world, it's 12345 o'clock!",
    "  two spaces,\n\n\ttab and 3.14 – naïve café",
    "我想 <|end|> 🦙 it's <tool>x",
    "a",
    "",
]


def bpe(tmp_path, pieces):
    """Writes a small tokenizer that the library trains, byte-level or of pieces."""
    tokenizers = pytest.importorskip("tokenizers")
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

    if pieces:
        tokenizer = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
        tokenizer.decoder = decoders.Sequence([decoders.ByteFallback()])
        special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
        trainer = trainers.BpeTrainer(vocab_size=315, special_tokens=special, show_progress=False)
    else:
        pattern = (
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
            r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        )
        tokenizer = tokenizers.Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.post_processor = processors.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=312, initial_alphabet=alphabet, show_progress=False
        )
    lines = [*TEXTS[:2], "the hello world is what it's all about", "world hello"] * 20
    tokenizer.train_from_iterator(lines, trainer)
    if pieces:
        text = json.loads(tokenizer.to_str())
        text["added_tokens"] = text["added_tokens"][:3]  # bytes are no special tokens
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(text))
    else:
        tokenizer.add_special_tokens(["<|end|>"])
        tokenizer.add_tokens(["<tool>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    settings = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    settings["add_bos_token"] = False
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps(settings if pieces else {"eos_token": "<|end|>"})
    )
    return tokenizer


@pytest.mark.parametrize("pieces", [False, True], ids=["byte-level", "pieces"])
def test_llama_cpp_cuts_texts_into_the_same_tokens(models, tmp_path, pieces):
    llama_cpp = pytest.importorskip("llama_cpp")
    packed = tmp_path / "packed"
    binq.quantize_checkpoint(models("llama" if pieces else "qwen3"), packed, "int4")
    tokenizer = bpe(packed, pieces)
    report = binq.export_checkpoint(packed, tmp_path / "m.gguf", to="gguf")
    assert not report.notes
    model = llama_cpp.Llama(str(tmp_path / "m.gguf"), vocab_only=True, verbose=False)
    for text in TEXTS:
        want = tokenizer.encode(text, add_special_tokens=False).ids
        got = model.tokenize(text.encode(), add_bos=False, special=not pieces)
        assert got == want, text
