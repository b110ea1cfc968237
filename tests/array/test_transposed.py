"""q.T and q.mT: light views with the shape of the transpose."""

import copy
import pickle

import numpy as np
import pytest
from strategies import random_quantized


def make(format="int4", shape=(70, 300), symmetric=True):
    rng = np.random.default_rng(20261124)
    return random_quantized(rng, format, shape, 128, symmetric)


def test_transpose():
    q = make()
    assert q.T.shape == (300, 70)
    assert (q.T.ndim, q.T.size, len(q.T)) == (2, 21000, 300)
    assert q.T.dtype == np.float32
    assert q.T.T is q
    assert q.mT.mT is q
    np.testing.assert_array_equal(q.T.dequantize(), q.dequantize().T)
    np.testing.assert_array_equal(np.asarray(q.T), q.dequantize().T)
    np.testing.assert_array_equal(np.asarray(q.T, np.float64), q.dequantize().T)
    assert q.T.dequantize(np.float16).dtype == np.float16


def test_transpose_of_a_stack():
    q = make(shape=(3, 40, 64))
    assert q.mT.shape == (3, 64, 40)
    assert q.mT.mT is q
    np.testing.assert_array_equal(q.mT.dequantize(), q.dequantize().mT)
    with pytest.raises(
        ValueError, match=r"T is for one matrix, the shape is \(3, 40, 64\): use mT"
    ):
        _ = q.T
    with pytest.raises(
        ValueError, match=r"T is for one matrix, the shape is \(3, 64, 40\): use mT"
    ):
        _ = q.mT.T


def test_transpose_takes_no_index():
    q = make()
    with pytest.raises(TypeError, match=r"a transposed view cannot be indexed"):
        q.T[0]
    with pytest.raises(TypeError, match=r"a transposed view cannot be iterated over"):
        iter(q.T)
    with pytest.raises(TypeError, match="unhashable"):
        hash(q.T)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_and_copy(protocol):
    q = make()
    assert pickle.loads(pickle.dumps(q.T, protocol)) == q.T
    assert copy.copy(q.T).T is q
