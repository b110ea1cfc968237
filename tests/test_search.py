"""The search example: float queries find more in packed documents than signs find in signs."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

EXAMPLE = Path(__file__).parents[1] / "examples" / "search.py"


@pytest.fixture(scope="module")
def search():
    spec = importlib.util.spec_from_file_location("search", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_best_come_first(search):
    scores = np.array([[3, 1, 4, 1.5, 9, 2], [0, -1, -2, 5, -4, 7]], np.float32)
    np.testing.assert_array_equal(search.best(scores, 3), [[4, 2, 0], [5, 3, 0]])


def test_recall_counts_what_was_found(search):
    assert search.recall(np.array([[1, 2, 3], [4, 5, 6]]), np.array([[3, 9], [4, 6]])) == 0.75


@pytest.mark.parametrize("dimensions", [64, 100])
def test_hamming_counts_the_signs_that_differ(search, dimensions):
    rng = np.random.default_rng(0)
    documents, queries = rng.standard_normal((50, dimensions)), rng.standard_normal((3, dimensions))
    differ = ((documents > 0) != (queries[:, None] > 0)).sum(axis=-1)
    found = search.hamming(search.sign_bits(documents), search.sign_bits(queries))
    np.testing.assert_array_equal(found, -differ)


def test_float_queries_find_more_than_signs_and_ternary_more_than_binary(search, capsys):
    found = search.compare(*search.embeddings(6000, 256, 48))
    assert list(found) == ["float32, exact", "signs, Hamming", "binq binary", "binq ternary"]
    ten, hundred = zip(*found.values(), strict=True)
    assert ten[0] == 1.0
    assert ten[1] + 0.02 < ten[2]
    assert ten[2] + 0.02 < ten[3]
    assert hundred[1] < hundred[2] < hundred[3] <= 1.0
    assert len(capsys.readouterr().out.splitlines()) == 5
