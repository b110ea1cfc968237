"""tokenizer.json and the files beside it, from the vocabulary of a GGUF file.

Keys of GGUF: the specification in ggml's docs/gguf.md; what they mean, llama.cpp's
src/llama-vocab.cpp. tokenizer.json is the form of the library tokenizers.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from binq.errors import FormatError
from binq.files.checkpoint import Checkpoint
from binq.models.gguf_metadata import NotKnownError
from binq.models.gguf_pretokenizers import PRE_TOKENIZERS

Json = dict[str, Any]

# Types of tokens. What the converter adds to fill a table up is unused.
_UNKNOWN, _CONTROL, _USER, _UNUSED = 2, 3, 4, 5
_FILLING = re.compile(r"\[PAD\d+\]")
_SPACE = "▁"
_SPECIAL = {
    "bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding",
    "sep_token": "seperator", "mask_token": "mask",
}  # fmt: skip
# Tokens that end a text: the last of a text, of a turn, of a message.
_ENDS = ("eos", "eot", "eom")
_SAMPLING = {
    "temp": "temperature", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p",
    "penalty_repeat": "repetition_penalty",
}  # fmt: skip


class _Vocabulary(NamedTuple):
    """Tokens in the order of their numbers, and the type of each."""

    tokens: Sequence[str]
    kinds: Sequence[int]

    def numbered(self) -> dict[str, int]:
        """Returns token -> number, without those that only fill the table."""
        return {
            token: number
            for number, (token, kind) in enumerate(zip(self.tokens, self.kinds, strict=True))
            if not (kind == _UNUSED and _FILLING.fullmatch(token))
        }

    def added(self) -> list[Json]:
        """Returns the tokens that are looked for before a text is split."""
        said = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        return [
            {"id": number, "content": token} | said | {"special": kind != _USER}
            for number, (token, kind) in enumerate(zip(self.tokens, self.kinds, strict=True))
            if kind in (_UNKNOWN, _CONTROL, _USER) and token
        ]


def tokenizer_files(source: Checkpoint) -> tuple[dict[str, str], str]:
    """Returns name -> text of the files of a tokenizer, and "" or why some are missing.

    ``generation_config.json`` and ``chat_template.jinja`` are there whenever the file has what
    stands in them; without a tokenizer whose every step is known there is no ``tokenizer.json``.
    """
    files: dict[str, str] = {}
    generation = _generation(source.config)
    if generation:
        files["generation_config.json"] = _text(generation)
    template = source.config.get("tokenizer.chat_template")
    if isinstance(template, str) and template:
        files["chat_template.jinja"] = template
    try:
        vocabulary = _vocabulary(source)
        tokenizer = _tokenizer(source, vocabulary)
        files["tokenizer_config.json"] = _text(_settings(source.config, vocabulary))
    except (NotKnownError, FormatError) as error:
        return files, str(error)
    files["tokenizer.json"] = json.dumps(tokenizer, ensure_ascii=False) + "\n"
    return files, ""


def _text(value: Json) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _vocabulary(source: Checkpoint) -> _Vocabulary:
    tokens = source.array("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not tokens:
        raise NotKnownError("the file has no vocabulary")
    kinds = source.array("tokenizer.ggml.token_type")
    if kinds is None:
        raise NotKnownError("the file does not say which tokens are special")
    if not isinstance(kinds, np.ndarray) or kinds.dtype.kind not in "iu":
        raise NotKnownError("tokenizer.ggml.token_type holds no numbers")
    if len(kinds) != len(tokens):
        raise NotKnownError(f"{len(tokens)} tokens have {len(kinds)} types")
    found = _Vocabulary(tokens, kinds.tolist())
    if len(set(tokens)) != len(tokens) or "" in tokens:
        raise NotKnownError("a token is empty, or there twice")
    return found


def _tokenizer(source: Checkpoint, vocabulary: _Vocabulary) -> Json:
    config = source.config
    kind = config.get("tokenizer.ggml.model")
    if kind == "gpt2":
        parts, bos = _byte_level(source, vocabulary)
    elif kind == "llama":
        parts, bos = _sentence_piece(source, vocabulary), True
    else:
        raise NotKnownError(f"tokenizers of the kind {kind!r} are not known here")
    ends = {"bos": bos, "eos": False}
    for name in ends:
        said = config.get(f"tokenizer.ggml.add_{name}_token")
        ends[name] = said if type(said) is bool else ends[name]
    first = [_token(config, vocabulary, "bos")] if ends["bos"] else []
    last = [_token(config, vocabulary, "eos")] if ends["eos"] else []
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": vocabulary.added(),
        "normalizer": parts["normalizer"],
        "pre_tokenizer": parts["pre_tokenizer"],
        "post_processor": _framed(first, last) if first or last else None,
        "decoder": parts["decoder"],
        "model": parts["model"],
    }


def _token(config: Mapping[str, Any], vocabulary: _Vocabulary, name: str) -> tuple[int, str]:
    """Returns number and text of a special token that is needed."""
    default = {"bos": 1, "eos": 2, "unknown": 0}.get(name)
    if config.get("tokenizer.ggml.model") != "llama":
        default = None
    number = config.get(f"tokenizer.ggml.{name}_token_id", default)
    if type(number) is not int or not 0 <= number < len(vocabulary.tokens):
        raise NotKnownError(f"tokenizer.ggml.{name}_token_id is {number!r}")
    return number, vocabulary.tokens[number]


def _framed(first: list[tuple[int, str]], last: list[tuple[int, str]]) -> Json:
    """Returns the step that puts special tokens before and behind a text."""

    def around(name: str, kind: int) -> list[Json]:
        def special(token: str) -> Json:
            return {"SpecialToken": {"id": token, "type_id": kind}}

        text: Json = {"Sequence": {"id": name, "type_id": kind}}
        return [special(t) for _, t in first] + [text] + [special(t) for _, t in last]

    return {
        "type": "TemplateProcessing",
        "single": around("A", 0),
        "pair": around("A", 0) + around("B", 1),
        "special_tokens": {
            token: {"id": token, "ids": [number], "tokens": [token]}
            for number, token in (*first, *last)
        },
    }


def _byte_level(source: Checkpoint, vocabulary: _Vocabulary) -> tuple[Json, bool]:
    """Returns the steps of a tokenizer in the manner of GPT-2, and whether texts have a bos."""
    name = source.config.get("tokenizer.ggml.pre")
    pre = PRE_TOKENIZERS.get(str(name))
    if pre is None:
        raise NotKnownError(f"texts are split in a way that is not known here: {name!r}")
    if source.config.get("tokenizer.ggml.add_space_prefix") is True:
        raise NotKnownError("texts get a space put before them, which byte-level tokens lack")
    merges = source.array("tokenizer.ggml.merges")
    if not isinstance(merges, list):
        raise NotKnownError("the file has no merges")
    known = vocabulary.numbered()
    pairs = [merge.split(" ") for merge in merges]
    wrong = next((p for p in pairs if len(p) != 2 or not {*p, "".join(p)} <= known.keys()), None)
    if wrong is not None:
        raise NotKnownError(f"the merge {' '.join(wrong)!r} is not one of two tokens to a third")
    parts = {
        "normalizer": {"type": pre.normalizer} if pre.normalizer else None,
        "pre_tokenizer": pre.steps(),
        "decoder": {
            "type": "ByteLevel",
            "add_prefix_space": True,
            "trim_offsets": True,
            "use_regex": True,
        },
        "model": _pairs(known, pairs, whole=pre.whole),
    }
    return parts, pre.bos


def _pairs(known: Mapping[str, int], merges: list[list[str]], **more: Any) -> Json:
    """Returns a model of byte pairs."""
    unknown = more.get("unknown")
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": unknown,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": unknown is not None,
        "byte_fallback": unknown is not None,
        "ignore_merges": more.get("whole", False),
        "vocab": known,
        "merges": merges,
    }


def _sentence_piece(source: Checkpoint, vocabulary: _Vocabulary) -> Json:
    """Returns the steps of a tokenizer of the library SentencePiece, of its kind BPE.

    It merges the two neighbours that make the token of the highest score: as byte pairs do whose
    merges are all ways to make each token of two, in the order of the scores.
    """
    scores = source.array("tokenizer.ggml.scores")
    if not isinstance(scores, np.ndarray) or len(scores) != len(vocabulary.tokens):
        raise NotKnownError("the file has no scores of its tokens")
    known = vocabulary.numbered()
    # What is looked for in the text itself is made of no others.
    whole = {entry["content"] for entry in vocabulary.added()}
    order = sorted(
        (-float(scores[number]), number, token)
        for token, number in known.items()
        if token not in whole
    )
    merges = []
    for _, _, token in order:
        for at in range(1, len(token)):
            left, right = token[:at], token[at:]
            if left in known and right in known and left not in whole and right not in whole:
                merges.append([left, right])
    spaced = source.config.get("tokenizer.ggml.add_space_prefix", True) is not False
    space: Json = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    steps: list[Json] = [{"type": "Prepend", "prepend": _SPACE}, space]
    decoding: list[Json] = [
        {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if spaced:
        decoding.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {
        "normalizer": {"type": "Sequence", "normalizers": steps} if spaced else space,
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": decoding},
        "model": _pairs(known, merges, unknown=_token(source.config, vocabulary, "unknown")[1]),
    }


def _settings(config: Mapping[str, Any], vocabulary: _Vocabulary) -> Json:
    """Returns tokenizer_config.json: tokenizer.json alone decides how texts become tokens."""
    said: Json = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
    }
    length = config.get(f"{config.get('general.architecture')}.context_length")
    if type(length) is int:
        said["model_max_length"] = length
    for ours, theirs in _SPECIAL.items():
        number = config.get(f"tokenizer.ggml.{theirs}_token_id")
        if type(number) is int and 0 <= number < len(vocabulary.tokens):
            said[ours] = vocabulary.tokens[number]
    return said


def _generation(config: Mapping[str, Any]) -> Json:
    """Returns generation_config.json: which tokens begin and end texts, how tokens are drawn."""
    numbers = {
        name: config.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "padding", *_ENDS)
    }
    numbers = {name: number for name, number in numbers.items() if type(number) is int}
    found: Json = {}
    for ours, theirs in (("bos_token_id", "bos"), ("pad_token_id", "padding")):
        if theirs in numbers:
            found[ours] = numbers[theirs]
    ends = list(dict.fromkeys(numbers[name] for name in _ENDS if name in numbers))
    if ends:
        found["eos_token_id"] = ends if len(ends) > 1 else ends[0]
    for key, ours in _SAMPLING.items():
        value = config.get(f"general.sampling.{key}")
        if isinstance(value, int | float) and math.isfinite(value):
            found[ours] = value if isinstance(value, int) else float(str(np.float32(value)))
            found["do_sample"] = True
    return found
