"""importance=: bit for bit as the reference, exact, and of use."""

import itertools
import warnings

import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from strategies import DISTRIBUTIONS, sample

import binq
from binq import reference
from binq.reference import quantizers

KINDS = [
    ("binary", True),
    ("binary", False),
    ("ternary", True),
    ("int4", True),
    ("int4", False),
]


def expected(w, format, symmetric, group_size, scale_dtype, importance):
    """Returns the reference's stored arrays, and whether they needed float32 scales."""
    zero = symmetric if isinstance(symmetric, str) else None
    arguments = (w, format, group_size, "mse", symmetric is True)
    try:
        return reference.quantize(*arguments, scale_dtype, importance, zero), False
    except OverflowError:
        return reference.quantize(*arguments, "float32", importance, zero), True


def check(w, format, symmetric, group_size, importance, scale_dtype="float16"):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", binq.SizeWarning)
        q = binq.quantize(
            w,
            format,
            group_size=group_size,
            symmetric=symmetric is True,
            zero=symmetric if isinstance(symmetric, str) else None,
            scale_dtype=scale_dtype,
            importance=importance,
        )
    wanted, widened = expected(w, format, symmetric, q.group_size, scale_dtype, importance)
    assert [c.category for c in caught] == [binq.ScaleRangeWarning] * widened
    for actual, part in zip((q.packed, q.scales, q._data.zeros), wanted, strict=True):
        if part is None:
            assert actual is None
        else:
            assert actual.dtype == part.dtype
            assert actual.tobytes() == part.tobytes()
    return q


