"""The vocabulary of a GGUF file: tokens, kinds, merges or scores, special tokens, templates."""

import json

import pytest

from binq.errors import FormatError
from binq.export.gguf_vocabulary import vocabulary_of

QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3 = QWEN2.replace(r"\p{N}| ?", r"\p{N}{1,3}| ?")
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}


def split(pattern, **changes):
    step = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [{**step, **changes}, BYTE_LEVEL]}


def byte_level(**changes):
    return {
        "model": {
            "type": "BPE",
            "vocab": {"a": 0, "b": 1, "c": 2, "ab": 3, "abc": 4},
            "merges": [["a", "b"], ["ab", "c"]],
        },
        "added_tokens": [
            {"id": 5, "content": "<|end|>", "special": True},
            {"id": 6, "content": "<tool>", "special": False},
        ],
        "pre_tokenizer": split(QWEN2),
        "post_processor": {"type": "ByteLevel"},
        **changes,
    }


def pieces(**changes):
    return {
        "model": {
            "type": "BPE",
            "byte_fallback": True,
            "unk_token": "<unk>",
            "vocab": {"<unk>": 0, "<s>": 1, "</s>": 2, "<0x0A>": 3, "▁": 4, "a": 5, "▁a": 6},
            "merges": ["▁ a"],
        },
        "added_tokens": [
            {"id": 0, "content": "<unk>", "special": True},
            {"id": 1, "content": "<s>", "special": True},
            {"id": 2, "content": "</s>", "special": True},
        ],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}]},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}],
        },
        **changes,
    }


def vocabulary(folder, tokenizer, size=None, config=(), **settings):
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return vocabulary_of(folder, dict(config), size)


def test_byte_level(tmp_path):
    found, notes = vocabulary(
        tmp_path, byte_level(), 8, eos_token="<|end|>", add_bos_token=False, chat_template="{{ x }}"
    )
    assert notes == []
    assert found["tokenizer.ggml.model"] == "gpt2"
    assert found["tokenizer.ggml.pre"] == "qwen2"
    tokens = ["a", "b", "c", "ab", "abc", "<|end|>", "<tool>", "[PAD7]"]
    assert found["tokenizer.ggml.tokens"] == tokens
    assert found["tokenizer.ggml.token_type"] == [1, 1, 1, 1, 1, 3, 4, 5]
    assert found["tokenizer.ggml.merges"] == ["a b", "ab c"]
    assert found["tokenizer.ggml.eos_token_id"] == 5
    assert "tokenizer.ggml.bos_token_id" not in found
    assert found["tokenizer.ggml.add_bos_token"] is False
    assert found["tokenizer.chat_template"] == "{{ x }}"


def test_pieces(tmp_path):
    found, _ = vocabulary(tmp_path, pieces(), bos_token={"content": "<s>"}, unk_token="<unk>")
    assert found["tokenizer.ggml.model"] == "llama"
    assert found["tokenizer.ggml.token_type"] == [2, 3, 3, 6, 1, 1, 1]
    assert found["tokenizer.ggml.scores"] == [0.0] * 6 + [-1.0]
    assert found["tokenizer.ggml.add_space_prefix"] is True
    assert found["tokenizer.ggml.add_bos_token"] is True
    assert found["tokenizer.ggml.add_eos_token"] is False
    assert found["tokenizer.ggml.unknown_token_id"] == 0


@pytest.mark.parametrize(
    ("pre", "name"),
    [
        (split(LLAMA3), "llama-bpe"),
        ({"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}, "gpt-2"),
        (
            {
                "type": "Sequence",
                "pretokenizers": [
                    {"type": "Digits", "individual_digits": True},
                    {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
                ],
            },
            "smollm",
        ),
    ],
)
def test_rules_with_a_name(tmp_path, pre, name):
    found, _ = vocabulary(tmp_path, byte_level(pre_tokenizer=pre))
    assert found["tokenizer.ggml.pre"] == name


@pytest.mark.parametrize(
    "pre",
    [
        None,
        split(r"\w+"),
        split(QWEN2, behavior="Removed"),
        split(QWEN2, invert=True),
        {"type": "ByteLevel", "add_prefix_space": True},
        {"type": "Whitespace"},
        {"type": "Sequence", "pretokenizers": []},
    ],
)
def test_rules_without_a_name_leave_the_vocabulary_out_and_say_so(tmp_path, pre):
    found, notes = vocabulary(tmp_path, byte_level(pre_tokenizer=pre))
    assert found == {"tokenizer.ggml.model": "none"}
    assert "a rule that has no name" in notes[0]


def test_special_tokens_of_the_configuration_and_templates_by_name(tmp_path):
    templates = [{"name": "tool", "template": "t"}, {"name": "default", "template": "d"}]
    config = {"bos_token_id": 3, "eos_token_id": [5, 6], "pad_token_id": 99}
    found, _ = vocabulary(tmp_path, byte_level(), config=config, chat_template=templates)
    assert found["tokenizer.ggml.bos_token_id"] == 3
    assert "tokenizer.ggml.eos_token_id" not in found
    assert "tokenizer.ggml.padding_token_id" not in found
    assert found["tokenizer.chat_template"] == "d"
    (tmp_path / "chat_template.jinja").write_text("of a file")
    found, _ = vocabulary(tmp_path, byte_level(), chat_template="of the settings")
    assert found["tokenizer.chat_template"] == "of a file"


def test_other_kinds_and_vocabularies_that_do_not_fit(tmp_path):
    _, notes = vocabulary(tmp_path, byte_level(model={"type": "Unigram", "vocab": []}))
    assert "of type 'Unigram'" in notes[0]
    _, notes = vocabulary(tmp_path, byte_level(), 6)
    assert "7 tokens, the embedding 6" in notes[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"type": "BPE", "vocab": ["a"]}},
        {"model": {"type": "BPE", "vocab": {"a": -1}}},
        {"model": {"type": "BPE", "vocab": {"a": 1 << 40}}},
        {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a"]]}},
        {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [7]}},
        {"added_tokens": [{"id": "5"}]},
        {"added_tokens": 5},
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [5]}},
        {"post_processor": {"processors": [5]}},
    ],
)
def test_what_tokenizers_does_not_write_is_refused(tmp_path, changes):
    with pytest.raises(FormatError, match=r"tokenizer\.json"):
        vocabulary(tmp_path, byte_level(**changes))
