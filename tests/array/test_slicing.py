"""q[key]: the same rows as numpy would take from the floats, without copying whole tiles."""

import copy
import pickle
import re

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from strategies import quantized_arrays, random_quantized, shapes, zeros_of

import binq


def make(format="int4", shape=(70, 300), symmetric=True):
    rng = np.random.default_rng(20261124)
    return random_quantized(rng, format, shape, 128, symmetric)


ALL = slice(None)


@settings(max_examples=80, deadline=None)
@given(quantized_arrays(shapes(low=1, lead=2)), st.data())
def test_slicing_equals_slicing_the_floats(q, data):
    key = [
        data.draw(st.one_of(st.integers(-size, size - 1), st.slices(size))) for size in q.shape[:-2]
    ]
    out_features = q.shape[-2]
    key.append(
        data.draw(
            st.one_of(
                st.slices(out_features),
                st.integers(0, 3).map(lambda tile: slice(32 * tile, 32 * tile + 64)),
                st.lists(st.integers(-out_features, out_features - 1), max_size=5),
            )
        )
    )
    if data.draw(st.booleans()):
        key.append(ALL)
    part = q[tuple(key)]
    floats = q.dequantize()[tuple(key[: q.ndim - 2])]
    rows = key[q.ndim - 2]
    floats = floats[..., np.array(rows, int) if isinstance(rows, list) else rows, :]
    assert part.shape == floats.shape
    np.testing.assert_array_equal(part.dequantize(), floats)
    # A part is what the same weights are when packed on their own, padding included.
    again = binq.QuantizedArray.from_codes(
        part.codes(),
        part.group_scales(),
        format=q.format,
        group_size=q.group_size,
        **zeros_of(part),
    )
    np.testing.assert_array_equal(part.packed, again.packed)
    np.testing.assert_array_equal(part.scales, again.scales)
    if not q.symmetric:
        np.testing.assert_array_equal(part.zero_points, again.zero_points)


@pytest.mark.parametrize("rows", [slice(0, 32), slice(32, 64), slice(64, None), slice(32, 70)])
@pytest.mark.parametrize("format", ["binary", "ternary", "int4"])
def test_tiles_are_not_copied(format, rows):
    q = make(format)
    part = q[rows]
    assert np.shares_memory(part.packed, q.packed)
    assert np.shares_memory(part.scales, q.scales)
    np.testing.assert_array_equal(part.dequantize(), q.dequantize()[rows])


@pytest.mark.parametrize(
    "rows", [slice(0, 31), slice(1, 33), slice(0, 64, 2), slice(None, None, -1)]
)
def test_other_rows_are_copied(rows):
    q = make(symmetric=False)
    part = q[rows]
    assert not np.shares_memory(part.packed, q.packed)
    np.testing.assert_array_equal(part.dequantize(), q.dequantize()[rows])


def test_stacks_are_not_copied():
    q = make(shape=(4, 70, 300))
    for key in (0, -1, slice(1, 3), (slice(None, None, -1), slice(32, 64)), ..., (1, ...)):
        assert np.shares_memory(q[key].packed, q.packed)
        np.testing.assert_array_equal(q[key].dequantize(), q.dequantize()[key])


def test_strided_stacks_work_everywhere():
    q = make(shape=(4, 70, 300), symmetric=False)[::2, 32:]
    w = q.dequantize()
    whole = copy.deepcopy(q)
    assert q == whole
    assert pickle.loads(pickle.dumps(q)) == q
    np.testing.assert_array_equal(whole.dequantize(), w)
    x = np.ones((2, 300), np.float32)
    np.testing.assert_array_equal(x @ q.mT, x @ whole.mT)


def test_experts_share_their_native_form():
    q = make(shape=(3, 32, 64))
    x = np.ones(64, np.float32)
    expected = x @ q[1].T
    x @ q.mT
    assert q[1]._data.native == (q._data.native[1],)
    assert q[-1]._data.native == (q._data.native[2],)
    np.testing.assert_array_equal(x @ q[1].T, expected)
    assert (q[0:2])._data.native is None


def test_rows_by_mask_and_by_ids():
    q = make()
    w = q.dequantize()
    mask = np.zeros(70, bool)
    mask[[3, 40, 69]] = True
    np.testing.assert_array_equal(q[mask].dequantize(), w[mask])
    ids = np.array([5, 5, -1], np.int8)
    np.testing.assert_array_equal(q[ids].dequantize(), w[ids])
    assert q[[]].shape == (0, 300)


@pytest.mark.parametrize(
    ("key", "error", "message"),
    [
        (5, TypeError, "one row of packed weights is still a matrix: use q[5:6]"),
        (-1, TypeError, "one row of packed weights is still a matrix: use q[-1:]"),
        (np.int64(5), TypeError, "use q[5:6]"),
        ((ALL, 3), TypeError, "columns of packed weights cannot be selected"),
        ((ALL, slice(0, 32)), TypeError, "use q.dequantize()[..., columns]"),
        ((..., 0), TypeError, "columns of packed weights cannot be selected"),
        ((ALL, ALL, ALL), IndexError, "too many indices: the array has 2 axes, 3 were indexed"),
        ((..., ...), IndexError, "an index can only have a single ellipsis"),
        (None, TypeError, "packed weights take no new axes"),
        ("a", TypeError, "rows are selected by a slice or an array of integers, got 'a'"),
        (True, TypeError, "rows are selected by a slice or an array of integers, got True"),
        (1.5, TypeError, "rows are selected by a slice or an array of integers, got 1.5"),
        ([70], IndexError, "out of bounds"),
        (np.zeros(69, bool), IndexError, "boolean index did not match"),
    ],
)
def test_indexing_fails(key, error, message):
    with pytest.raises(error, match=re.escape(message)):
        make()[key]


@pytest.mark.parametrize(
    ("key", "error", "message"),
    [
        (3, IndexError, "index 3 is out of bounds for axis 0 with size 3"),
        ({0, 1}, TypeError, "leading axes take integers, slices and arrays, got {0, 1}"),
        (True, TypeError, "leading axes take integers, slices and arrays, got True"),
        ((0, 1), TypeError, "use q[..., 1:2], or q[..., 1:2].dequantize()"),
    ],
)
def test_indexing_stacks_fails(key, error, message):
    with pytest.raises(error, match=re.escape(message)):
        make(shape=(3, 40, 64))[key]


def test_iteration():
    q = make(shape=(3, 40, 64))
    assert [part.shape for part in q] == [(40, 64)] * 3
    np.testing.assert_array_equal([part.dequantize() for part in q], q.dequantize())
    with pytest.raises(TypeError, match="cannot be iterated over: iterate over"):
        iter(q[0])
