"""Patterns of configuration files match what Python's re matches, in bounded time."""

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from binq.errors import UnsupportedFormatError
from binq.storage.patterns import matches

PATTERNS = [
    r".*\.18\..*gate.*", r"^model\.layers\.(?:1|2|10)\..*(?:up|down)_proj$", r"[^.]+\.mlp",
    r"model\.layers\.(?!0\.)\d+\.mlp", r"a{2,3}b?", r"(a*)*b", r"x*?y+", r"[\w.]+proj", r"[]a]b",
    r"[a-c-]x", r"\.(q|k|v)_proj$", r"(?=mo)model", r"lm_head|embed", r"\Amo.*j\Z", r"\D\d{1,}\W",
]  # fmt: skip
NAMES = [
    "model.layers.18.mlp.gate_proj", "model.layers.1.mlp.up_proj", "model.layers.0.mlp.down_proj",
    "lm_head", "aaab", "aab", "b", "]b", "-x", "cx", "model.layers.3.self_attn.q_proj", "xyyy", "",
]  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_match_as_re_does(pattern):
    for name in NAMES:
        assert matches(None, "k", pattern, name) is bool(re.search(pattern, name))
        assert matches(None, "k", pattern, name, begin=True) is bool(re.match(pattern, name))


PIECES = ["a", "b", ".", "*", "+", "?", "(", ")", "|", "[ab]", "(?:", "{1,2}", "^", "$", "(?!"]


@settings(max_examples=300)
@given(st.lists(st.sampled_from(PIECES), max_size=9).map("".join), st.text("ab", max_size=7))
def test_any_pattern_matches_as_re_does(pattern, name):
    try:
        expected = re.compile(pattern)
        found = matches(None, "k", pattern, name)
    except (re.error, UnsupportedFormatError):
        return
    assert found is bool(expected.search(name))
    assert matches(None, "k", pattern, name, begin=True) is bool(expected.match(name))


@pytest.mark.parametrize("pattern", ["(a*)*b", "(a|a)*b", "a*a*a*a*a*a*a*a*a*b", "(((a?)*)*)*b"])
def test_no_pattern_takes_long(pattern):
    start = time.perf_counter()
    assert not matches(None, "k", pattern, "a" * 2000)
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize(
    ("pattern", "match"),
    [
        ("(", "without its end"),
        (")", "unbalanced"),
        ("*", "nothing to repeat"),
        ("a**", "repetition of a repetition"),
        ("a{2,1}", "a repetition"),
        ("a{5000}", "a repetition"),
        ("a{x}", "not {m,n}"),
        (r"(a)\1", "the escape"),
        ("(?i)a", "a group other than"),
        ("(?<=a)b", "a group other than"),
        ("[a", "ends too early"),
        ("[b-a]", "range"),
        ("(" * 30 + ")" * 30, "groups within groups"),
        ("a" * 3000, "no string of at most"),
        (7, "no string"),
    ],
)
def test_what_is_not_known_is_refused_by_name(pattern, match):
    with pytest.raises(UnsupportedFormatError, match="k has the pattern") as caught:
        matches(None, "k", pattern, "a")
    assert re.search(match, str(caught.value))
