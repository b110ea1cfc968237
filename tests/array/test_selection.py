"""q[ids]: rows and matrices by their numbers, of any shape, as numpy takes them from the floats."""

import copy
import pickle
import re

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import array_shapes, arrays
from strategies import quantized_arrays, random_quantized, shapes, zeros_of

import binq
from binq import _core


def make(format="int4", shape=(70, 300), symmetric=True):
    rng = np.random.default_rng(20261124)
    return random_quantized(rng, format, shape, 128, symmetric)


def assert_whole(part, floats):
    """Asserts that weights are these floats, and that their stored arrays are whole."""
    assert part.shape == floats.shape
    np.testing.assert_array_equal(part.dequantize(), floats)
    np.testing.assert_array_equal(part.dequantize(np.float16), floats.astype(np.float16))
    nbytes = part.nbytes
    again = binq.QuantizedArray.from_codes(
        part.codes(),
        part.group_scales(),
        format=part.format,
        group_size=part.group_size,
        **zeros_of(part),
    )
    for ours, wanted in zip(part._data.parts, again._data.parts, strict=True):
        assert ours.shape == wanted.shape
        np.testing.assert_array_equal(ours, wanted)
    assert part.nbytes == nbytes == sum(p.nbytes for p in part._data.parts)
    np.testing.assert_array_equal(part.dequantize(), floats)
    assert pickle.loads(pickle.dumps(part)) == part


@settings(max_examples=80, deadline=None)
@given(quantized_arrays(shapes(low=1, lead=2)), st.data())
def test_any_shape_of_ids(q, data):
    count = len(q)
    ids = data.draw(
        arrays(
            st.sampled_from([np.int64, np.int32, np.int16]),
            array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=3),
            elements=st.integers(-count, count - 1),
        )
    )
    assert_whole(q[ids], q.dequantize()[ids])
    if ids.size:
        assert_whole(q[ids.tolist()], q.dequantize()[ids])


@settings(max_examples=40, deadline=None)
@given(quantized_arrays(shapes(low=1, high=70)), st.data())
def test_many_rows_of_every_tile(q, data):
    ids = np.random.default_rng(data.draw(st.integers(0, 99))).integers(0, len(q), (5, 40))
    assert_whole(q[ids], q.dequantize()[ids])
    mask = ids[0] == ids[1]
    mask = np.resize(mask, len(q))
    assert_whole(q[mask], q.dequantize()[mask])


@pytest.mark.parametrize(
    ("format", "symmetric"),
    [("binary", False), ("ternary", True), ("int3", "code"), ("int4", False)],
)
@pytest.mark.parametrize("group_size", [32, 256, None])
@pytest.mark.parametrize("columns", [1, 31, 2100, 4096])
def test_long_rows_are_the_same_on_every_instruction_set(
    isa, format, symmetric, group_size, columns
):
    rng = np.random.default_rng(3)
    q = random_quantized(rng, format, (100, columns), group_size, symmetric)
    w = q.dequantize()
    for count in (1, 31, 33, 200):
        ids = rng.integers(-100, 100, count)
        np.testing.assert_array_equal(q[ids].dequantize(), w[ids])


def test_selected_rows_multiply():
    q = make()
    ids = np.array([[3, 40], [69, 3]])
    x = np.random.default_rng(1).standard_normal((2, 5, 300), dtype=np.float32)
    whole = copy.deepcopy(q[ids])
    np.testing.assert_array_equal(x @ q[ids].mT, x @ whole.mT)
    np.testing.assert_array_equal(x[0] @ q[ids[0]].T, x[0] @ whole[0].T)


def test_selections_of_selections():
    q, stack = make(), make(shape=(5, 40, 64))
    w, s = q.dequantize(), stack.dequantize()
    ids = np.arange(24).reshape(2, 3, 4)
    rows = q[ids]
    for key in (
        0,
        slice(1, None),
        (1, 2),
        (..., [0, 3, 1], slice(None)),
        (0, 1, [[1], [2]]),
        [1, 1, 0],
    ):
        np.testing.assert_array_equal(rows[key].dequantize(), w[ids][key])
    np.testing.assert_array_equal(q[[5, 6, 7]][[2, 0]].dequantize(), w[[7, 5]])
    np.testing.assert_array_equal(q[[5, 6, 7]][1:].dequantize(), w[[6, 7]])
    experts = stack[[[2, 0], [4, 4]]]
    for key in (0, (1, 0), slice(1, None), (0, slice(None), slice(32, 40)), (1, 1, [3, 2])):
        np.testing.assert_array_equal(experts[key].dequantize(), s[[[2, 0], [4, 4]]][key])
    assert [part.shape for part in stack[[2, 0]]] == [(40, 64)] * 2


