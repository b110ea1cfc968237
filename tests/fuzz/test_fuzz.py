"""A short run of campaign.py with the suite: a minute, all kinds."""

import pytest
from fuzz.campaign import fuzz

INPUTS = {
    "headers": 20_000,
    "descriptions": 10_000,
    "binq": 3_000,
    "gguf": 3_000,
    "indexes": 3_000,
    "folders": 600,
    "loads": 600,
    "evidence": 2_000,
}


@pytest.mark.parametrize("kind", sorted(INPUTS))
def test_mutants_raise_only_our_errors(tmp_path, kind):
    accepted, faults = fuzz(kind, INPUTS[kind], 1, tmp_path)
    assert faults == []
    assert 0 < accepted < INPUTS[kind]
