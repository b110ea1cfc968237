"""numpy's functions on packed weights: explicit conversion, shapes, and refusals that help."""

import re

import numpy as np
import pytest
from strategies import random_quantized


def make(format="int4", shape=(70, 300), symmetric=True):
    rng = np.random.default_rng(20261124)
    return random_quantized(rng, format, shape, 128, symmetric)


def test_asarray():
    q = make()
    w = q.dequantize()
    np.testing.assert_array_equal(np.asarray(q), w)
    np.testing.assert_array_equal(np.array(q, copy=True), w)
    assert np.asarray(q, np.float64).dtype == np.float64
    assert np.asarray(q, np.float32).dtype == np.float32
    assert np.array(q).flags.writeable
    for operand in (q, q.T):
        with pytest.raises(ValueError, match="copy=False"):
            np.array(operand, copy=False)


def test_functions_that_tell_the_shape():
    q = make()
    assert np.shape(q) == (70, 300)
    assert np.shape(q.T) == (300, 70)
    assert np.ndim(q) == 2
    assert np.size(q) == 21000
    assert np.size(q, 0) == 70
    assert np.size(q.T, axis=0) == 300


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("add", lambda q: q + 1),
        ("add", lambda q: np.add(1, q)),
        ("multiply", lambda q: np.float32(2) * q),
        ("add.reduce", lambda q: np.add.reduce(q)),
        ("negative", lambda q: -q),
        ("less", lambda q: q < 1),
        ("isnan", lambda q: np.isnan(q)),
        ("equal", lambda q: np.zeros(3) == q),
        ("sum", lambda q: np.sum(q)),
        ("mean", lambda q: np.mean(q)),
        ("concatenate", lambda q: np.concatenate([q, q])),
        ("einsum", lambda q: np.einsum("ij->i", q)),
        ("norm", lambda q: np.linalg.norm(q)),
        ("save", lambda q: np.save("x.npy", q)),
        ("transpose", lambda q: np.transpose(q)),
        ("inner", lambda q: np.inner(np.ones(300), q)),
        ("copy", lambda q: np.copy(q)),
    ],
)
@pytest.mark.parametrize("transposed", [False, True])
def test_everything_else_says_dequantize(name, call, transposed):
    q = make().T if transposed else make()
    message = f"numpy.{name} does not work on packed weights: call .dequantize() for a float array"
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        call(q)
