"""quantize: bit for bit as the reference, exact, for every layout and magnitude of weights."""

import itertools
import warnings

import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from strategies import DISTRIBUTIONS, FLOAT_DTYPES, LAYOUTS, relay, sample, weights

import binq
from binq import _core, reference
from binq.array.packing import Packing
from binq.reference import quantizers, search

METHODS = [
    ("binary", "mse", True),
    ("binary", "absmean", True),
    ("binary", "mse", False),
    ("binary", "absmean", False),
    ("ternary", "mse", True),
    ("ternary", "absmean", True),
    ("int4", "mse", True),
    ("int4", "absmax", True),
    ("int4", "mse", False),
    ("int4", "absmax", False),
]
# The same in both kernel loops and edge cases, yet few enough groups for the plain-numpy search.
SHAPES = [(1, 1), (9, 33), (3, 300), (33, 40), (2, 128), (8, 65), (17, 7), (40, 32), (1, 257)]


def quantize(w, format, method, symmetric, group_size=128, scale_dtype="float16"):
    """Returns (quantized, whether the scales needed float32)."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        q = binq.quantize(
            w,
            format,
            group_size=group_size,
            method=method,
            symmetric=symmetric,
            scale_dtype=scale_dtype,
        )
    kinds = {w.category for w in caught}
    assert kinds <= {binq.ScaleRangeWarning, binq.SizeWarning}
    assert (binq.SizeWarning in kinds) == (q.nbytes > 2 * q.size)
    return q, binq.ScaleRangeWarning in kinds


def expected(w, format, method, symmetric, group_size, scale_dtype="float16"):
    """Returns the reference's (packed, scales, zero points) and whether it needed float32."""
    group_size = Packing("int4", group_size).fitted(np.shape(w)[-1]).group_size
    try:
        parts = reference.quantize(w, format, group_size, method, symmetric, scale_dtype)
        return parts, False
    except OverflowError:
        return reference.quantize(w, format, group_size, method, symmetric, "float32"), True


def assert_equal(q, parts):
    for actual, wanted in zip((q.packed, q.scales, q._data.zeros), parts, strict=True):
        if wanted is None:
            assert actual is None
        else:
            assert actual.dtype == wanted.dtype
            assert actual.tobytes() == wanted.tobytes()


def error(w, q):
    w = np.asarray(w, np.float64)
    return np.square(q.dequantize().astype(np.float64) - w).sum()


@pytest.mark.parametrize(("format", "method", "symmetric"), METHODS)
@settings(max_examples=25)
@given(data=st.data())
def test_bytes_are_those_of_the_reference(format, method, symmetric, data):
    w = data.draw(weights(st.sampled_from(SHAPES)))
    group_size = data.draw(st.sampled_from([32, 64, 128, 256, None]))
    scale_dtype = data.draw(st.sampled_from(["float16", "float32"]))
    parts, wide = expected(w, format, method, symmetric, group_size, scale_dtype)
    before = _core.isa()
    for isa in _core.available_isas():
        _core.use_isa(isa)
        try:
            q, warned = quantize(w, format, method, symmetric, group_size, scale_dtype)
        finally:
            _core.use_isa(before)
        assert_equal(q, parts)
        assert warned == wide


@pytest.mark.parametrize(("format", "method", "symmetric"), METHODS)
@pytest.mark.parametrize("magnitude", [1e-45, 1e-40, 1e-8, 1e-3, 1e3, 3e4, 1e6, 3.4e38])
@pytest.mark.parametrize("distribution", ["uniform", "constant", "one", "signs"])
def test_extreme_magnitudes(isa, format, method, symmetric, magnitude, distribution):
    rng = np.random.default_rng(5)
    w = rng.uniform(-1, 1, (3, 40))
    if distribution == "constant":
        w = np.ones_like(w)
    elif distribution == "one":
        w = np.zeros_like(w)
        w[:, 7] = -1
    elif distribution == "signs":
        w = np.sign(w)
    with np.errstate(under="ignore"):
        w = (w * magnitude).astype(np.float32)
    q, warned = quantize(w, format, method, symmetric, 32)
    parts, wide = expected(w, format, method, symmetric, 32)
    assert_equal(q, parts)
    assert warned == wide
    assert np.isfinite(q.dequantize()).all()
    # Nothing is lost to the scales: the error is a fraction of what leaving w out would be,
    # or below what float32 resolves.
    if method == "mse":
        assert error(w, q) <= np.square(w.astype(np.float64)).sum() + 1e-44


