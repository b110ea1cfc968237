"""JSON as strangers write it: nothing twice, nothing nested without end, and bounded memory."""

import json
import re
from collections.abc import Callable
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any, NoReturn

MOST_VALUES = 4_000_000
MOST_LEVELS = 64
_FIRST_PIECE = 512
_LARGEST_PIECE = 1 << 20
_space = re.compile(r"[ \t\n\r]*").match


def parse_json(text: str | bytes, *, whole: bool = False) -> Any:
    """Returns what JSON text, UTF-8 where it is bytes, stands for.

    whole: numbers must be integers of at most 20 characters.

    Raises ValueError with the reason: no JSON, a name twice in an object, more than 64 levels or 4
    million values. So it takes about 1 GB at most beside the text.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8")
    if text.count(",") + text.count("[") + text.count("{") > MOST_VALUES:
        raise ValueError(f"it has more than {MOST_VALUES} values")
    decoder = _WHOLE if whole else _ANY
    try:
        value = decoder.decode(text)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    level = [value]
    for _ in range(MOST_LEVELS):
        level = [inner for outer in level for inner in _containers(outer)]
        if not level:
            return value
    raise ValueError(_TOO_DEEP)


def parse_members(
    text: str, at: int, most: int, read: Callable[[str, str, int], tuple[Any, int]]
) -> tuple[dict[str, Any], int]:
    """Returns the members of the object that begins at ``at``, and where it ends.

    ``read(name, text, at)`` returns the value that begins at ``at``, and where that ends: so that
    none of them is kept as it is written. Raises ValueError with the reason.
    """
    result: dict[str, Any] = {}
    at = skip_space(text, at + 1)
    if text[at : at + 1] == "}":
        return result, at + 1
    while True:
        if text[at : at + 1] != '"':
            raise ValueError(f"a name is missing at character {at}")
        name, at = parse_string(text, at)
        at = skip_space(text, at)
        if text[at : at + 1] != ":":
            raise ValueError(f"there is no ':' at character {at}")
        if name in result:
            raise ValueError(f"it has {name[:200]!r} twice in an object")
        if len(result) >= most:
            raise ValueError(f"it has more than {most} members")
        result[name], at = read(name, text, skip_space(text, at + 1))
        at = skip_space(text, at)
        end = text[at : at + 1]
        at = skip_space(text, at + 1)
        if end == "}":
            return result, at
        if end != ",":
            raise ValueError(f"there is no ',' at character {at}")


def parse_string(text: str, at: int) -> tuple[str, int]:
    """Returns the string that begins with the quote at ``at``, and where it ends."""
    value, end = scanstring(text, at + 1, True)
    return value, end


def parse_value(text: str, at: int) -> tuple[Any, int]:
    """Returns the value of integers and text that begins at ``at``, and where it ends.

    Raises ValueError for no value, and for one that takes more than a million characters.
    """
    size = _FIRST_PIECE
    while True:
        piece = text[at : at + size]
        try:
            value, end = _WHOLE.raw_decode(piece)
            # A number may go on behind the piece.
            if end < len(piece) or len(piece) < size:
                return value, at + end
        except RecursionError:
            raise ValueError(_TOO_DEEP) from None
        except ValueError:
            if len(piece) < size or size >= _LARGEST_PIECE:
                raise
        if size >= _LARGEST_PIECE:
            raise ValueError(f"the value at character {at} takes more than {_LARGEST_PIECE}")
        size = min(8 * size, _LARGEST_PIECE)


def skip_space(text: str, at: int) -> int:
    """Returns where the first character from ``at`` on is that is not a space."""
    found = _space(text, at)
    return found.end() if found else at


def _containers(value: Any) -> list[Any]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [one for one in inner if isinstance(one, dict | list)]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise ValueError(f"it has {name[:200]!r} twice in an object")
            seen.add(name)
    return result


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"it has the number {word[:40]}, not an integer")


def _integer(word: str) -> int:
    if len(word) > 20:
        _refuse(word)
    return int(word)


_TOO_DEEP = "it is nested too deeply"
_ANY = json.JSONDecoder(object_pairs_hook=_unique)
_WHOLE = json.JSONDecoder(
    object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_refuse, parse_int=_integer
)
