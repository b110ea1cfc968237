"""quantize where rows are narrow: the group that holds them, and sizes beside float16."""

from pathlib import Path

import numpy as np
import pytest

import binq
from binq import reference


@pytest.mark.parametrize("format", ["binary", "ternary", "int4"])
@pytest.mark.parametrize(
    ("columns", "asked", "group"),
    [
        (64, 128, 64),
        (1, 256, 32),
        (33, 64, 64),
        (32, 32, 32),
        (100, 256, 128),
        (128, 128, 128),
        (129, 128, 128),
        (65, 64, 64),
        (0, 128, 32),
        (64, None, None),
    ],
)
def test_narrow_rows_take_the_smallest_group_that_holds_them(format, columns, asked, group):
    w = np.random.default_rng(3).standard_normal((40, columns), dtype=np.float32)
    q = binq.quantize(w, format, group_size=asked)
    assert q.group_size == group
    parts = reference.quantize(w, format, asked, "mse", True, "float16")
    np.testing.assert_array_equal(q.scales, parts[1])


def test_narrow_weights_are_small():
    w = np.random.default_rng(3).standard_normal((1000, 64), dtype=np.float32)
    assert binq.quantize(w, "int4").bits_per_weight < 5
    assert binq.quantize(w, "binary").bits_per_weight < 1.5


@pytest.mark.filterwarnings("error::binq.SizeWarning")
def test_what_is_larger_than_float16_is_said():
    w = np.ones((1, 4096), np.float32)
    message = (
        r"packed weights of shape \(1, 4096\) take 67584 bytes, float16 ones 8192: rows are padded"
    )
    with pytest.warns(binq.SizeWarning, match=message) as caught:
        binq.quantize(w, "int4")
    assert Path(caught[0].filename) == Path(__file__)
    binq.quantize(np.ones((9, 4096), np.float32), "int4")
    binq.quantize(np.ones((3, 4096), np.float32), "binary", group_size=256)
    binq.quantize(np.ones((0, 4096), np.float32), "int4")
