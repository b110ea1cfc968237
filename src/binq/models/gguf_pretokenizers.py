"""How texts are split before byte pairs are merged, by the name that GGUF files give to each way.

``tokenizer.ggml.pre`` names the tokenizer of a published model. The patterns are those of these
models' own tokenizer.json; llama.cpp's src/llama-vocab.cpp lists which name is which. Names that
llama.cpp treats alike, but whose models normalize texts in ways of their own, are not here.
"""

from dataclasses import dataclass
from typing import Any

_SHORT = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_ENDS = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = _SHORT + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _ENDS
_QWEN2 = _SHORT + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _ENDS
_QWEN35 = _SHORT + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|" + _ENDS
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"


def _by_case(after: str, digits: str) -> str:
    """Returns a pattern that also parts words where a capital follows a small letter."""
    first = r"[^\r\n\p{L}\p{N}]?"
    words = f"{first}{_UPPER}*{_LOWER}+{after}|{first}{_UPPER}+{_LOWER}*{after}"
    return rf"{words}|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_ENDS}"


_DEEPSEEK3 = (
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"
    r" ?[\p{P}\p{S}]+[\r\n]*|" + _ENDS,
)


@dataclass(frozen=True)
class PreTokenizer:
    """One way of splitting.

    - patterns: regular expressions, each of which parts what those before it left; none: those of
      GPT-2, which the library has built in
    - digits: whether each digit is a part
    - normalizer: the form of Unicode that texts are brought to, "" for none
    - whole: whether a part that is a token is that token, whatever the merges
    - bos: whether texts begin with the first special token unless the file says otherwise
    """

    patterns: tuple[str, ...] = ()
    digits: bool = False
    normalizer: str = ""
    whole: bool = False
    bos: bool = False

    def steps(self) -> dict[str, Any]:
        """Returns the ``pre_tokenizer`` of tokenizer.json."""
        steps: list[dict[str, Any]] = []
        if self.digits:
            steps.append({"type": "Digits", "individual_digits": True})
        for pattern in self.patterns:
            split = {"type": "Split", "pattern": {"Regex": pattern}}
            steps.append(split | {"behavior": "Isolated", "invert": False})
        built_in = {"add_prefix_space": False, "trim_offsets": True, "use_regex": not self.patterns}
        steps.append({"type": "ByteLevel"} | built_in)
        return {"type": "Sequence", "pretokenizers": steps}


_GPT2 = PreTokenizer()
_DIGITS = PreTokenizer(digits=True)
_LLAMA_BPE = PreTokenizer((_LLAMA3,), whole=True, bos=True)
_LIKE_LLAMA3 = PreTokenizer((_LLAMA3,))
_GPT_4O = PreTokenizer((_by_case(_SHORT + "?", r"\p{N}{1,3}"),))

PRE_TOKENIZERS = {
    "dbrx": _LIKE_LLAMA3,
    "deepseek-v3": PreTokenizer(_DEEPSEEK3),
    "gpt-2": _GPT2,
    "gpt-4o": _GPT_4O,
    "llama-bpe": _LLAMA_BPE,
    "llama-v3": _LLAMA_BPE,
    "llama3": _LLAMA_BPE,
    "llama4": _GPT_4O,
    "qwen2": PreTokenizer((_QWEN2,), normalizer="NFC"),
    "qwen35": PreTokenizer((_QWEN35,), normalizer="NFC"),
    "refact": _DIGITS,
    "smaug-bpe": _LIKE_LLAMA3,
    "smollm": _DIGITS,
    "starcoder": _DIGITS,
    "tekken": PreTokenizer((_by_case("", r"\p{N}"),), whole=True, bos=True),
}
