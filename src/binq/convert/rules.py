"""What a user may ask for each tensor: ordered rules, the first that matches wins."""

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from binq.array.checks import check_choice, check_group_size
from binq.formats import FORMATS, format_label, get_format

KEEP = "keep"


@dataclass(frozen=True)
class Choice:
    """How a tensor is quantized: the arguments of :func:`binq.quantize`."""

    format: str
    group_size: int | None = 128
    method: str = "mse"
    symmetric: bool = True
    nonfinite: str = "raise"

    def __str__(self) -> str:
        return format_label(self.format, self.group_size, self.symmetric)


@dataclass(frozen=True)
class Rule:
    """Tensors whose name matches ``pattern`` get ``choice``, or are kept where that is None."""

    pattern: str
    choice: Choice | None
    text: str

    def matches(self, name: str) -> bool:
        """Returns whether the glob matches the whole name; case counts."""
        return fnmatchcase(name, self.pattern)


def check_choice_of(choice: Choice) -> Choice:
    """Returns ``choice`` if such a quantization exists. Raises ValueError naming the argument."""
    kind = get_format(check_choice("format", choice.format, FORMATS))
    check_group_size(choice.group_size)
    check_choice("method", choice.method, kind.methods)
    check_choice("nonfinite", choice.nonfinite, ("raise", "zero"))
    if not choice.symmetric and not kind.has_asymmetric:
        raise ValueError(f"symmetric must be True for {choice.format}, got False")
    return choice


def parse_option(name: str, text: str | None, default: Choice) -> Choice | None:
    """Returns the choice of the argument ``name``, or None where it asks for none.

    Raises TypeError for what is not text, ValueError that quotes text that is no choice.
    """
    if text is None or text == KEEP:
        return None
    if not isinstance(text, str):
        raise TypeError(f"{name} must be a format such as 'int4:g64', or None, got {text!r}")
    return parse_choice(text, default, f"{name} {text!r}")


def parse_choice(text: str, default: Choice, what: str | None = None) -> Choice:
    """Returns the choice that ``FORMAT[:gN|:row][:METHOD][:asymmetric]`` spells.

    What the text leaves out is taken from ``default``; a method that the format does not have
    becomes the format's own default. Raises ValueError that begins with ``what``, or quotes the
    text.
    """
    name, *options = text.split(":")
    try:
        kind = get_format(check_choice("format", name, FORMATS))
        group_size, symmetric = default.group_size, default.symmetric or not kind.has_asymmetric
        method = default.method if default.method in kind.methods else kind.methods[0]
        for option in options:
            if option == "row":
                group_size = None
            elif option[:1] == "g" and option[1:].isdecimal():
                group_size = check_group_size(int(option[1:]))
            elif option == "asymmetric":
                symmetric = False
            else:
                method = check_choice("method", option, kind.methods)
        return check_choice_of(Choice(name, group_size, method, symmetric, default.nonfinite))
    except ValueError as error:
        raise ValueError(f"{what or repr(text)}: {error}") from None


def parse_rules(texts: Iterable[str], default: Choice) -> tuple[Rule, ...]:
    """Returns the rules that ``GLOB=FORMAT[:gN][:METHOD]`` or ``GLOB=keep`` spell, in order.

    Raises ValueError that quotes the rule that is malformed.
    """
    rules = []
    for text in texts:
        pattern, equals, action = text.partition("=")
        if not pattern or not equals or not action:
            raise ValueError(f"rule {text!r} must be GLOB=FORMAT[:gN][:METHOD] or GLOB=keep")
        choice = None if action == KEEP else parse_choice(action, default, f"rule {text!r}")
        rules.append(Rule(pattern, choice, text))
    return tuple(rules)
