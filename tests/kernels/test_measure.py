"""Errors of packed weights on every kernel set: bit for bit the reference."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from strategies import FLOAT_DTYPES, GROUP_SIZES, kinds, random_quantized, sizes

from binq import _core, reference


def tile_errors(q, w, row_stride=None):
    tiles = np.full((-(-len(q) // 32), 5), np.nan)
    (matrix,) = q._data.matrices()
    matrix.measure(
        w.reshape(-1).view(np.uint8),
        _core.INPUT_TYPES[w.dtype.name],
        row_stride or w.strides[0],
        tiles,
    )
    return tiles


def measured(q, w, row_stride=None):
    return summed(tile_errors(q, w, row_stride))


def summed(tiles):
    """One tile after the other, as the reference counts."""
    totals = np.add.accumulate(tiles)[-1]
    totals[2] = tiles[:, 2].max()
    return totals


def expected(q, w):
    return reference.measure(
        w, q.packed, q.scales, q._data.zeros, format=q.format, group_size=q.group_size
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=kinds(),
    group_size=st.sampled_from(GROUP_SIZES),
    out_features=sizes(1, 140),
    in_features=sizes(1, 600),
    scale_dtype=st.sampled_from((np.float16, np.float32)),
    dtype=st.sampled_from(FLOAT_DTYPES),
    magnitude=st.sampled_from((0.0, 1e-3, 1.0, 1e4)),
    seed=st.integers(0, 2**32 - 1),
)
def test_errors_equal_the_reference(
    isa, kind, group_size, out_features, in_features, scale_dtype, dtype, magnitude, seed
):
    format, symmetric = kind
    rng = np.random.default_rng(seed)
    q = random_quantized(
        rng, format, (out_features, in_features), group_size, symmetric, scale_dtype
    )
    w = q.dequantize() + magnitude * rng.standard_normal(q.shape)
    w = np.where(rng.random(q.shape) < 0.1, 0, w).astype(dtype)
    assert tuple(measured(q, w)) == expected(q, w)


@pytest.mark.usefixtures("threads")
def test_errors_do_not_depend_on_threads_or_blocks(isa):
    rng = np.random.default_rng(0)
    q = random_quantized(rng, "int4", (4000, 300), 64)
    w = (q.dequantize() + rng.standard_normal(q.shape)).astype(np.float16)
    _core.set_num_threads(1)
    alone = measured(q, w)
    _core.set_num_threads(3)
    np.testing.assert_array_equal(measured(q, w), alone)
    parts = [slice(start, start + 96) for start in range(0, len(w), 96)]
    tiles = np.concatenate([tile_errors(q[part], w[part]) for part in parts])
    np.testing.assert_array_equal(summed(tiles), alone)


def test_scales_that_are_zero_are_counted_once(isa):
    for group_size, count in ((None, 40), (256, 120)):
        q = random_quantized(np.random.default_rng(0), "binary", (40, 700), group_size)
        q = type(q)(
            "binary", q.shape, group_size, True, q.packed, np.zeros(q.scales.shape, np.float16)
        )
        w = np.ones(q.shape, np.float32)
        assert measured(q, w).tolist() == [28000, 28000, 1, 0, count]


def test_strided_rows_and_short_buffers():
    q = random_quantized(np.random.default_rng(0), "ternary", (40, 70), 32)
    wide = np.random.default_rng(1).standard_normal((40, 80)).astype(np.float32)
    flat = wide.reshape(-1)[: 39 * 80 + 70]
    assert tuple(measured(q, flat, 320)) == expected(q, wide[:, :70])
    with pytest.raises(ValueError, match="values must hold 40 rows, got"):
        measured(q, flat[:-1], 320)
    (matrix,) = q._data.matrices()
    for shape in ((2, 4), (1, 5), (3, 5)):
        with pytest.raises(ValueError, match=r"errors must have shape \(2, 5\), got"):
            matrix.measure(flat.view(np.uint8), 0, 320, np.zeros(shape))
