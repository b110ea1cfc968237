"""tokenizer.json and its companions from the vocabulary of GGUF files."""

import json
import struct

import pytest
from checkpoints.fixtures import gguf_string, gguf_value

from binq.files.checkpoint import Checkpoint
from binq.models.gguf_tokenizer import tokenizer_files

NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
BPE = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "qwen2",
    "tokenizer.ggml.tokens": ["a", "b", "ab", "Ġ", "<|end|>", "<think>", "[PAD6]"],
    "tokenizer.ggml.token_type": [NORMAL, NORMAL, NORMAL, NORMAL, CONTROL, USER, UNUSED],
    "tokenizer.ggml.merges": ["a b"],
    "tokenizer.ggml.eos_token_id": 4,
}
PIECES = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", "<0x41>", "▁", "a", "b", "▁a", "ab", "▁ab"],
    "tokenizer.ggml.token_type": [UNKNOWN, CONTROL, CONTROL, BYTE, *[NORMAL] * 6],
    "tokenizer.ggml.scores": [0.0, 0.0, 0.0, 0.0, -9.0, -8.0, -7.0, -2.0, -1.0, -3.0],
}


def files_of(folder, metadata):
    text = b""
    for key, value in metadata.items():
        if key.endswith("token_type"):
            head = struct.pack("<IIQ", 9, 5, len(value))
            text += gguf_string(key) + head + struct.pack(f"<{len(value)}i", *value)
        elif key.endswith("tokens"):  # which may be no UTF-8
            head = struct.pack("<IIQ", 9, 8, len(value))
            text += gguf_string(key) + head + b"".join(map(gguf_string, value))
        else:
            text += gguf_string(key) + gguf_value(value)
    path = folder / "m.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, len(metadata)) + text)
    with Checkpoint(path) as source:
        return tokenizer_files(source)


def tokenizer_of(folder, metadata):
    files, why = files_of(folder, metadata)
    assert why == ""
    return json.loads(files["tokenizer.json"])


def test_byte_pairs(tmp_path):
    found = tokenizer_of(tmp_path, BPE)
    assert found["model"]["vocab"] == {
        "a": 0, "b": 1, "ab": 2, "Ġ": 3, "<|end|>": 4, "<think>": 5,
    }  # fmt: skip
    assert found["model"]["merges"] == [["a", "b"]]
    assert found["normalizer"] == {"type": "NFC"}
    assert found["post_processor"] is None
    special = {token["content"]: token["special"] for token in found["added_tokens"]}
    assert special == {"<|end|>": True, "<think>": False}


def test_texts_of_llama_3_begin_with_a_token(tmp_path):
    more = {"tokenizer.ggml.pre": "llama-bpe", "tokenizer.ggml.bos_token_id": 4}
    found = tokenizer_of(tmp_path, BPE | more)
    assert found["model"]["ignore_merges"] is True
    assert found["post_processor"]["single"][0] == {"SpecialToken": {"id": "<|end|>", "type_id": 0}}
    without = more | {"tokenizer.ggml.add_bos_token": False}
    assert tokenizer_of(tmp_path, BPE | without)["post_processor"] is None


def test_merges_of_sentence_pieces_come_in_the_order_of_the_scores(tmp_path):
    found = tokenizer_of(tmp_path, PIECES)
    # "▁ab" can be made in two ways; "<s>" in none, whatever its letters are.
    assert found["model"]["merges"] == [["a", "b"], ["▁", "a"], ["▁", "ab"], ["▁a", "b"]]
    assert found["model"]["unk_token"] == "<unk>"
    assert found["post_processor"]["single"][0]["SpecialToken"]["id"] == "<s>"
    assert found["normalizer"]["normalizers"][0] == {"type": "Prepend", "prepend": "▁"}
    plain = tokenizer_of(tmp_path, PIECES | {"tokenizer.ggml.add_space_prefix": False})
    assert plain["normalizer"]["type"] == "Replace"


@pytest.mark.parametrize(
    ("metadata", "part"),
    [
        (BPE | {"tokenizer.ggml.pre": "mystery"}, "'mystery'"),
        (BPE | {"tokenizer.ggml.model": "bert"}, "'bert'"),
        (BPE | {"tokenizer.ggml.merges": ["a c"]}, "'a c'"),
        (BPE | {"tokenizer.ggml.merges": ["a"]}, "'a'"),
        (BPE | {"tokenizer.ggml.tokens": ["a"] * 7}, "there twice"),
        (BPE | {"tokenizer.ggml.tokens": ["a", "b"]}, "2 tokens have 7 types"),
        (BPE | {"tokenizer.ggml.tokens": [b"\xff", b"b"]}, "text 0 is not UTF-8"),
        (BPE | {"tokenizer.ggml.token_type": []}, "0 types"),
        (BPE | {"tokenizer.ggml.add_space_prefix": True}, "a space"),
        (BPE | {"tokenizer.ggml.add_bos_token": True}, "bos_token_id is None"),
        (PIECES | {"tokenizer.ggml.scores": [1.0]}, "scores"),
        (PIECES | {"tokenizer.ggml.unknown_token_id": 99}, "unknown_token_id is 99"),
        ({"tokenizer.ggml.model": "gpt2"}, "no vocabulary"),
    ],
)
def test_what_is_not_known_leaves_the_tokenizer_out(tmp_path, metadata, part):
    files, why = files_of(tmp_path, metadata)
    assert part in why
    assert "tokenizer.json" not in files


def test_settings(tmp_path):
    files, _ = files_of(
        tmp_path,
        BPE
        | {
            "general.architecture": "qwen3",
            "qwen3.context_length": 512,
            "tokenizer.ggml.padding_token_id": 4,
            "tokenizer.ggml.eot_token_id": 5,
            "tokenizer.chat_template": "{{ messages }}\r\n",
            "general.sampling.temp": 0.7,
            "general.sampling.top_k": 20,
        },
    )
    assert json.loads(files["tokenizer_config.json"]) == {
        "tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False,
        "model_max_length": 512, "eos_token": "<|end|>", "pad_token": "<|end|>",
    }  # fmt: skip
    assert json.loads(files["generation_config.json"]) == {
        "pad_token_id": 4, "eos_token_id": [4, 5], "temperature": 0.7, "do_sample": True,
        "top_k": 20,
    }  # fmt: skip
    assert files["chat_template.jinja"] == "{{ messages }}\r\n"
