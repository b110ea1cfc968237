"""JSON as strangers write it: parsed with nothing twice, and nothing nested without end."""

import json
from typing import Any, NoReturn


def parse_json(text: str | bytes, *, whole: bool = False) -> Any:
    """Returns what JSON text, UTF-8 where it is bytes, stands for.

    whole: numbers must be integers of at most 20 characters.

    Raises ValueError with the reason: no JSON, a name twice in an object, nested too deeply.
    """
    options: dict[str, Any] = {}
    if whole:
        options = {"parse_constant": _refuse, "parse_float": _refuse, "parse_int": _integer}
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        return json.loads(text, object_pairs_hook=_unique, **options)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


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
