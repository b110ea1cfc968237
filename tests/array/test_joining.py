"""concatenate and stack: the weights of all, without being unpacked."""

import re

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from strategies import group_sizes, kinds, random_quantized, sizes, zeros_of

import binq


def make(shape=(70, 300), format="int4", group_size=128, symmetric=True, seed=0, **arguments):
    rng = np.random.default_rng(seed)
    return random_quantized(rng, format, shape, group_size, symmetric, **arguments)


def assert_packed_as_codes(q):
    again = binq.QuantizedArray.from_codes(
        q.codes(),
        q.group_scales(),
        format=q.format,
        group_size=q.group_size,
        **zeros_of(q),
    )
    for ours, wanted in zip(q._data.parts, again._data.parts, strict=True):
        np.testing.assert_array_equal(ours, wanted)


@settings(max_examples=60, deadline=None)
@given(
    kinds(),
    group_sizes(),
    st.lists(sizes(0, 70), min_size=1, max_size=4),
    sizes(1),
    st.integers(0, 2),
)
def test_rows(kind, group_size, rows, columns, lead):
    shapes = [(*(2,) * lead, count, columns) for count in rows]
    parts = [make(shape, kind[0], group_size, kind[1], seed) for seed, shape in enumerate(shapes)]
    joined = binq.concatenate(parts, axis=-2)
    expected = np.concatenate([part.dequantize() for part in parts], axis=-2)
    np.testing.assert_array_equal(joined.dequantize(), expected)
    assert_packed_as_codes(joined)
    if not lead:
        assert binq.concatenate(tuple(parts)) == joined


@pytest.mark.parametrize(
    ("format", "symmetric"),
    [("binary", False), ("ternary", True), ("int3", "code"), ("int4", False)],
)
def test_columns_join_where_groups_end(format, symmetric):
    parts = [make((2, 40, n), format, 64, symmetric, n) for n in (64, 192, 30)]
    joined = binq.concatenate(parts, axis=2)
    expected = np.concatenate([part.dequantize() for part in parts], axis=2)
    np.testing.assert_array_equal(joined.dequantize(), expected)
    assert_packed_as_codes(joined)


def test_stacks_join_along_leading_axes():
    parts = [make((n, 40, 64), seed=n) for n in (1, 3)]
    joined = binq.concatenate(parts)
    np.testing.assert_array_equal(
        joined.dequantize(), np.concatenate([part.dequantize() for part in parts])
    )


def test_scales_become_the_widest():
    parts = [make(), make(scale_dtype=np.float32, seed=1)]
    for join in (binq.concatenate, binq.stack):
        joined = join(parts)
        assert joined.scales.dtype == np.float32
        expected = getattr(np, join.__name__)([part.dequantize() for part in parts])
        np.testing.assert_array_equal(joined.dequantize(), expected)


@pytest.mark.parametrize(("shape", "axis"), [((40, 64), 0), ((3, 40, 64), 1), ((3, 40, 64), -4)])
def test_stack(shape, axis):
    parts = [make(shape, seed=n) for n in range(3)]
    stacked = binq.stack(parts, axis)
    np.testing.assert_array_equal(
        stacked.dequantize(), np.stack([part.dequantize() for part in parts], axis)
    )
    x = np.ones(64, np.float32)
    np.testing.assert_array_equal(
        (x @ stacked.mT)[(0,) * len(stacked.shape[:-2])],
        x @ parts[0][(0,) * (len(shape) - 2)].T if len(shape) > 2 else x @ parts[0].T,
    )


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda q: binq.concatenate(q), TypeError, "arrays must be a sequence of QuantizedArrays"),
        (lambda q: binq.concatenate([]), ValueError, "arrays must hold at least one"),
        (
            lambda q: binq.concatenate([q, q.dequantize()]),
            TypeError,
            "arrays[1] must be a QuantizedArray, got ndarray",
        ),
        (
            lambda q: binq.stack([q, q.T]),
            TypeError,
            "arrays[1] must be a QuantizedArray, got Trans",
        ),
        (
            lambda q: binq.concatenate([q, make(group_size=64)]),
            ValueError,
            "arrays[0] is int4 g128, arrays[1] int4 g64",
        ),
        (
            lambda q: binq.concatenate([q, make(symmetric=False)]),
            ValueError,
            "arrays[1] int4 g128 asymmetric",
        ),
        (
            lambda q: binq.concatenate([q, q[:3]], axis=1),
            ValueError,
            "arrays[1] must have the shape of arrays[0], (70, 300), but for axis 1, got (3, 300)",
        ),
        (
            lambda q: binq.concatenate([q, q], axis=1),
            ValueError,
            "arrays join along columns where groups end: arrays[0] of shape (70, 300) has",
        ),
        (
            lambda q: binq.concatenate([q, q], axis=2),
            ValueError,
            "axis must be from -2 to 1, got 2",
        ),
        (
            lambda q: binq.stack([q, q], axis=1),
            ValueError,
            "axis must be a leading one, from 0 to 0",
        ),
        (
            lambda q: binq.stack([q, q[:3]]),
            ValueError,
            "arrays[1] must have the shape of arrays[0]",
        ),
    ],
)
def test_what_does_not_fit_is_named(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call(make())