@pytest.mark.parametrize(("format", "method", "symmetric"), METHODS)
def test_zeros_stay_exact(isa, format, method, symmetric):
    w = np.zeros((33, 70), np.float32)
    q, warned = quantize(w, format, method, symmetric, 32)
    assert not warned
    assert not q.dequantize().any()
    w[3, 40] = 1.0
    q, _ = quantize(w, format, method, symmetric, 32)
    back = q.dequantize()
    assert not np.delete(back, 3, axis=0).any()
    assert not back[3, :32].any()


@pytest.mark.parametrize(("format", "symmetric"), [("binary", False), ("ternary", True)])
def test_constant_groups_are_kept_to_the_precision_of_the_scale(format, symmetric):
    w = np.full((2, 50), 0.37, np.float32)
    q = binq.quantize(w, format, symmetric=symmetric, scale_dtype="float32")
    assert np.allclose(q.dequantize(), w, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("format", "method", "symmetric"), METHODS)
@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def test_every_memory_layout_gives_the_same_bytes(format, method, symmetric, dtype):
    w = np.random.default_rng(6).standard_normal((2, 35, 70)).astype(dtype)
    wanted, _ = quantize(w.astype(np.float32), format, method, symmetric, 32)
    for layout in LAYOUTS:
        laid = relay(w, layout)
        before = laid.tobytes()
        q, _ = quantize(laid, format, method, symmetric, 32)
        assert q == wanted, layout
        assert laid.tobytes() == before


def test_the_input_is_not_changed_where_it_is_writable():
    w = np.random.default_rng(7).standard_normal((5, 64), dtype=np.float32)
    before = w.copy()
    for format, method, symmetric in METHODS:
        quantize(w, format, method, symmetric)
    w[0, 0] = np.inf
    before[0, 0] = np.inf
    binq.quantize(w, "int4", nonfinite="zero")
    assert w.tobytes() == before.tobytes()


@pytest.mark.parametrize(("format", "method", "symmetric"), METHODS)
def test_a_stack_is_its_matrices(format, method, symmetric):
    w = np.random.default_rng(8).standard_normal((2, 3, 33, 40), dtype=np.float32)
    q, _ = quantize(w, format, method, symmetric, 32)
    assert q.shape == w.shape
    for index in np.ndindex(2, 3):
        assert q[index] == quantize(w[index], format, method, symmetric, 32)[0]


def test_the_number_of_threads_changes_nothing(isa, threads):
    w = np.random.default_rng(9).standard_normal((300, 512), dtype=np.float32)
    for format, method, symmetric in METHODS:
        found = []
        for count in (1, 2, 5):
            _core.set_num_threads(count)
            found.append(quantize(w, format, method, symmetric)[0])
        assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0), (0, 4, 4), (2, 0, 3), (3, 4, 0)])
def test_empty(shape):
    for format, method, symmetric in METHODS:
        for group_size in (32, None):
            q, _ = quantize(np.empty(shape, np.float32), format, method, symmetric, group_size)
            assert q.shape == shape
            assert q.dequantize().shape == shape
            assert not q.scales.any()


@pytest.mark.parametrize("values", [[[3, -1]], [[True, False]], [[np.float64(0.5)]], [[2**40]]])
def test_other_real_numbers(values):
    q, _ = quantize(values, "int4", "mse", True)
    assert np.allclose(q.dequantize(), np.asarray(values, np.float64), rtol=0.2)