def test_experts_by_their_numbers_are_not_copied():
    stack = make(shape=(5, 40, 64))
    s = stack.dequantize()
    x = np.random.default_rng(1).standard_normal((2, 7, 64), dtype=np.float32)
    chosen = stack[[2, 0]]
    assert chosen.shape == (2, 40, 64)
    np.testing.assert_array_equal(x @ chosen.mT, np.stack([x[0] @ stack[2].T, x[1] @ stack[0].T]))
    assert chosen._data.native == (stack._data.native[2], stack._data.native[0])
    assert_whole(chosen, s[[2, 0]])
    mask = np.array([True, False, False, True, True])
    assert_whole(stack[mask], s[mask])
    assert_whole(stack[mask, 32:], s[mask, 32:])
    assert_whole(stack[1:, [[3, 2]]], s[1:, [[3, 2]]])
    nested = make(shape=(2, 5, 40, 64))
    assert_whole(nested[:, [4, 1]], nested.dequantize()[:, [4, 1]])
    assert_whole(nested[1, [4, 1]], nested.dequantize()[1, [4, 1]])
    assert_whole(nested[[1, 1, 0]], nested.dequantize()[[1, 1, 0]])


@pytest.mark.parametrize(
    ("key", "error", "message"),
    [
        ([70], IndexError, "index 70 is out of bounds for 70 rows of weights"),
        ([[0], [-71]], IndexError, "index -71 is out of bounds for 70 rows of weights"),
        (np.array([2**64 - 1], np.uint64), IndexError, "is out of bounds for 70 rows"),
        (np.array(3), TypeError, "one row of packed weights is still a matrix: use q[3:4]"),
        (
            np.zeros((70, 300), bool),
            IndexError,
            "a mask of rows must have shape (70,), got (70, 300)",
        ),
        (np.ones(3), TypeError, "rows are selected by a slice or an array of integers, got array"),
        (([1, 2], [3, 4]), TypeError, "columns of packed weights cannot be selected"),
    ],
)
def test_wrong_ids(key, error, message):
    with pytest.raises(error, match=re.escape(message)):
        make()[key]


@pytest.mark.parametrize(
    ("key", "error", "message"),
    [
        ([3], IndexError, "index 3 is out of bounds for 3 matrices of weights"),
        ([True], IndexError, "a mask of matrices must have shape (3,), got (1,)"),
        (([0, 1], [1, 2]), TypeError, "one axis at a time is selected by an array"),
        ("a", TypeError, "leading axes take integers, slices and arrays, got 'a'"),
    ],
)
def test_wrong_ids_of_stacks(key, error, message):
    with pytest.raises(error, match=re.escape(message)):
        make(shape=(3, 40, 64))[key]


def test_the_native_door_checks_rows():
    matrix = make()._data.matrices()[0]
    out = np.empty((1, 300), np.float32)
    for row in (-1, 70, 2**40):
        with pytest.raises(IndexError, match="is out of bounds for 70 rows"):
            matrix.dequantize_rows(np.array([row]), out)
    with pytest.raises(ValueError, match="the output must have shape"):
        matrix.dequantize_rows(np.array([0, 1]), out)
    stored, rows = np.zeros(64, np.uint8), np.zeros((1, 1), np.int64)
    for word in (-1, 3, 100):
        with pytest.raises(ValueError, match="no tile of 64 bytes has 32 rows of"):
            _core.take_rows(stored, 64, word, rows, np.zeros(64, np.uint8))
    with pytest.raises(ValueError, match="out must have 64 bytes, got 63"):
        _core.take_rows(stored, 64, 2, rows, np.zeros(63, np.uint8))
    with pytest.raises(IndexError, match="row 32 is out of bounds for 32 rows"):
        _core.take_rows(stored, 64, 2, rows + 32, np.zeros(64, np.uint8))


@pytest.mark.parametrize("word", [0, 1, 2, 4, 6, 8])
def test_the_bytes_of_rows_are_moved(word):
    rng = np.random.default_rng(0)
    stored = rng.integers(0, 256, (3, 5, 16) if word == 0 else (3, 5, 32, word), np.uint8)
    rows = np.array([[95, 0, 33, 33], [1, 2, 3, 64]])
    out = np.full((2, 1, *stored.shape[1:]), 7, np.uint8)
    _core.take_rows(stored.reshape(-1), stored[0].size, word, rows, out.reshape(-1))
    if word == 0:
        stored, out = (np.concatenate([a & 15, a >> 4], axis=-1) for a in (stored, out))
    for (one, at), row in np.ndenumerate(rows):
        np.testing.assert_array_equal(out[one, 0, :, at], stored[row // 32, :, row % 32])
    assert not out[:, :, :, 4:].any()
