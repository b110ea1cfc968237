"""Malformed headers: each is a FormatError that names file and reason, before any allocation."""

import json
import struct

import hypothesis.strategies as st
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings

import binq
from binq.errors import FormatError
from binq.files import SafetensorsFile
from binq.files.header import parse_header


def entry(dtype="F32", shape=(2,), start=0, stop=8, **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop], **more}


def packed(text, data=b"\0" * 8, length=None):
    text = text if isinstance(text, bytes) else json.dumps(text).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


GOOD = {"x": entry()}
DEEP = b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
MALFORMED = {
    "empty file": (b"", "too few for a header length"),
    "seven bytes": (b"\1\0\0\0\0\0\0", "too few for a header length"),
    "no header": (struct.pack("<Q", 10), "goes past the end"),
    "header longer than the file": (packed(GOOD, length=10_000), "goes past the end"),
    "header of 2**63 bytes": (packed(GOOD, length=2**63), "is more than"),
    "header of 2**64-1 bytes": (packed(GOOD, length=2**64 - 1), "is more than"),
    "header of 100 MB and one": (packed(GOOD, length=100_000_001), "is more than"),
    "zero header": (packed(b""), "must begin with"),
    "space before brace": (packed(b" {}", b""), "must begin with"),
    "a list": (packed(b"[]", b""), "must begin with"),
    "not JSON": (packed(b"{x}", b""), "not JSON"),
    "cut JSON": (packed(b'{"x":{"dtype":"F32"', b""), "not JSON"),
    "two objects": (packed(b"{}{}", b""), "not JSON"),
    "not UTF-8": (packed(b'{"\xff":1}', b""), "not JSON"),
    "UTF-16": (packed('{"x":1}'.encode("utf-16-le"), b""), "not JSON"),
    "NaN": (packed(b'{"x":NaN}', b""), "the number NaN"),
    "Infinity": (packed(b'{"x":Infinity}', b""), "the number Infinity"),
    "float": (packed(b'{"x":1.5}', b""), "the number 1.5"),
    "exponent": (packed(b'{"x":1e3}', b""), "the number 1e3"),
    "huge integer": (packed(b'{"x":' + b"9" * 5000 + b"}", b""), "the number 9999"),
    "deep nesting": (packed(DEEP, b""), "nested too deeply"),
    "duplicate tensor": (
        packed(b'{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"x":{}}'),
        "'x' twice",
    ),
    "duplicate key": (
        packed(b'{"x":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}'),
        "'dtype' twice",
    ),
    "duplicate metadata": (packed(b'{"__metadata__":{"a":"1","a":"2"}}', b""), "'a' twice"),
    "metadata is a list": (packed({"__metadata__": []}, b""), "must be an object"),
    "metadata number": (packed({"__metadata__": {"a": 1}}, b""), "must be a string"),
    "metadata null": (packed({"__metadata__": {"a": None}}, b""), "must be a string"),
    "metadata surrogate": (packed(b'{"__metadata__":{"a":"\\ud800"}}', b""), "valid Unicode"),
    "metadata key surrogate": (packed(b'{"__metadata__":{"\\ud800":"a"}}', b""), "valid Unicode"),
    "name surrogate": (packed(b'{"\\udfff":{}}', b""), "valid Unicode"),
    "name with NUL": (packed({"a\0b": entry()}), "NUL"),
    "entry is a list": (packed({"x": []}), "must have dtype"),
    "entry is null": (packed({"x": None}), "must have dtype"),
    "entry lacks shape": (
        packed({"x": {"dtype": "F32", "data_offsets": [0, 8]}}),
        "must have dtype",
    ),
    "dtype number": (packed({"x": entry(dtype=1)}), "dtype must be a string"),
    "dtype unknown": (packed({"x": entry(dtype="F128")}), "dtype 'F128' is unknown"),
    "dtype lower case": (packed({"x": entry(dtype="f32")}), "dtype 'f32' is unknown"),
    "shape is a number": (packed({"x": {**entry(), "shape": 2}}), "shape must be a list"),
    "shape is null": (packed({"x": {**entry(), "shape": None}}), "shape must be a list"),
    "shape has a bool": (packed({"x": entry(shape=[True, 2])}), "shape must be a list"),
    "shape has a string": (packed({"x": entry(shape=["2"])}), "shape must be a list"),
    "negative size": (packed({"x": entry(shape=[-2])}), "size of -2"),
    "two negatives": (packed({"x": entry(shape=[-1, -2])}), "size of -1"),
    "size of 2**48": (packed({"x": entry(shape=[2**48])}), "size of"),
    "zero times 2**64-1": (
        packed({"x": entry(shape=[0, 2**64 - 1], stop=0)}, b""),
        "size of",
    ),
    "product overflows 64 bits": (
        packed({"x": entry(shape=[2**33, 2**33], stop=0)}, b""),
        "takes 295147905179352825856 bytes",
    ),
    "product is 2**64 + 8": (
        packed({"x": entry("U8", shape=[2**40, 2**24], stop=8)}),
        "takes 18446744073709551616 bytes",
    ),
    "nine axes": (packed({"x": entry(shape=[1] * 9, stop=4)}), "9 axes"),
    "half a byte": (packed({"x": entry("F4", shape=[3], stop=1)}, b"\0"), "not a whole number"),
    "one offset": (packed({"x": {**entry(), "data_offsets": [8]}}), "two integers"),
    "three offsets": (packed({"x": {**entry(), "data_offsets": [0, 4, 8]}}), "two integers"),
    "offset is a string": (packed({"x": entry(start="0")}), "two integers"),
    "offset is a bool": (packed({"x": entry(start=False)}), "two integers"),
    "negative offset": (packed({"x": entry(start=-8, stop=0)}), "must ascend"),
    "offsets descend": (packed({"x": entry(start=8, stop=0)}), "must ascend"),
    "too short": (packed({"x": entry(stop=4)}), "data_offsets give 4"),
    "too long": (packed({"x": entry(stop=16)}, b"\0" * 16), "data_offsets give 16"),
    "past the file": (packed({"x": entry(shape=[4], stop=16)}), "the file has 8"),
    "exabytes past the file": (
        packed({"x": entry(shape=[2**40, 2**8], stop=2**50)}),
        "the file has 8",
    ),
    "trailing bytes": (packed(GOOD, b"\0" * 9), "the file has 9"),
    "data without tensors": (packed({}, b"\0"), "the file has 1"),
    "overlap": (packed({"x": entry(), "y": entry(start=4, stop=12)}, b"\0" * 12), "overlaps"),
    "the same place twice": (packed({"x": entry(), "y": entry()}), "overlaps"),
    "a hole": (packed({"x": entry(), "y": entry(start=9, stop=17)}, b"\0" * 17), "hole"),
    "a hole at the start": (packed({"x": entry(start=1, stop=9)}, b"\0" * 9), "hole"),
    "an empty tensor in another": (
        packed({"x": entry(), "y": entry(shape=[0], start=4, stop=4)}),
        "overlaps",
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_file_is_refused_with_its_reason(tmp_path, case):
    data, message = MALFORMED[case]
    path = tmp_path / "bad.safetensors"
    path.write_bytes(data)
    for reader in (binq.load_file, SafetensorsFile):
        with pytest.raises(FormatError, match=message) as caught:
            reader(path)
        assert str(path) in str(caught.value)


def test_there_are_at_least_sixty_malformed_files():
    assert len(MALFORMED) >= 60


def test_too_many_tensors_are_refused(monkeypatch):
    monkeypatch.setattr("binq.files.header.MAX_TENSORS", 2)
    text = json.dumps({str(i): entry(shape=[0], stop=0) for i in range(3)}).encode()
    with pytest.raises(FormatError, match="3 tensors, more than 2"):
        parse_header(text, 0, "m")


def test_names_are_never_paths(tmp_path):
    """A name may look like a path: nothing is ever opened by it."""
    path = tmp_path / "m.safetensors"
    binq.save_file({"../../x": np.ones(2)}, path)
    assert list(binq.load_file(path)) == ["../../x"]
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


# What safetensors accepts and this reader refuses, on purpose.
STRICTER = ("twice", "must begin with", "size of", "NUL", "axes", "valid Unicode", "number")


@settings(max_examples=300)
@given(data=st.data())
def test_mutations_raise_nothing_but_format_errors(data):
    """Bytes flipped, cut, doubled and inserted; what both readers accept they read alike."""
    base = packed(
        {
            "__metadata__": {"format": "pt"},
            "a": entry("BF16", [2, 3], 0, 12),
            "b": entry("F32", [1, 2], 12, 20),
            "c": entry("I64", [], 20, 28),
        },
        bytes(range(28)),
    )
    mutant = bytearray(base)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(mutant) - 1))
        kind = data.draw(st.sampled_from(("flip", "cut", "double", "insert", "set")))
        if kind == "flip":
            mutant[at] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == "cut":
            del mutant[at : at + data.draw(st.integers(1, 9))]
        elif kind == "double":
            mutant[at:at] = mutant[at : at + data.draw(st.integers(1, 30))]
        elif kind == "insert":
            mutant[at:at] = data.draw(st.sampled_from((b"{", b'"', b"[", b"0", b",", b"-", b"\\")))
        else:
            mutant[at] = data.draw(st.integers(0, 255))
        if not mutant:
            return
    try:
        header_bytes = struct.unpack("<Q", mutant[:8])[0] if len(mutant) >= 8 else None
        if header_bytes is None or header_bytes > len(mutant) - 8:
            return
        text = bytes(mutant[8 : 8 + header_bytes])
        ours, _ = parse_header(text, len(mutant) - 8 - header_bytes, "m")
    except FormatError as error:
        refused = str(error)
    else:
        refused = ""
    try:
        theirs = {
            name: (view["dtype"], tuple(view["shape"]))
            for name, view in safetensors.deserialize(bytes(mutant))
        }
    except Exception:
        assert refused
        return
    if refused:
        assert any(reason in refused for reason in STRICTER), refused
    else:
        assert theirs == {name: (i.dtype, i.shape) for name, i in ours.items()}
