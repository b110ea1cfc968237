"""The vocabulary of a GGUF file from ``tokenizer.json``.

Two kinds are written: byte-level BPE (``gpt2``: Qwen, Llama 3) with its merges, where llama.cpp has
the rule that cuts text into words under a name of its own, and SentencePiece's BPE with bytes for
what it does not know (``llama``: Llama 2, Mistral), whose merges become scores. Source: llama.cpp's
converter and its vocabulary; the rules are those of the published tokenizer.json files.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from binq.errors import FormatError
from binq.files.checkpoint import load_object
from binq.files.gguf_writer import Value

_NORMAL, _UNKNOWN, _CONTROL, _USER, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6

# How text is cut into words, by the pattern of tokenizer.json -> llama.cpp's name of it.
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_ENDS = r"[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_PATTERNS = {
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+{_ENDS}":
        "llama-bpe",
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+{_ENDS}":
        "qwen2",
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
    rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+{_ENDS}":
        "qwen35",
}  # fmt: skip
_MOST = 1 << 24  # tokens
_SPECIAL = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
# llama.cpp has these two under other names than Hugging Face.
_KEYS = {"unk": "unknown", "sep": "seperator", "pad": "padding"}
_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_LOOKS_SPECIAL = re.compile(r"<\|.*\|>|<｜.*｜>|<unused.*>|<pad>|<mask>", re.DOTALL)
_SPACE = "\u2581"  # SentencePiece's mark of a space


class _Tokens(NamedTuple):
    """All that a tokenizer says, as far as it is written."""

    texts: list[str]
    types: list[int]
    ids: dict[str, int]


def vocabulary_of(
    folder: Path, config: Mapping[str, Any], size: int | None
) -> tuple[dict[str, Value], list[str]]:
    """Returns the keys ``tokenizer.*`` of a folder's tokenizer, and notes on what is left out.

    Without a vocabulary that llama.cpp has a name for, the keys say that there is none.

    - config: config.json, for the numbers of special tokens
    - size: the rows of the embedding, None where there is none; unused numbers become tokens

    Raises FormatError for a tokenizer.json that is malformed.
    """
    path = folder / "tokenizer.json"
    if not path.exists():
        return _none(), ["there is no tokenizer.json: the file has no vocabulary"]
    try:
        return _vocabulary(path, load_object(path), config, size)
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise FormatError(f"{path}: not what the tokenizers library writes: {error}") from error


def _vocabulary(
    path: Path, tokenizer: Mapping[str, Any], config: Mapping[str, Any], size: int | None
) -> tuple[dict[str, Value], list[str]]:
    folder = path.parent
    model = tokenizer.get("model")
    if not isinstance(model, Mapping) or model.get("type") not in ("BPE", None):
        kind = model.get("type") if isinstance(model, Mapping) else model
        return _none(), [f"tokenizer.json is of type {kind!r}: the file has no vocabulary"]
    vocab, merges = model.get("vocab"), _merges(path, model)
    if not isinstance(vocab, Mapping) or not all(type(n) is int for n in vocab.values()):
        raise FormatError(f"{path}: model.vocab is not an object of numbers")
    added = _added(path, tokenizer)
    numbers = [*vocab.values(), *(token["id"] for token in added)]
    count = max(numbers, default=-1) + 1
    if count > _MOST or min(numbers, default=0) < 0:
        raise FormatError(f"{path}: a token has a number outside 0 to {_MOST - 1}")
    if size is not None and count > size:
        note = f"tokenizer.json has {count} tokens, the embedding {size}: there is no vocabulary"
        return _none(), [note]
    pieces = model.get("byte_fallback") is True
    tokens = _tokens(vocab, added, count if size is None else size, model.get("unk_token"), pieces)
    settings = folder / "tokenizer_config.json"
    said = load_object(settings) if settings.exists() else {}
    found: dict[str, Value]
    if pieces:
        found = {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.pre": "default",
            "tokenizer.ggml.scores": _scores(tokens, merges),
            "tokenizer.ggml.add_space_prefix": _space_before(tokenizer, said),
        }
    else:
        rule = _rule(tokenizer.get("pre_tokenizer"))
        if rule is None:
            return _none(), [
                "tokenizer.json cuts text into words by a rule that has no name of llama.cpp's "
                "here: the file has no vocabulary"
            ]
        found = {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": rule,
            "tokenizer.ggml.merges": [" ".join(_spaced(pair)) for pair in merges],
        }
    found["tokenizer.ggml.tokens"] = tokens.texts
    found["tokenizer.ggml.token_type"] = tokens.types
    found |= _special(tokens, said, config, tokenizer)
    template = _template(folder, said)
    if template is not None:
        found["tokenizer.chat_template"] = template
    return found, []


def _none() -> dict[str, Value]:
    return {"tokenizer.ggml.model": "none"}


def _merges(path: Path, model: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns the merges, which are ``"a b"`` or ``["a", "b"]``, in their order."""
    merges = model.get("merges")
    pairs: list[tuple[str, str]] = []
    for merge in merges or []:
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if len(parts) != 2 or not all(isinstance(part, str) for part in parts):
            raise FormatError(
                f"{path}: model.merges has {merge!r:.80}, which is not a pair of tokens"
            )
        pairs.append((parts[0], parts[1]))
    return pairs


