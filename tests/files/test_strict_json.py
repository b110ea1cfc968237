"""JSON piece by piece: the same values as json.loads, in bounded memory."""

import json

import hypothesis.strategies as st
import pytest
from hypothesis import example, given

from binq.files import strict_json
from binq.files.strict_json import parse_json, parse_members, parse_value

NAMES = st.text(max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**18), 10**18) | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


@given(
    members=st.dictionaries(NAMES, VALUES, max_size=6),
    indent=st.sampled_from([None, 0, 3]),
    first=st.integers(1, 40),
)
@example(members={"a": "x" * 3000, "b": list(range(900))}, indent=None, first=1)
def test_members_are_those_of_json(members, indent, first):
    """Also where a value goes on behind the first piece that is looked at."""
    text = json.dumps(members, indent=indent)
    before = strict_json._FIRST_PIECE
    strict_json._FIRST_PIECE = first
    try:
        found, end = parse_members(text, 0, 10, lambda _, text, at: parse_value(text, at))
    finally:
        strict_json._FIRST_PIECE = before
    assert (found, end) == (members, len(text))
    assert parse_json(text) == members


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a":1,"a":2}', "it has 'a' twice"),
        ('{"a":1', "no ','"),
        ('{"a":1,}', "a name is missing"),
        ('{"a" 1}', "no ':'"),
        ("{a:1}", "a name is missing"),
        ('{"a":1 "b":2}', "no ','"),
        ('{"a":' + "[" * 5000 + "]" * 5000 + "}", "nested too deeply"),
        ('{"a":1.5}', "the number 1.5, not an integer"),
        ('{"a":NaN}', "the number NaN"),
        ('{"a":' + "9" * 30 + "}", "not an integer"),
        ('{"a":1,"b":2,"c":3}', "more than 2 members"),
        ('{"a":[' + "[]," * 400_000 + "[]]}", "Expecting|delimiter"),
        ('{"a":"' + "x" * ((1 << 20) - 2) + '"}', "takes more than 1048576"),
        ('{"a":"\n"}', "control character"),
        ("{", "a name is missing"),
    ],
)
def test_what_is_malformed_is_named(text, reason):
    with pytest.raises(ValueError, match=reason):
        parse_members(text, 0, 2, lambda _, text, at: parse_value(text, at))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"[" * 100_000, "nested too deeply"),
        ("[" * 65 + "]" * 65, "nested too deeply"),
        ('{"a":' * 100 + "1" + "}" * 100, "nested too deeply"),
        ("[" + "[]," * strict_json.MOST_VALUES + "[]]", "more than 4000000 values"),
        (b"\xff", "utf-8"),
        ('{"a":{"b":1,"b":2}}', "it has 'b' twice"),
    ],
)
def test_whole_documents_have_limits(text, reason):
    with pytest.raises(ValueError, match=reason):
        parse_json(text)


def test_configurations_may_hold_any_number():
    text = '{"a":Infinity,"b":1e30,"c":' + "9" * 40 + "}"
    assert parse_json(text) == {"a": float("inf"), "b": 1e30, "c": int("9" * 40)}
    assert parse_json("[" * 64 + "]" * 64) is not None