@st.composite
def importances(draw, columns):
    """Draws what activations can have: spread over powers of ten, with zeros, or all alike."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    spread = draw(st.sampled_from([0.0, 1.0, 8.0]))
    values = np.exp(spread * rng.standard_normal(columns)).astype(np.float32)
    values[rng.random(columns) < draw(st.sampled_from([0.0, 0.3, 0.95, 1.0]))] = 0.0
    return values


@pytest.mark.parametrize(("format", "symmetric"), [*KINDS, ("int2", "code"), ("int3", "code")])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_equals_the_reference(format, symmetric, data):
    shape = data.draw(st.sampled_from([(1, 1), (3, 33), (2, 128), (5, 65), (33, 7), (1, 257)]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    w = sample(rng, data.draw(st.sampled_from(DISTRIBUTIONS)), shape)
    group_size = data.draw(st.sampled_from([32, 64, 128, 256, None]))
    dtype = data.draw(st.sampled_from(["float16", "float32"]))
    check(w, format, symmetric, group_size, data.draw(importances(shape[1])), dtype)


@pytest.mark.parametrize(("format", "symmetric"), KINDS)
@pytest.mark.parametrize("magnitude", [1e-40, 1e-9, 1e6, 1e37])
def test_scales_that_float16_does_not_hold(format, symmetric, magnitude):
    rng = np.random.default_rng(1)
    w = (rng.standard_normal((3, 40)) * magnitude).astype(np.float32)
    check(w, format, symmetric, 32, rng.random(40).astype(np.float32))


@pytest.mark.parametrize(("format", "symmetric"), KINDS)
def test_importance_of_one_changes_nothing(format, symmetric):
    """Every error then counts as it does without."""
    w = np.random.default_rng(2).standard_normal((40, 200), dtype=np.float32)
    plain = binq.quantize(w, format, symmetric=symmetric)
    weighted = binq.quantize(w, format, symmetric=symmetric, importance=np.ones(200))
    # The sums of the sorted rules have another last bit.
    np.testing.assert_array_equal(weighted.codes(), plain.codes())
    np.testing.assert_allclose(
        weighted.scales.astype(np.float32), plain.scales.astype(np.float32), rtol=1e-3
    )


@pytest.mark.parametrize(("format", "symmetric"), KINDS)
@pytest.mark.parametrize("factor", [1e-30, 1e30])
def test_only_ratios_of_importance_count(format, symmetric, factor):
    rng = np.random.default_rng(3)
    w = rng.standard_normal((8, 96), dtype=np.float32)
    importance = 2.0 ** rng.integers(-3, 4, 96).astype(np.float32)
    first = binq.quantize(w, format, symmetric=symmetric, importance=importance)
    scaled = importance * np.float32(2.0 ** np.round(np.log2(factor)))
    assert binq.quantize(w, format, symmetric=symmetric, importance=scaled) == first


@pytest.mark.parametrize(("format", "symmetric"), KINDS)
def test_least_weighted_error_of_all_scales(format, symmetric):
    """No scale of a fine grid, with its nearest levels, is better than what the search finds."""
    rng = np.random.default_rng(4)
    levels = {"binary": [-1, 1], "ternary": [-1, 0, 1], "int4": list(range(-8, 8))}[format]
    for _ in range(5):
        w = rng.standard_normal(24)
        h = np.exp(2 * rng.standard_normal(24)).astype(np.float32).astype(np.float64)
        scale, zero = quantizers.find_scale(w, format, "mse", symmetric, h)
        found = grid_error(w, h, scale, levels, zero if not symmetric else 0, format)
        grid = np.linspace(0.02, 3.0, 400)
        zeros = range(16) if format == "int4" else np.linspace(-1, 1, 21)
        for s, z in itertools.product([*grid, *-grid], [0] if symmetric else zeros):
            assert found <= grid_error(w, h, s, levels, z, format) * (1 + 1e-9)


def grid_error(w, h, scale, levels, zero, format):
    """Returns the weighted error of the nearest levels."""
    if format == "int4":
        shifted = np.arange(16) - zero if zero else np.asarray(levels)
        points = scale * shifted
    else:
        points = scale * np.asarray(levels) + zero
    return (h * np.abs(w[:, None] - points).min(axis=1) ** 2).sum()


@pytest.mark.parametrize("format", ["ternary", "int4"])
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_dtypes_and_stacks(format, dtype):
    rng = np.random.default_rng(5)
    w = rng.standard_normal((2, 3, 40, 70)).astype(dtype)
    importance = rng.random(70)
    q = binq.quantize(w, format, group_size=32, importance=importance)
    one = binq.quantize(w[1, 2].astype(np.float32), format, group_size=32, importance=importance)
    assert q[1, 2] == one


@pytest.mark.usefixtures("threads")
def test_any_number_of_threads():
    w = np.random.default_rng(6).standard_normal((130, 300), dtype=np.float32)
    importance = np.linspace(0, 1, 300)
    results = []
    for threads in (1, 2, 5):
        binq.set_num_threads(threads)
        results.append(binq.quantize(w, "int4", importance=importance))
    assert results[0] == results[1] == results[2]


def test_what_importance_is_for():
    """Inputs that are large get the smaller errors."""
    rng = np.random.default_rng(7)
    w = rng.standard_normal((256, 512), dtype=np.float32)
    size = np.exp(rng.standard_normal(512)).astype(np.float32)
    x = rng.standard_normal((64, 512), dtype=np.float32) * size
    exact = x @ w.T
    plain = np.square(x @ binq.quantize(w, "int4").T - exact).sum()
    weighted = np.square(x @ binq.quantize(w, "int4", importance=size**2).T - exact).sum()
    assert weighted < 0.9 * plain


@pytest.mark.parametrize("shape", [(0, 64), (64, 0), (0, 4, 64)])
def test_no_weights(shape):
    q = binq.quantize(np.zeros(shape), "int4", importance=np.ones(shape[-1]))
    assert q.shape == shape


@pytest.mark.parametrize("nonfinite", ["raise", "zero"])
def test_nonfinite_weights(nonfinite):
    w = np.ones((2, 40), np.float32)
    w[1, 3] = np.nan
    if nonfinite == "raise":
        with pytest.raises(binq.NonFiniteError, match=r"w\[1, 3\] = nan"):
            binq.quantize(w, "int4", importance=np.ones(40))
    else:
        q = binq.quantize(w, "int4", importance=np.ones(40), nonfinite="zero")
        assert q.dequantize()[1, 3] == 0


@pytest.mark.parametrize(
    ("importance", "method", "message"),
    [
        (np.ones(39), "mse", r"importance must have shape \(40,\), got \(39,\)"),
        (np.ones((40, 40)), "mse", r"importance must have shape \(40,\), got \(40, 40\)"),
        (-np.ones(40), "mse", r"importance must be finite and 0 or more, got -1.0 at 0"),
        (np.full(40, np.nan), "mse", "importance must be finite and 0 or more, got nan at 0"),
        (np.ones(40), "absmax", "importance must be None for method 'absmax', which ignores it"),
    ],
)
def test_wrong_importance(importance, method, message):
    with pytest.raises(ValueError, match=message):
        binq.quantize(np.ones((2, 40)), "int4", method=method, importance=importance)
