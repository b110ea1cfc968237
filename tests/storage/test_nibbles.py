"""Nibbles as they are stored, and scales as OCP's specification has them."""

import numpy as np
import pytest

import binq
from binq.formats import get_format
from binq.storage.nibbles import mxfp4_scales, stored_nibbles


@pytest.mark.parametrize("format", ["mxfp4", "iq4nl"])
@pytest.mark.parametrize("shape", [(40, 64), (1, 96), (3, 33, 70), (2, 2, 32, 32)])
def test_nibbles_are_places_of_levels(format, shape):
    w = np.random.default_rng(0).standard_normal(shape)
    q = binq.quantize(w, format, group_size=32)
    nibbles = stored_nibbles(q)
    assert nibbles.dtype == np.uint8
    levels = np.array(get_format(format).spec.levels)
    assert np.array_equal(levels[nibbles], q.codes())


def test_scales_of_mxfp4_stand_for_half_of_the_levels():
    w = np.random.default_rng(0).standard_normal((40, 128)).astype(np.float32)
    q = binq.quantize(w, "mxfp4", group_size=64)
    stored = mxfp4_scales("w", q)
    assert stored.shape == (40, 4)
    powers = np.ldexp(np.float32(1), stored.astype(int) - 127)
    floats = q.codes().astype(np.float32) / 2  # 0, 0.5, 1, 1.5, 2, 3, 4, 6
    assert np.array_equal(np.repeat(powers, 32, axis=1) * floats, q.dequantize())


@pytest.mark.parametrize(
    ("weights", "text"),
    [
        (binq.quantize(np.full((32, 64), 0.1), "mxfp4", scale_dtype="float16"), "powers of two"),
        (binq.quantize(np.ones((32, 48)), "mxfp4"), "rows of 48"),
    ],
)
def test_refusals_name_the_weights(weights, text):
    with pytest.raises(binq.UnsupportedFormatError, match=f"the.name: .*{text}"):
        mxfp4_scales("the.name", weights)
