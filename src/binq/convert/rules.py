"""What a user may ask for each tensor: ordered rules, the first that matches wins."""

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from binq.array.checks import check_choice, check_group_size
from binq.array.choices import DEFAULT_GROUP_SIZE
from binq.array.packing import Packing
from binq.formats import FORMATS, Format, get_format
from binq.formats.zeros import CODE, OFFSET
from binq.methods import METHODS, Method
from binq.methods.method import Native
from binq.methods.quantize import get_method

KEEP = "keep"
ANY = "any"  # the format's own kind of zero
NATIVE = {name for name, method in METHODS.items() if isinstance(method, Native)}


@dataclass(frozen=True)
class Choice:
    """How a tensor is quantized: the arguments of :func:`binq.quantize`."""

    packing: Packing
    method: str | Method = "mse"
    nonfinite: str = "raise"

    def __str__(self) -> str:
        return str(self.packing)


@dataclass(frozen=True)
class Rule:
    """Tensors whose name matches ``pattern`` get ``choice``, or are kept where that is None."""

    pattern: str
    choice: Choice | None
    text: str

    def matches(self, name: str) -> bool:
        """Returns whether the glob matches the whole name; case counts."""
        return fnmatchcase(name, self.pattern)


def check_choice_of(
    format: object,
    group_size: object = DEFAULT_GROUP_SIZE,
    method: str | Method | None = None,
    symmetric: object = True,
    zero: object = None,
    nonfinite: object = "raise",
) -> Choice:
    """Returns the choice that arguments of :func:`binq.quantize` make.

    Raises ValueError or TypeError naming the argument.
    """
    packing = Packing.checked(check_choice("format", format, FORMATS), group_size, symmetric, zero)
    found = get_method("mse" if method is None else method, packing)
    check_choice("nonfinite", nonfinite, ("raise", "zero"))
    return Choice(packing, found if isinstance(method, Method) else str(found), str(nonfinite))


def parse_option(name: str, text: str | None, default: Choice) -> Choice | None:
    """Returns the choice of the argument ``name``, or None where it asks for none.

    Raises TypeError for what is not text, ValueError that quotes text that is not a choice.
    """
    if text is None or text == KEEP:
        return None
    if not isinstance(text, str):
        raise TypeError(f"{name} must be a format such as 'int4:g64', or None, got {text!r}")
    return parse_choice(text, default, f"{name} {text!r}")


def parse_choice(text: str, default: Choice, what: str | None = None) -> Choice:
    """Returns the choice that ``FORMAT[:gN|:row][:METHOD][:asymmetric|:code|:offset]`` spells.

    What the text leaves out is taken from ``default``; a method that the format does not have
    becomes the format's own default. Raises ValueError that begins with ``what``, or quotes the
    text.
    """
    name, *options = text.split(":")
    try:
        kind = get_format(check_choice("format", name, FORMATS))
        group_size = default.packing.group_size
        if kind.spec.group_size != DEFAULT_GROUP_SIZE:
            group_size = kind.spec.group_size  # its own, as mxfp4 has
        zero = _zero_of(kind, default.packing)
        method: str | Method = default.method
        if isinstance(method, str) and method in NATIVE and method not in kind.methods:
            method = kind.methods[0]
        for option in options:
            if option == "row":
                group_size = None
            elif option[:1] == "g" and option[1:].isdecimal():
                group_size = check_group_size(int(option[1:]))
            elif option == "asymmetric":
                zero = zero or ANY
            elif option in (CODE, OFFSET):
                zero = option
            else:
                method = option
        given = None if zero == ANY else zero
        return check_choice_of(name, group_size, method, zero is None, given, default.nonfinite)
    except ValueError as error:
        raise ValueError(f"{what or repr(text)}: {error}") from None


def _zero_of(kind: Format, default: Packing) -> str | None:
    """Returns what a format takes of the default's kind of zero, None where it is symmetric."""
    if default.symmetric or not kind.zero_kinds:
        return None
    return default.zero if default.zero in kind.zero_kinds else kind.zero_kinds[0]


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
