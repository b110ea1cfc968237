"""Regular expressions of configuration files, matched in time that no pattern can blow up.

A pattern out of a file may come from anybody, and backtracking (Python's ``re``) takes exponential
time for some. Here the positions that a prefix of the pattern can reach in the name are the bits of
an integer, and each part of the pattern moves all of them at once (the bit-parallel simulation of
automata, Baeza-Yates and Gonnet). Captures, back references and flags do not exist: what a pattern
has besides is refused by name.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from binq.errors import UnsupportedFormatError

if TYPE_CHECKING:
    from binq.files.checkpoint import Checkpoint

_MOST = 2000  # characters of a pattern
_DEEPEST = 20  # groups within groups
_MOST_REPEATS = 1000
_CLASSES: dict[str, Callable[[str], bool]] = {
    "d": str.isdecimal,
    "w": lambda c: c.isalnum() or c == "_",
    "s": str.isspace,
}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v", "a": "\a"}


def matches(
    source: "Checkpoint", key: str, pattern: object, name: str, *, begin: bool = False
) -> bool:
    """Returns whether a pattern matches somewhere in a name, or at its beginning.

    key: the setting that holds the pattern, for errors. Raises UnsupportedFormatError for a
    pattern that is malformed or has what is not known here.

    >>> matches(None, "dynamic", r".*[.](?:up|down)_proj$", "model.mlp.up_proj")
    True
    >>> matches(None, "dynamic", "mlp", "model.mlp.up_proj", begin=True)
    False
    """
    text = _Text(name)
    return bool(_checked(source, key, pattern).reach(text, 1 if begin else text.everywhere))


def first_match(
    source: "Checkpoint", key: str, patterns: Iterable[object], name: str
) -> int | None:
    """Returns which pattern matches first in a name, as their alternation would find it.

    That is the one that matches furthest to the left, of several there the first.

    >>> first_match(None, "k", ["mlp", "layers", "embed"], "model.layers.0.mlp")
    1
    """
    nodes = [_checked(source, key, pattern) for pattern in patterns]
    text = _Text(name)
    for place in range(text.length + 1):
        for number, node in enumerate(nodes):
            if node.reach(text, 1 << place):
                return number
    return None


def _checked(source: "Checkpoint", key: str, pattern: object) -> "_Node":
    try:
        if not isinstance(pattern, str) or len(pattern) > _MOST:
            raise ValueError(f"no string of at most {_MOST} characters")
        return _parse(pattern)
    except ValueError as error:
        where = getattr(source, "path", "")
        raise UnsupportedFormatError(
            f"{where}: {key} has the pattern {str(pattern)[:200]!r}: {error}"
        ) from None


class _Text:
    """A name, and where in it each character stands."""

    def __init__(self, name: str) -> None:
        self.length = len(name)
        self.everywhere = (1 << (self.length + 1)) - 1
        self.places: dict[str, int] = {}
        for place, character in enumerate(name):
            self.places[character] = self.places.get(character, 0) | 1 << place


class _Node:
    """A part of a pattern: from the positions before it to those behind it, both as bits."""

    def reach(self, text: _Text, starts: int) -> int:
        raise NotImplementedError


@dataclass(frozen=True)
class _Character(_Node):
    accepts: Callable[[str], bool]

    def reach(self, text: _Text, starts: int) -> int:
        there = sum(bits for character, bits in text.places.items() if self.accepts(character))
        return (starts & there) << 1


@dataclass(frozen=True)
class _Literal(_Node):
    character: str

    def reach(self, text: _Text, starts: int) -> int:
        return (starts & text.places.get(self.character, 0)) << 1


@dataclass(frozen=True)
class _Edge(_Node):
    end: bool

    def reach(self, text: _Text, starts: int) -> int:
        return starts & (1 << text.length if self.end else 1)


@dataclass(frozen=True)
class _Sequence(_Node):
    parts: tuple[_Node, ...]

    def reach(self, text: _Text, starts: int) -> int:
        for part in self.parts:
            if not starts:
                break
            starts = part.reach(text, starts)
        return starts


@dataclass(frozen=True)
class _Choice(_Node):
    parts: tuple[_Node, ...]

    def reach(self, text: _Text, starts: int) -> int:
        ends = 0
        for part in self.parts:
            ends |= part.reach(text, starts)
        return ends


@dataclass(frozen=True)
class _Repeat(_Node):
    part: _Node
    least: int
    most: int | None

    def reach(self, text: _Text, starts: int) -> int:
        for _ in range(self.least):
            before, starts = starts, self.part.reach(text, starts)
            if starts in (0, before):
                break
        ends = fresh = starts
        left = text.length if self.most is None else self.most - self.least
        while fresh and left:
            fresh = self.part.reach(text, fresh) & ~ends
            ends |= fresh
            left -= 1
        return ends


@dataclass(frozen=True)
class _Ahead(_Node):
    part: _Node
    wanted: bool

    def reach(self, text: _Text, starts: int) -> int:
        return sum(
            1 << place
            for place in range(text.length + 1)
            if starts >> place & 1 and bool(self.part.reach(text, 1 << place)) is self.wanted
        )


@lru_cache(maxsize=1024)
def _parse(pattern: str) -> _Node:
    parser = _Parser(pattern)
    node = parser.choice(0)
    if parser.at < len(pattern):
        raise ValueError(f"unbalanced ')' at {parser.at}")
    return node


class _Parser:
    """Reads a pattern from left to right."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.at = 0

    def peek(self, text: str) -> bool:
        return self.pattern.startswith(text, self.at)

    def take(self, text: str) -> bool:
        """Goes over a text if it comes next; returns whether it did."""
        found = self.peek(text)
        self.at += len(text) if found else 0
        return found

    def next(self) -> str:
        if self.at >= len(self.pattern):
            raise ValueError("it ends too early")
        self.at += 1
        return self.pattern[self.at - 1]

    def choice(self, depth: int) -> _Node:
        if depth > _DEEPEST:
            raise ValueError(f"more than {_DEEPEST} groups within groups")
        parts = [self.sequence(depth)]
        while self.take("|"):
            parts.append(self.sequence(depth))
        return parts[0] if len(parts) == 1 else _Choice(tuple(parts))

    def sequence(self, depth: int) -> _Node:
        return _Sequence(tuple(self.pieces(depth)))

    def pieces(self, depth: int) -> Iterator[_Node]:
        while self.at < len(self.pattern) and not self.peek("|") and not self.peek(")"):
            atom = self.atom(depth)
            limits = self.limits()
            yield atom if limits is None else _Repeat(atom, *limits)
            if limits is not None and self.limits() is not None:
                raise ValueError("a repetition of a repetition")

    def atom(self, depth: int) -> _Node:
        character = self.next()
        if character == "(":
            return self.group(depth)
        if character == "[":
            return self.characters()
        if character == "\\":
            return self.escape()
        if character in "*+?{":
            raise ValueError("nothing to repeat")
        if character in "^$":
            return _Edge(character == "$")
        return _Character(lambda c: c != "\n") if character == "." else _Literal(character)

    def group(self, depth: int) -> _Node:
        wrap: Callable[[_Node], _Node] = lambda node: node  # noqa: E731
        if self.take("?"):
            if self.take("="):
                wrap = lambda node: _Ahead(node, True)  # noqa: E731
            elif self.take("!"):
                wrap = lambda node: _Ahead(node, False)  # noqa: E731
            elif not self.take(":"):
                raise ValueError("a group other than (...), (?:...), (?=...) or (?!...)")
        node = self.choice(depth + 1)
        if not self.take(")"):
            raise ValueError("a group without its end")
        return wrap(node)

    def limits(self) -> tuple[int, int | None] | None:
        """Returns how often the last atom is repeated, if it is."""
        found: tuple[int, int | None] | None = None
        for sign, limits in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if found is None and self.take(sign):
                found = limits
        if found is None and self.peek("{"):
            end = self.pattern.find("}", self.at)
            least, comma, most = self.pattern[self.at + 1 : end].partition(",")
            digits = (least or "0").isdecimal() and (most or "0").isdecimal()
            if end < 0 or not digits or not (least or most) or len(least + most) > 8:
                raise ValueError("a brace that is not {m,n}")
            self.at = end + 1
            low = int(least or 0)
            high = (int(most) if most else None) if comma else low
            if max(low, high or 0) > _MOST_REPEATS or (high is not None and high < low):
                raise ValueError(f"a repetition {{{least},{most}}}")
            found = (low, high)
        if found is not None:
            self.take("?")  # lazy or not is the same where nothing is captured
        return found

    def escape(self) -> _Node:
        character = self.next()
        if character == "Z":
            return _Edge(True)
        if character == "A":
            return _Edge(False)
        return (
            _Character(self.escaped_class(character))
            if character.lower() in "dws"
            else (_Literal(self.escaped_literal(character)))
        )

    def escaped_class(self, letter: str) -> Callable[[str], bool]:
        inner = _CLASSES[letter.lower()]
        return inner if letter.islower() else lambda c: not inner(c)

    def escaped_literal(self, character: str) -> str:
        if character in _ESCAPES:
            return _ESCAPES[character]
        if character.isalnum():
            raise ValueError(f"the escape \\{character}")
        return character

    def characters(self) -> _Node:
        """Returns a set of characters such as ``[a-z_]``."""
        negated = self.take("^")
        tests: list[Callable[[str], bool]] = []
        first = True
        while first or not self.take("]"):
            first = False
            test, low = self.member()
            if low is not None and self.peek("-") and not self.peek("-]"):
                self.take("-")
                _, high = self.member()
                if high is None or high < low:
                    raise ValueError("a range of characters that ends before it begins")
                test = lambda c, low=low, high=high: low <= c <= high  # type: ignore[misc] # noqa: E731
            tests.append(test)
        return _Character(lambda c: any(test(c) for test in tests) is not negated)

    def member(self) -> tuple[Callable[[str], bool], str | None]:
        character = self.next()
        if character == "\\":
            letter = self.next()
            if letter.lower() in "dws":
                return self.escaped_class(letter), None
            character = self.escaped_literal(letter)
        return character.__eq__, character
