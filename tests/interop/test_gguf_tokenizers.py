"""Tokenizers taken over from GGUF, against those that the vocabulary is of: the same ids."""

import io
import json
import struct

import pytest
from checkpoints.fixtures import gguf_string, gguf_value

from binq.files.checkpoint import Checkpoint
from binq.models.gguf_tokenizer import tokenizer_files

pytestmark = pytest.mark.interop
tokenizers = pytest.importorskip("tokenizers")
transformers = pytest.importorskip("transformers")

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
ODD = [
    " ", "   ", "\n\n\n", "\t\t x", "Hello, world!", "  leading", "trailing   ",
    "a\r\nb\r\n\r\nc", "It's we'RE I'LL they'd O'Neil's 'tis", "1234567890 12 345 6,789.01",
    "३४५ ½ ² Ⅷ 一二三", "naïve café e\u0301 n\u0303 Å Å", "日本語のテキスト、漢字。カタカナ",
    "Привет, мир!", "مرحبا بالعالم", "👩‍👩‍👧‍👦🏳️‍🌈 emoji",
    "x=1;\n\tif(x>=2){\n\t\treturn -1;\n\t}\n",
    "HTTPServerError camelCase snake_case", "<|im_start|>user\nhi<|im_end|>",
    "<|im_start|><|im_end|>  <|endoftext|>x", "\u00a0non\u2003breaking\u3000", "\u200b\ufeff",
    "!!!???...---", " !x", "'s 't", "\x00\x01\x7f", "a" * 200, "हिन्दी বাংলা தமிழ்", "1.5e-10 0xFF",
    "\u2028line\u2029sep", "foo  bar   baz    qux", "\n \n  \n", "ﬁ ﬂ Ⅳ ①", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢",
]  # fmt: skip
TEXT = [*ODD, *(json.__doc__ or "").split("\n"), *(struct.__doc__ or "").split("\n")] * 4


def taken_over(folder, metadata, kinds):
    """Returns the tokenizer that a GGUF file of these metadata becomes."""
    text = b"".join(gguf_string(key) + gguf_value(value) for key, value in metadata.items())
    text += gguf_string("tokenizer.ggml.token_type") + struct.pack("<IIQ", 9, 5, len(kinds))
    text += struct.pack(f"<{len(kinds)}i", *kinds)
    path = folder / "m.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, len(metadata) + 1) + text)
    with Checkpoint(path) as source:
        files, why = tokenizer_files(source)
    assert why == ""
    for name, content in files.items():
        (folder / name).write_text(content, encoding="utf-8")
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


def gpt2():
    return tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)


def smollm():
    digits = tokenizers.pre_tokenizers.Digits(individual_digits=True)
    return tokenizers.pre_tokenizers.Sequence([digits, gpt2()])


def llama3():
    from transformers.convert_slow_tokenizer import TikTokenConverter

    pattern = tokenizers.Regex(TikTokenConverter().pattern)
    split = tokenizers.pre_tokenizers.Split(pattern, "isolated")
    bytes_ = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return tokenizers.pre_tokenizers.Sequence([split, bytes_])


def qwen2():
    return transformers.Qwen2Tokenizer()._tokenizer.pre_tokenizer


def qwen35():
    from transformers.models.qwen3_5.tokenization_qwen3_5 import Qwen3_5Tokenizer

    return Qwen3_5Tokenizer()._tokenizer.pre_tokenizer


KINDS = {
    "gpt-2": gpt2, "smollm": smollm, "llama-bpe": llama3, "qwen2": qwen2, "qwen35": qwen35,
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_byte_pairs(tmp_path, kind):
    original = tokenizers.Tokenizer(tokenizers.models.BPE(ignore_merges=kind == "llama-bpe"))
    original.pre_tokenizer = KINDS[kind]()
    if kind.startswith("qwen"):
        original.normalizer = tokenizers.normalizers.NFC()
    original.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=900,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=SPECIAL,
        show_progress=False,
    )
    original.train_from_iterator(TEXT, trainer)
    model = json.loads(original.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": kind,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": [" ".join(merge) for merge in model["merges"]],
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.eos_token_id": 2,
    }
    found = taken_over(tmp_path, metadata, [3 if token in SPECIAL else 1 for token in tokens])
    fast = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert fast.eos_token == "<|im_end|>"
    for text in ODD:
        ids = original.encode(text).ids
        assert found.encode(text).ids == ids, text
        assert fast(text)["input_ids"] == ids, text
        assert found.decode(ids) == original.decode(ids), text


@pytest.mark.parametrize("spaced", [True, False])
def test_sentence_pieces(tmp_path, spaced):
    library = pytest.importorskip("sentencepiece")
    stream = io.BytesIO()
    library.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT), model_writer=stream, vocab_size=700, model_type="bpe",
        byte_fallback=True, add_dummy_prefix=spaced, remove_extra_whitespaces=False,
        normalization_rule_name="identity", user_defined_symbols=["<x>"], minloglevel=2,
    )  # fmt: skip
    original = library.SentencePieceProcessor(model_proto=stream.getvalue())
    numbers = range(original.get_piece_size())
    tokens = [original.id_to_piece(n) for n in numbers]
    kinds = [
        2 if original.is_unknown(n)
        else 3 if original.is_control(n)
        else 6 if original.is_byte(n)
        else 4 if tokens[n] == "<x>"
        else 1
        for n in numbers
    ]  # fmt: skip
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [float(original.get_score(n)) for n in numbers],
        "tokenizer.ggml.add_space_prefix": spaced,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }
    found = taken_over(tmp_path, metadata, kinds)
    for text in ODD:
        ids = original.encode(text)
        assert found.encode(text).ids == [1, *ids], text
        assert found.decode(ids) == original.decode(ids), text