def test_scales_are_rounded_to_the_nearest_float16(isa):
    """At every float16 from 2^-19 on, halfway to the next, and just beside that."""
    halves = np.arange(np.float16(2.0**-19).view(np.uint16), 0x7BFF, dtype=np.uint16)
    exact = halves.view(np.float16).astype(np.float32)
    middle = (exact[1:] + exact[:-1]) / 2
    values = np.concatenate(
        [exact, middle, np.nextafter(middle, np.float32(0)), np.nextafter(middle, np.float32(9e9))]
    )
    w = np.repeat(values[:, np.newaxis], 2, axis=1)
    q = binq.quantize(w, "binary", group_size=32)
    assert (q.group_scales()[:, 0] == values.astype(np.float16)).all()


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_every_16_bit_float_is_read_as_it_is(isa, dtype):
    every = np.arange(2**16, dtype=np.uint16).view(dtype)
    with np.errstate(invalid="ignore"):
        finite = every[np.isfinite(every)]
    w = np.resize(finite, (-(-finite.size // 64), 64))
    kept = binq.quantize(w, "binary", symmetric=False, group_size=32, scale_dtype="float32")
    wide = w.astype(np.float32)
    assert kept == binq.quantize(
        wide, "binary", symmetric=False, group_size=32, scale_dtype="float32"
    )
    assert_equal(kept, reference.quantize(wide, "binary", 32, "mse", False, "float32"))


def test_weights_of_all_magnitudes_in_one_group(isa):
    rng = np.random.default_rng(15)
    powers = np.ldexp(1.0, np.arange(-149, 128))
    for w in (powers, powers * rng.uniform(0.5, 1, 277), 1.1 ** -np.arange(300.0)):
        w = (w * rng.choice([-1, 1], len(w)))[np.newaxis].astype(np.float32)
        for format, method, symmetric in METHODS:
            q, _ = quantize(w, format, method, symmetric, None, "float32")
            parts, _ = expected(w, format, method, symmetric, None, "float32")
            assert_equal(q, parts)
            assert np.isfinite(q.dequantize()).all()


# Exactness.


def test_the_int4_search_ends_by_halving():
    """Deep in the search the cut is in the middle, whatever the lines."""
    left, right = (1.0, 2.0, 3.0), (2.0, 4.0, 8.0)
    assert search.meeting_point(left, right, 0) == 1.25
    assert search.meeting_point(left, right, 64) == 1.5
    assert search.meeting_point(left, (np.inf, 4.0, 8.0), 64) == 2.0
    assert search.meeting_point(left, (2.0, 2.0, 8.0), 0) == 1.0


@given(
    st.lists(st.integers(-40, 40), min_size=1, max_size=7),
    st.sampled_from([0.125, 1.0, 1e-30, 1e30, np.pi]),
)
@settings(max_examples=100)
def test_ternary_is_the_best_of_all_codes(values, unit):
    w = np.array(values, np.float64) * unit
    if not w.any():
        return
    scale = quantizers.best_ternary(w)
    codes = np.where(np.abs(w) > scale / 2, np.sign(w), 0)
    best = min(
        least_squares_error(w, np.array(c)) for c in itertools.product((-1, 0, 1), repeat=len(w))
    )
    assert np.square(w - scale * codes).sum() <= best + 1e-12 * np.square(w).sum()


@given(
    st.lists(st.integers(-40, 40), min_size=1, max_size=9),
    st.sampled_from([0.125, 1.0, 1e-30, 1e30, np.pi]),
)
@settings(max_examples=100)
def test_two_levels_are_the_best_of_all_splits(values, unit):
    w = np.array(values, np.float64) * unit
    scale, midpoint = quantizers.best_two_levels(w)
    codes = np.where(w >= midpoint, 1, -1)
    best = np.square(w - w.mean()).sum()
    for split in itertools.product((False, True), repeat=len(w)):
        high = np.array(split)
        if 0 < high.sum() < len(w):
            low_part, high_part = w[~high], w[high]
            found = np.square(low_part - low_part.mean()).sum()
            best = min(best, found + np.square(high_part - high_part.mean()).sum())
    actual = np.square(w - midpoint - scale * codes).sum()
    assert actual <= best + 1e-12 * np.square(w).sum()


@given(
    st.lists(st.integers(-60, 60), min_size=1, max_size=3),
    st.sampled_from([0.125, 1.0, 1e-30, 1e30, np.pi]),
    st.booleans(),
)
@settings(max_examples=100)
def test_int4_is_the_best_of_all_codes(values, unit, symmetric):
    w = np.array(values, np.float64) * unit
    if not w.any():
        return
    actual = int4_error(w, symmetric)
    best = np.inf
    for zero in [8] if symmetric else range(16):
        levels = np.arange(16) - zero
        grid = np.stack(np.meshgrid(*[levels] * len(w)), axis=-1).reshape(-1, len(w))
        a, b = grid @ w, np.square(grid).sum(axis=1)
        if not symmetric:  # scales > 0 only
            a = np.maximum(a, 0)
        gain = np.divide(a * a, b, out=np.zeros_like(a), where=b > 0)
        best = min(best, np.square(w).sum() - gain.max())
    assert actual <= best + 1e-12 * np.square(w).sum()


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("size", [32, 100])
def test_int4_is_the_best_of_all_scales(symmetric, distribution, size):
    """Between two neighbouring breakpoints of the scale no code changes: all of them are tried."""
    rng = np.random.default_rng(10)
    for w in sample(rng, distribution, (3, size)).astype(np.float64):
        if not w.any():
            continue
        best = np.inf
        for zero in (8, 7) if symmetric else range(16):
            low, high = -zero, 15 - zero
            steps = [np.arange(high) + 0.5, -(np.arange(zero) + 0.5)]
            signed = [w[w > 0, None], w[w < 0, None]]
            breaks = np.concatenate([(s / v).ravel() for s, v in zip(steps, signed, strict=True)])
            breaks = np.unique(breaks)
            if not len(breaks):
                continue
            u = np.append((breaks[1:] + breaks[:-1]) / 2, 2 * breaks[-1])
            codes = np.rint(np.clip(u[:, None] * w, low, high))
            gain = np.square(codes @ w) / np.square(codes).sum(axis=1)
            best = min(best, np.square(w).sum() - gain.max())
        assert int4_error(w, symmetric) <= best + 1e-12 * np.square(w).sum()


def int4_error(w, symmetric):
    scale, zero = quantizers.find_scale(w, "int4", "mse", symmetric)
    codes = np.clip(np.rint(w / scale), -zero, 15 - zero)
    return np.square(w - scale * codes).sum()


def least_squares_error(w, codes):
    energy = np.square(codes).sum()
    return np.square(w).sum() - ((w @ codes) ** 2 / energy if energy else 0)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("format", ["binary", "ternary", "int4"])
@given(w=weights(st.sampled_from([(9, 300), (64, 128), (5, 40)])))
@settings(max_examples=25)
def test_mse_is_never_worse_than_the_quick_rule(format, symmetric, w):
    if format == "ternary" and not symmetric:
        return
    quick, _ = quantize(w, format, "absmax" if format == "int4" else "absmean", symmetric)
    best, _ = quantize(w, format, "mse", symmetric)
    # Both scales are rounded to float16 afterwards, to 2^-11 of themselves.
    slack = 2.0**-21 * np.square(np.asarray(w, np.float64)).sum()
    assert error(w, best) <= error(w, quick) + slack


@pytest.mark.parametrize(
    ("format", "symmetric"), [("binary", True), ("ternary", True), ("int4", True), ("int4", False)]
)
@given(w=weights(st.sampled_from([(9, 300), (33, 64)])))
@settings(max_examples=20)
def test_quantized_weights_are_quantized_without_loss(format, symmetric, w):
    """But for the float16 scale: several scales may fit equally well, not all in 11 bits."""
    first = quantize(w, format, "mse", symmetric, 32)[0].dequantize()
    again, _ = quantize(first, format, "mse", symmetric, 32)
    assert np.allclose(again.dequantize(), first, rtol=2.0**-11, atol=0)


GAUSSIAN_ERRORS = {
    ("int4", "mse", True): 0.00939,
    ("int4", "absmax", True): 0.01395,
    ("int4", "mse", False): 0.00905,
    ("int4", "absmax", False): 0.01016,
    ("ternary", "mse", True): 0.18798,
    ("ternary", "absmean", True): 0.26217,
    ("binary", "mse", True): 0.36146,
    ("binary", "mse", False): 0.35383,
}


@pytest.mark.parametrize(("case", "wanted"), GAUSSIAN_ERRORS.items())
def test_error_on_gaussian_weights(case, wanted):
    w = np.random.default_rng(11).standard_normal((1024, 1024), dtype=np.float32)
    q, _ = quantize(w, *case)
    assert error(w, q) / np.square(w.astype(np.float64)).sum() == pytest.approx(wanted, rel=0.02)


# What is refused, and what is said.


def test_nonfinite_weights_are_refused_by_name_and_place(isa):
    w = np.zeros((2, 3, 40), np.float32)
    w[1, 2, 5] = np.inf
    with pytest.raises(
        binq.NonFiniteError, match=r"w has 1 value that is not finite, first w\[1, 2, 5\] = inf"
    ):
        binq.quantize(w, "int4")
    w[1, 2, 6:8] = np.nan
    with pytest.raises(binq.NonFiniteError, match="3 values that are not finite"):
        binq.quantize(w, "ternary")


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=lambda dtype: np.dtype(dtype).name)
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_nonfinite_weights_can_be_read_as_zero(isa, dtype, value):
    rng = np.random.default_rng(12)
    for format, method, symmetric in METHODS:
        w = rng.standard_normal((35, 70)).astype(dtype)
        place = rng.integers(35), rng.integers(70)
        w[place] = 0
        wanted, _ = quantize(w, format, method, symmetric)
        w[place] = value
        with pytest.raises(binq.NonFiniteError):
            quantize(w, format, method, symmetric)
        q = binq.quantize(w, format, method=method, symmetric=symmetric, nonfinite="zero")
        assert q == wanted


def test_signalling_nans_are_only_not_finite(isa):
    w = np.ones((2, 40), ml_dtypes.bfloat16)
    w.view(np.uint16)[1, 3] = 0x7F81
    with pytest.raises(binq.NonFiniteError, match=r"w\[1, 3\] = nan"):
        binq.quantize(w, "int4")
    assert binq.quantize(w, "ternary", nonfinite="zero").codes().sum() == 79


def test_float64_beyond_float32_is_refused():
    with pytest.raises(ValueError, match=r"w\[0, 1\] = 1e\+300 does not fit float32"):
        binq.quantize(np.array([[1.0, 1e300]]), "int4")


def test_scales_that_float16_cannot_hold_are_kept_in_float32():
    w = np.random.default_rng(13).standard_normal((4, 64), dtype=np.float32)
    for factor in (1e6, 1e-7):
        with pytest.warns(binq.ScaleRangeWarning, match="kept in float32"):
            q = binq.quantize(w * np.float32(factor), "int4")
        assert q.scales.dtype == np.float32
        assert error(w, binq.quantize(w, "int4")) == pytest.approx(
            error(w * np.float32(factor), q) / factor**2, rel=0.01
        )


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"format": "int5"},
            ValueError,
            "format must be one of 'binary', 'ternary', 'int2', 'int3', 'int4'",
        ),
        ({"format": 4}, TypeError, "format must be one of"),
        (
            {"method": "absmean"},
            ValueError,
            "method must be one of 'mse', 'absmax', .*got 'absmean'",
        ),
        ({"method": None}, TypeError, "method must be one of"),
        ({"group_size": 48}, ValueError, "group_size must be 32, 64, 128, 256 or None, got 48"),
        ({"symmetric": 1}, TypeError, "symmetric must be True or False, got 1"),
        (
            {"format": "ternary", "symmetric": False},
            ValueError,
            "symmetric must be True for format 'ternary'",
        ),
        (
            {"scale_dtype": "float8"},
            ValueError,
            "scale_dtype must be one of 'float16', 'float32'",
        ),
        ({"scale_dtype": np.float64}, ValueError, "scale_dtype must be one of"),
        ({"scale_dtype": object()}, TypeError, "scale_dtype must be one of"),
        ({"nonfinite": "ignore"}, ValueError, "nonfinite must be one of 'raise', 'zero'"),
        ({"w": np.zeros(4)}, ValueError, r"w must be .* 2 or more axes, got shape \(4,\)"),
        ({"w": np.zeros((2, 2), complex)}, TypeError, "w must hold real numbers"),
        ({"w": [["a"]]}, TypeError, "w must hold real numbers"),
        ({"w": np.ma.zeros((2, 2))}, TypeError, "w must be a plain array"),
    ],
)
def test_wrong_arguments_are_named(arguments, error, message):
    arguments = {"w": np.ones((2, 3), np.float32), "format": "int4"} | arguments
    with pytest.raises(error, match=message):
        binq.quantize(**arguments)


def test_quantized_weights_are_not_quantized_again():
    q = binq.quantize(np.ones((2, 3), np.float32), "int4")
    with pytest.raises(TypeError, match="quantized already"):
        binq.quantize(q, "int4")


def test_scale_dtype_by_type():
    w = np.ones((2, 3), np.float32)
    assert binq.quantize(w, "int4", scale_dtype=np.float32).scales.dtype == np.float32
    assert binq.quantize(w, "int4", scale_dtype=np.dtype("float16")).scales.dtype == np.float16
