"""A short run of fuzz.py with the suite."""

from files.fuzz import fuzz


def test_mutated_headers_raise_only_our_errors():
    assert 0 < fuzz(40_000, seed=1) < 40_000
