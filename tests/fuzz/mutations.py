"""Changes that damage and malice make: to bytes, to JSON text, and to what JSON holds."""

import copy
import json
import random
from typing import Any

WORDS = [b"{", b"}", b"[", b"]", b'"', b",", b":", b"-", b"0", b"1e9", b"null", b"true", b"NaN"]
WORDS += [b"\\ud800", b"\\u0000", b"9" * 30, b"[" * 2000, b'"dtype"', b"18446744073709551616"]
# What may stand where a number, a name or a list should.
VALUES: list[Any] = [
    None, True, False, 0, 1, 2, 3, 4, 8, 16, 31, 32, 33, 64, 127, 128, 129, -1, -2, -128, 2**31 - 1,
    2**31, 2**32, 2**47, 2**48, 2**63 - 1, 2**63, 2**64, 10**30, -(2**63), 1e-300, 1e300, 1.5,
    128.0, float("inf"), float("-inf"), float("nan"), "", "4", "int4", "gptq", "awq", "fp8",
    "mxfp4", "bitnet", "compressed-tensors", "binq", "F32", "BF16", "F8_E4M3", "U8", "I64",
    "F4", "\ud800", "a\0b", "../x", [], [[]], [0], [1, 1], [128, 128], [-1, 128], [2**40, 0],
    [0, 2**62, 2**62], {}, {"a": 1}, {"weights": None}, [[[[]]]], ["F32", 1],
]  # fmt: skip


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Returns data with one to four bytes or words changed, cut, doubled or put in."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(out) + 1)
        kind = rng.randrange(6)
        if kind == 0 and at < len(out):
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del out[at : at + rng.randint(1, 12)]
        elif kind == 2:
            out[at:at] = out[at : at + rng.randint(1, 40)]
        elif kind == 3:
            out[at:at] = rng.choice(WORDS)
        elif kind == 4:
            number = rng.choice((0, 1, 2**31, 2**32, 2**63, 2**64 - 1, rng.getrandbits(64)))
            out[at : at + 8] = number.to_bytes(8, "little")
        elif at < len(out):
            out[at] = rng.randrange(256)
    return bytes(out)


def mutate_json(content: Any, rng: random.Random) -> Any:
    """Returns an object with one to three values changed, removed, swapped or put in."""
    content = copy.deepcopy(content)
    if not isinstance(content, dict | list):
        return rng.choice(VALUES)
    for _ in range(rng.randint(1, 3)):
        places = list(_places(content))
        if not places:
            return content
        holder, key = rng.choice(places)
        other, from_key = rng.choice(places)
        kind = rng.randrange(6)
        if kind == 0:
            del holder[key]
        elif kind == 1 and other is not holder[key]:
            holder[key] = copy.deepcopy(other[from_key])
        elif kind == 2 and isinstance(holder, dict):
            holder[str(rng.choice((from_key, "x", f"{key}x")))] = holder.pop(key)
        elif kind == 3 and type(holder[key]) is int:
            holder[key] += rng.choice((-1, 1, 2**32))
        elif kind == 4 and isinstance(holder[key], list):
            rng.shuffle(holder[key])
        else:
            holder[key] = copy.deepcopy(rng.choice(VALUES))
    return content


def _places(content: Any) -> Any:
    """Yields (holder, key) of every value within an object, to some depth."""
    level = [content]
    for _ in range(6):
        inner = []
        for holder in level:
            keys = list(holder) if isinstance(holder, dict) else range(len(holder))
            for key in keys:
                yield holder, key
                if isinstance(holder[key], dict | list):
                    inner.append(holder[key])
        level = inner


def mutate_file(data: bytes, rng: random.Random) -> bytes:
    """Returns a safetensors file with another header, other data or other bytes anywhere."""
    kind = rng.randrange(4)
    if kind == 0:
        return mutate(data, rng)
    length = int.from_bytes(data[:8], "little")
    text, rest = data[8 : 8 + length], data[8 + length :]
    if kind == 1:
        return data[: 8 + length] + mutate(rest, rng)[: len(rest)].ljust(len(rest), b"\xff")
    text = mutate(text, rng) if kind == 2 else mutate_header(json.loads(text), rng)
    return len(text).to_bytes(8, "little") + text + rest


def mutate_header(header: dict[str, Any], rng: random.Random) -> bytes:
    """Returns the JSON of a changed header, at times one whose bytes still fit the data."""
    names = [name for name in header if name != "__metadata__"]
    kind = rng.randrange(5)
    if not names or kind == 0:
        header = mutate_json(header, rng)
    else:
        header = copy.deepcopy(header)
        one, other = (header[rng.choice(names)] for _ in range(2))
        if kind == 1:
            rng.shuffle(one["shape"])
        elif kind == 2:
            one["shape"], other["shape"] = other["shape"], one["shape"]
        elif kind == 3:
            pairs = {"F16": "BF16", "BF16": "I16", "F32": "I32", "I32": "U32", "U8": "I8"}
            one["dtype"] = pairs.get(one["dtype"], "U8")
        else:
            a, b = rng.choice(names), rng.choice(names)
            header[a], header[b] = header[b], header[a]
    if "__metadata__" in header and rng.randrange(3) == 0:
        strings = header["__metadata__"]
        if isinstance(strings, dict) and isinstance(strings.get("binq"), str):
            try:
                content = json.loads(strings["binq"])
            except ValueError:
                content = {}
            strings["binq"] = json.dumps(mutate_json(content, rng))
    return json.dumps(header).encode()