def _added(path: Path, tokenizer: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    added = tokenizer.get("added_tokens") or []
    for token in added:
        known = isinstance(token, Mapping) and type(token.get("id")) is int
        if not known or not isinstance(token.get("content"), str) or token["id"] < 0:
            raise FormatError(f"{path}: added_tokens has an element without id and content")
    return list(added)


def _tokens(
    vocab: Mapping[str, int],
    added: Sequence[Mapping[str, Any]],
    size: int,
    unknown: object,
    pieces: bool,
) -> _Tokens:
    texts = [f"[PAD{number}]" for number in range(size)]
    types = [_UNUSED] * size
    for text, number in vocab.items():
        texts[number], types[number] = text, _NORMAL
        if pieces and _BYTE_TOKEN.fullmatch(text):
            types[number] = _BYTE
    for token in added:
        text, number = token["content"], token["id"]
        special = token.get("special") is True or _LOOKS_SPECIAL.fullmatch(text)
        types[number] = _CONTROL if special else _USER
        texts[number] = text if special else text.replace(_SPACE, " ")
    ids = dict(vocab) | {token["content"]: token["id"] for token in added}
    if isinstance(unknown, str) and unknown in ids:
        types[ids[unknown]] = _UNKNOWN
    return _Tokens(texts, types, ids)


def _scores(tokens: _Tokens, merges: Sequence[tuple[str, str]]) -> list[float]:
    """Returns the score of each token: the earlier it is merged, the higher.

    SentencePiece merges the pair whose whole has the highest score; tokenizer.json has the pairs in
    that order.
    """
    scores = [0.0] * len(tokens.texts)
    for rank, (left, right) in reversed(list(enumerate(merges))):
        number = tokens.ids.get(left + right)
        if number is not None:
            scores[number] = -float(rank + 1)
    return scores


def _space_before(tokenizer: Mapping[str, Any], said: Mapping[str, Any]) -> bool:
    """Returns whether a text is taken to begin with a space."""
    for key in ("normalizer", "pre_tokenizer"):
        part = tokenizer.get(key) or {}
        for step in part.get("normalizers") or part.get("pretokenizers") or [part]:
            if step.get("type") == "Prepend":
                return True
            if step.get("type") == "Metaspace":
                scheme = step.get("prepend_scheme")
                return bool(scheme != "never" if scheme else step.get("add_prefix_space", True))
    return bool(said.get("add_prefix_space", False))


def _rule(pre: object) -> str | None:
    """Returns llama.cpp's name of a rule that cuts text into words, None for one without."""
    if not isinstance(pre, Mapping):
        return None
    steps = pre.get("pretokenizers") if pre.get("type") == "Sequence" else [pre]
    if not isinstance(steps, list) or not steps:
        return None
    *before, last = steps
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space"):
        return None
    own = last.get("use_regex", True)
    if not before:
        return "gpt-2" if own else None
    if len(before) > 1:
        return None
    (step,) = before
    if step.get("type") == "Digits" and step.get("individual_digits") and own:
        return "smollm"
    pattern = step.get("pattern")
    if step.get("type") != "Split" or own or not isinstance(pattern, Mapping):
        return None
    if step.get("behavior") != "Isolated" or step.get("invert"):
        return None
    return _PATTERNS.get(str(pattern.get("Regex")))


def _spaced(pair: tuple[str, str]) -> tuple[str, ...]:
    """Returns a pair of tokens without spaces, which would part it in three."""
    return tuple(part.replace(" ", chr(ord(" ") + 256)) for part in pair)


def _special(
    tokens: _Tokens,
    said: Mapping[str, Any],
    config: Mapping[str, Any],
    tokenizer: Mapping[str, Any],
) -> dict[str, Value]:
    """Returns the numbers of special tokens, and which of them llama.cpp adds to a text."""
    found: dict[str, Value] = {}
    texts: dict[str, str] = {}
    for kind in _SPECIAL:
        token = said.get(f"{kind}_token")
        text = token.get("content") if isinstance(token, Mapping) else token
        number = tokens.ids.get(text) if isinstance(text, str) else config.get(f"{kind}_token_id")
        if type(number) is int and 0 <= number < len(tokens.texts):
            found[f"tokenizer.ggml.{_KEYS.get(kind, kind)}_token_id"] = number
            texts[kind] = tokens.texts[number]
    first, last = _around(tokenizer.get("post_processor"))
    for kind, text in (("bos", first), ("eos", last)):
        asked = said.get(f"add_{kind}_token")
        if text is not None:
            found[f"tokenizer.ggml.add_{kind}_token"] = text == texts.get(kind)
        elif isinstance(asked, bool):
            found[f"tokenizer.ggml.add_{kind}_token"] = asked
    return found


def _around(processor: object) -> tuple[str | None, str | None]:
    """Returns the tokens that are set before and behind a text; "" for none, None for unsaid."""
    if not isinstance(processor, Mapping):
        return None, None
    first: str | None = None
    last: str | None = None
    for step in processor.get("processors") or [processor]:
        if step.get("type") == "ByteLevel":
            first, last = first or "", last or ""
        elif step.get("type") == "TemplateProcessing":
            single = step.get("single") or []
            if len(single) > 1:
                first = single[0].get("SpecialToken", {}).get("id", "")
                last = single[-1].get("SpecialToken", {}).get("id", "")
    return first, last


def _template(folder: Path, said: Mapping[str, Any]) -> str | None:
    """Returns the template of a chat, the one named default where there are several."""
    path = folder / "chat_template.jinja"
    template = path.read_text(encoding="utf-8") if path.exists() else said.get("chat_template")
    if isinstance(template, list):
        named = {t.get("name"): t.get("template") for t in template if isinstance(t, Mapping)}
        template = named.get("default")
    return template if isinstance(template, str) else None
