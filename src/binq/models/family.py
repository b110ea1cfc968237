"""What a family of models is to a quantizer: rules that give every tensor a role.

A rule is a pattern of names, a role, and the reason why such tensors stay as they are; no reason
means that they are quantized. The first rule that matches the whole name decides. A name that no
rule matches is kept, and the report says that the family does not know it.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

UNKNOWN = "not a tensor that this family is known to have"


# Longer than any name that a family knows: patterns would take their time over a hostile one.
_LONGEST = 512


class Rule(NamedTuple):
    """Names that match ``pattern`` have ``role``, and are kept where there is a reason.

    - pattern: a regular expression, searched for in the name
    - role: ``"linear"``, ``"expert"``, ``"embedding"``, ``"head"``, ``"norm"``, ``"bias"`` or
      ``"conv"``, which conversions know, or a word of your own, which reports show
    - reason: why such tensors stay as they are; "": they are quantized
    - axes: None, or the number of axes that such tensors have
    """

    pattern: str
    role: str
    reason: str = ""
    axes: int | None = None


class Verdict(NamedTuple):
    """The role of a tensor, whether it is quantized by default, and if not, why."""

    role: str
    quantize: bool
    reason: str


@dataclass(frozen=True)
class Family:
    """One family of models.

    - name: how users and messages call it
    - model_types: the ``model_type`` values of config.json that it covers
    - rules: the rules, the first match wins; or a function of the configuration that returns them
    - input_major: pattern of the matrices and stacks that are stored (in_features, out_features)
    """

    name: str
    model_types: tuple[str, ...]
    rules: tuple[Rule, ...] | Callable[[Mapping[str, Any]], tuple[Rule, ...]]
    input_major: str | None = None

    def rules_for(self, config: Mapping[str, Any]) -> tuple[Rule, ...]:
        """Returns the rules for a model of that configuration."""
        return self.rules(config) if callable(self.rules) else self.rules

    def is_input_major(self, name: str) -> bool:
        """Returns whether a plain matrix or stack of this name is stored transposed."""
        return self.input_major is not None and re.search(self.input_major, name) is not None


def judge(rules: tuple[Rule, ...], name: str, shape: tuple[int, ...]) -> Verdict:
    """Returns what the rules say of a tensor; below two axes nothing is ever quantized."""
    if len(name) > _LONGEST:
        return Verdict("other", False, UNKNOWN)
    for rule in rules:
        if rule.axes in (None, len(shape)) and re.search(rule.pattern, name):
            reason = rule.reason
            if not reason and len(shape) < 2:
                reason = "a vector, not a matrix"
            return Verdict(rule.role, not reason, reason)
    return Verdict("other", False, UNKNOWN)


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the language model's part of a configuration, which may be all of it."""
    text = config.get("text_config")
    return text if isinstance(text, Mapping) else config


def layers(config: Mapping[str, Any]) -> int | None:
    """Returns the number of layers of the language model, None where it is not said."""
    count = text_config(config).get("num_hidden_layers")
    return count if isinstance(count, int) and not isinstance(count, bool) else None
