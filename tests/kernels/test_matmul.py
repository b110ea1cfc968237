"""Products on every kernel set: bit for bit the reference in the integer modes."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from strategies import (
    GROUP_SIZES,
    codes_of,
    kinds,
    packing_of,
    random_quantized,
    relay,
    sample,
    sizes,
)

import binq
from binq import _core, reference

MODES = ("int8", "int16", "float32")
INTEGER_MODES = ("int8", "int16")
KINDS = (
    ("binary", True),
    ("binary", False),
    ("ternary", True),
    ("int2", True),
    ("int2", False),
    ("int2", "code"),
    ("int3", True),
    ("int3", False),
    ("int3", "code"),
    ("int4", True),
    ("int4", False),
    ("int8", True),
    ("int8", False),
    ("mxfp4", True),
    ("iq4nl", True),
)
BATCHES = (1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 15, 16, 17, 24, 31, 33, 64, 65, 130)
reuse_isa = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def expected(x, q, activations):
    return reference.matmul(
        x,
        q.packed,
        q.scales,
        q._data.zeros,
        format=q.format,
        shape=q.shape,
        group_size=q.group_size,
        activations=activations,
    )


def random_x(rng, rows, in_features, distribution="normal"):
    return sample(rng, distribution, (rows, in_features))


def assert_same_bits(actual, wanted):
    np.testing.assert_array_equal(actual.view(np.uint32), wanted.view(np.uint32))


def assert_close(actual, x, q):
    """float32 mode: within 1e-6 of the product of the norms of each row pair.

    With offsets, code and offset count by themselves: a level near zero is their difference.
    """
    w = q.dequantize().astype(np.float64)
    exact = x.astype(np.float64) @ w.T
    size = np.abs(w)
    if q.offsets is not None:
        largest = max(map(abs, q._data.packing.kind.codes("offset")))
        parts = largest * np.abs(q.group_scales().astype(np.float64)) + np.abs(
            q.group_zero_points()
        )
        size = np.repeat(parts, q.group_size or q.shape[1], axis=1)[:, : q.shape[1]]
    norms = np.linalg.norm(x.astype(np.float64), axis=1)[:, None] * np.linalg.norm(size, axis=1)
    assert np.all(np.abs(actual - exact) <= 1e-6 * norms + 1e-37)


@reuse_isa
@given(
    kind=kinds(),
    group_size=st.sampled_from(GROUP_SIZES),
    out_features=sizes(1, 140),
    in_features=sizes(1, 600),
    rows=st.sampled_from(BATCHES),
    mode=st.sampled_from(INTEGER_MODES),
    scale_dtype=st.sampled_from((np.float16, np.float32)),
    distribution=st.sampled_from(("normal", "outlier", "sparse", "wide", "ties", "zero")),
    seed=st.integers(0, 2**32 - 1),
)
def test_integer_modes_equal_the_reference(
    isa, kind, group_size, out_features, in_features, rows, mode, scale_dtype, distribution, seed
):
    rng = np.random.default_rng(seed)
    q = random_quantized(
        rng, kind[0], (out_features, in_features), group_size, kind[1], scale_dtype
    )
    x = random_x(rng, rows, in_features, distribution)
    assert_same_bits(binq.linear(x, q, activations=mode), expected(x, q, mode))


@pytest.mark.parametrize("mode", INTEGER_MODES)
@pytest.mark.parametrize("group_size", GROUP_SIZES)
@pytest.mark.parametrize(("format", "symmetric"), KINDS)
def test_every_batch_size_equals_the_reference(isa, format, symmetric, group_size, mode):
    rng = np.random.default_rng(7)
    q = random_quantized(rng, format, (70, 300), group_size, symmetric)
    x = random_x(rng, max(BATCHES), 300)
    wanted = expected(x, q, mode)
    for rows in BATCHES:
        assert_same_bits(binq.linear(x[:rows], q, activations=mode), wanted[:rows])


@pytest.mark.parametrize("mode", INTEGER_MODES)
@pytest.mark.parametrize("group_size", [32, 256, None])
@pytest.mark.parametrize(("format", "symmetric"), KINDS)
@pytest.mark.parametrize("rows", [1, 3, 8, 20, 64])
def test_accumulators_hold_the_extremes(isa, format, symmetric, group_size, mode, rows):
    """Every code and every activation at the end of its range, signs agreeing."""
    in_features = 1024
    groups = 1 if group_size is None else in_features // group_size
    ones = np.ones((64, in_features), int)
    zero = packing_of(format, symmetric).zero
    low, *_, high = codes_of(format, symmetric)
    zero_points = None
    if zero != "none":
        zero_points = np.full((64, groups), 0.5)
        if zero == "code":
            zero_points = np.full((64, groups), high)
            zero_points[32:] = 0
    codes = np.where(np.arange(64)[:, None] % 2, ones * low, ones * high)
    q = binq.QuantizedArray.from_codes(
        codes,
        np.ones((64, groups)),
        format=format,
        group_size=group_size,
        **{"zero_points" if zero == "code" or format == "binary" else "offsets": zero_points},
    )
    x = np.ones((rows, in_features), np.float32)
    x[1::2] = -1
    assert_same_bits(binq.linear(x, q, activations=mode), expected(x, q, mode))
    x[:, ::2] *= -1
    assert_same_bits(binq.linear(x, q, activations=mode), expected(x, q, mode))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("format", "symmetric"), KINDS)
@pytest.mark.parametrize("shape", [(2880, 2880), (33, 129), (1, 4097), (4099, 1), (31, 127)])
def test_shapes_of_models_and_edges(isa, format, symmetric, shape, mode):
    rng = np.random.default_rng(3)
    q = random_quantized(rng, format, shape, 128, symmetric)
    x = random_x(rng, 3, shape[1])
    y = binq.linear(x, q, activations=mode)
    if mode == "float32":
        assert_close(y, x, q)
    else:
        rows = rng.choice(shape[0], min(40, shape[0]), replace=False)
        part = q[np.sort(rows)]
        assert_same_bits(y[:, np.sort(rows)], expected(x, part, mode))


@reuse_isa
@given(
    kind=kinds(),
    group_size=st.sampled_from(GROUP_SIZES),
    out_features=sizes(1, 140),
    in_features=sizes(1, 600),
    rows=st.sampled_from(BATCHES),
    distribution=st.sampled_from(("normal", "outlier", "sparse", "tiny", "one_sided", "constant")),
    seed=st.integers(0, 2**32 - 1),
)
def test_float32_mode_is_within_1e_6(
    isa, kind, group_size, out_features, in_features, rows, distribution, seed
):
    rng = np.random.default_rng(seed)
    q = random_quantized(rng, kind[0], (out_features, in_features), group_size, kind[1])
    x = random_x(rng, rows, in_features, distribution)
    assert_close(binq.linear(x, q, activations="float32"), x, q)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("format", "symmetric"), KINDS)
def test_threads_change_no_bit(isa, threads, format, symmetric, mode):
    rng = np.random.default_rng(11)
    # One row alone is enough work for the pool.
    q = random_quantized(rng, format, (2100, 1040), 128, symmetric)
    assert q.size >= _core.PARALLEL_COST
    for rows in (1, 5, 37):
        x = random_x(rng, rows, 1040)
        results = []
        for count in range(1, 9):
            binq.set_num_threads(count)
            results.append(binq.linear(x, q, activations=mode).tobytes())
        assert len(set(results)) == 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("format", "symmetric"), KINDS)
def test_a_row_of_a_large_batch_equals_the_row_alone(isa, format, symmetric, mode):
    """More rows than one block of the native core holds, whatever its size; floats as well."""
    rng = np.random.default_rng(5)
    q = random_quantized(rng, format, (40, 160), 32, symmetric)
    x = random_x(rng, 1100, 160)
    y = binq.linear(x, q, activations=mode)
    for row in (0, 1, 511, 512, 513, 1023, 1024, 1099):
        assert_same_bits(y[row], binq.linear(x[row], q, activations=mode))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("format", "symmetric"), KINDS)
@pytest.mark.parametrize("rows", [1, 4, 19, 40])
def test_a_row_with_inf_or_nan_gives_what_floats_give_and_touches_no_other(
    isa, format, symmetric, mode, rows
):
    rng = np.random.default_rng(2)
    q = random_quantized(rng, format, (45, 300), 64, symmetric)
    x = random_x(rng, rows + 5, 300)
    clean = binq.linear(x, q, activations=mode)
    dirty = x.copy()
    dirty[1, 7] = np.inf
    dirty[2, 299] = -np.inf
    dirty[3, 64] = np.nan
    dirty[4, [5, 150]] = np.inf, -np.inf
    y = binq.linear(dirty, q, activations=mode)
    with np.errstate(invalid="ignore"):
        wanted = dirty[1:5] @ q.dequantize().T
    np.testing.assert_array_equal(y[1:5], wanted)
    assert not np.isfinite(y[1:5]).any()
    assert_same_bits(y[0], clean[0])
    assert_same_bits(y[5:], clean[5:])


@pytest.mark.parametrize("mode", INTEGER_MODES)
@pytest.mark.parametrize(("format", "symmetric"), KINDS)
@pytest.mark.parametrize("scale", [2.0**-101, 1e-38, 1e-44])
def test_rows_too_small_for_a_scale_are_computed_in_floats(isa, format, symmetric, mode, scale):
    rng = np.random.default_rng(4)
    q = random_quantized(rng, format, (33, 130), 128, symmetric)
    x = random_x(rng, 3, 130)
    x[1] = x[1].clip(-1, 1) * np.float32(scale)
    y = binq.linear(x, q, activations=mode)
    exact = x[1].astype(np.float64) @ q.dequantize().T.astype(np.float64)
    np.testing.assert_allclose(y[1], exact, rtol=1e-5, atol=1e-44)
    assert_same_bits(y, expected(x, q, mode))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("format", "symmetric"), KINDS)
def test_large_inputs_stay_finite_where_the_product_is(isa, format, symmetric, mode):
    rng = np.random.default_rng(6)
    q = random_quantized(rng, format, (32, 128), 128, symmetric)
    x = random_x(rng, 2, 128).clip(-1, 1) * np.float32(1e35)
    y = binq.linear(x, q, activations=mode)
    assert np.isfinite(y).all()
    if mode != "float32":
        assert_same_bits(y, expected(x, q, mode))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("x", "y"), [(3e38, 0.0), (1e33, 6e37)])
def test_scales_whose_product_is_too_large_do_no_harm(isa, mode, x, y):
    """Weights of 60000 in some columns, a large x beside or on them: 0 times inf would be NaN."""
    codes = np.zeros((32, 128), np.int8)
    codes[:, 0] = 1
    q = binq.QuantizedArray.from_codes(codes, np.full((32, 1), 60000.0), format="ternary")
    row = np.zeros((1, 128), np.float32)
    row[0, 0 if y else 1] = x
    np.testing.assert_allclose(binq.linear(row, q, activations=mode)[0], y, rtol=1e-2)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("format", "symmetric"), KINDS)
@pytest.mark.parametrize("rows", [1, 9, 40])
def test_sums_that_overflow_before_the_scale_do_not(isa, format, symmetric, mode, rows):
    """The largest floats, of either sign: finite as a float64 product is."""
    rng = np.random.default_rng(12)
    q = random_quantized(rng, format, (40, 200), 32, symmetric)
    q = type(q)(
        format,
        q.shape,
        32,
        q.symmetric,
        q.packed,
        np.full(q.scales.shape, 1e-3, np.float16),
        *((None, q.offsets) if q.zero_points is None else (q.zero_points * (format != "binary"),)),
    )
    x = random_x(rng, rows, 200)
    x[-1, :8] = [3e38, 3e38, -3e38, -3e38, 3e38, -3e38, 3e38, -3e38]
    y = binq.linear(x, q, activations=mode)
    x64, w64 = x.astype(np.float64), q.dequantize().astype(np.float64)
    assert np.isfinite(y).all()
    norms = np.linalg.norm(x64, axis=1)[:, None] * np.linalg.norm(w64, axis=1)
    bound = {"float32": 1e-6, "int16": 2e-4, "int8": 2e-2}[mode]
    assert (np.abs(y - x64 @ w64.T) <= bound * norms).all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("format", "symmetric"), KINDS)
@pytest.mark.parametrize("rows", [1, 5, 40])
def test_zero_rows_give_positive_zeros(isa, format, symmetric, mode, rows):
    rng = np.random.default_rng(8)
    q = random_quantized(rng, format, (40, 200), 128, symmetric)
    x = np.zeros((rows, 200), np.float32)
    x[::2] = -0.0
    y = binq.linear(x, q, activations=mode)
    assert not y.view(np.uint32).any()


@reuse_isa
@given(seed=st.integers(0, 1000), layout=st.sampled_from(("fortran", "strided", "reversed")))
@example(seed=0, layout="unaligned")
def test_the_memory_layout_of_x_changes_no_bit(isa, seed, layout):
    rng = np.random.default_rng(seed)
    q = random_quantized(rng, "ternary", (40, 200))
    x = random_x(rng, 4, 200)
    assert_same_bits(binq.linear(relay(x, layout), q), binq.linear(x, q))


@pytest.mark.parametrize("rows", [1, 6, 33])
def test_outputs_hold_no_memory_from_before(isa, rows):
    """Every element is written, none beyond the matrix: poison before, exact after."""
    rng = np.random.default_rng(9)
    for format, symmetric in KINDS:
        for out_features in (1, 31, 33, 95):
            q = random_quantized(rng, format, (out_features, 96), 32, symmetric)
            matrix = q._data.matrices()[0]
            x = random_x(rng, rows, 96)
            memory = np.full((rows + 2, out_features), np.nan, np.float32)
            matrix.multiply(x, memory[1:-1], _core.ACTIVATIONS["int8"])
            assert np.isnan(memory[[0, -1]]).all()
            assert_same_bits(memory[1:-1], expected(x, q, "int8"))


@pytest.mark.parametrize("mode", INTEGER_MODES)
@pytest.mark.parametrize(("format", "symmetric"), KINDS)
@pytest.mark.parametrize("rows", [1, 5, 50])
def test_a_tall_matrix_equals_the_reference(isa, format, symmetric, mode, rows):
    """More tiles than any kernel takes in one run, and the last of them not whole."""
    rng = np.random.default_rng(10)
    q = random_quantized(rng, format, (32 * 130 + 7, 96), 32, symmetric)
    x = random_x(rng, rows, 96)
    assert_same_bits(binq.linear(x, q, activations=mode), expected(x, q, mode))
