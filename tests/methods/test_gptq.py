"""Method "gptq": outputs nearer to the float layer's than any data-free method's."""

import pickle

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

import binq
from binq.array.packing import Packing
from binq.formats import FORMATS
from binq.methods import METHODS, Gptq, Moments
from binq.methods.curvature import curvature_of

KINDS = [
    (name, symmetric)
    for name, kind in FORMATS.items()
    for symmetric in ((True, False) if kind.zero_kinds else (True,))
    if kind.bits > 1
]


def inputs(count, columns, seed=0, mean=0.0, rank=None):
    """Returns rows with correlated columns of different sizes, as activations have them."""
    rng = np.random.default_rng(seed)
    rank = rank or columns
    mixing = rng.standard_normal((rank, columns)) * np.exp(0.7 * rng.standard_normal(columns))
    x = rng.standard_normal((count, rank)) @ mixing / np.sqrt(rank)
    return (x + mean * rng.standard_normal(columns)).astype(np.float32)


def moments(x):
    cal = binq.Calibrator()
    cal.update("w", x)
    return cal["w"]


def matrix(rows, columns, seed=1):
    return np.random.default_rng(seed).standard_normal((rows, columns), dtype=np.float32) * 0.02


def loss(w, q, x, correction=0.0):
    """Returns the relative error of the layer's outputs."""
    exact = x.astype(np.float64) @ w.T
    return np.linalg.norm(x.astype(np.float64) @ q.dequantize().T + correction - exact) / (
        np.linalg.norm(exact)
    )


@pytest.mark.parametrize(("format", "symmetric"), KINDS)
@pytest.mark.parametrize("group_size", [32, 128, None])
def test_better_than_the_best_scales(format, symmetric, group_size):
    x, w = inputs(900, 200), matrix(48, 200)
    options = {"group_size": group_size, "symmetric": symmetric}
    plain = binq.quantize(w, format, **options)
    weighted = binq.quantize(w, format, importance=moments(x).mean_square, **options)
    q = binq.quantize(w, format, method="gptq", stats=moments(x), **options)
    assert (q.format, q.group_size, q.shape, q.nbytes) == (
        plain.format,
        plain.group_size,
        plain.shape,
        plain.nbytes,
    )
    best = min(loss(w, plain, x), loss(w, weighted, x))
    assert loss(w, q, x) < 0.8 * best
    # Nor is it made for these rows alone.
    other = inputs(900, 200)[::-1] * np.float32(1.5)
    assert loss(w, q, other) < 0.8 * best


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_no_row_costs_more_than_with_the_best_scales(data):
    format, symmetric = data.draw(st.sampled_from(KINDS))
    columns = data.draw(st.sampled_from([1, 5, 33, 64, 130]))
    rank = data.draw(st.integers(1, columns))
    seed = data.draw(st.integers(0, 2**32))
    stats = moments(inputs(data.draw(st.integers(2, 300)), columns, seed, rank=rank))
    w = matrix(9, columns, seed)
    packing = Packing.checked(format, 32, symmetric)
    curvature = curvature_of(stats, False, 0.1)
    options = {"group_size": 32, "symmetric": symmetric}
    start = binq.quantize(w, format, importance=curvature.importance, **options)
    gptq = Gptq(damping=0.1)
    gptq.check(packing)
    q = binq.quantize(w, format, method=gptq, stats=stats, **options)
    costs = [
        np.einsum("ij,jk,ik->i", e, curvature.matrix.astype(np.float64), e)
        for e in (w - start.dequantize().astype(np.float64), w - q.dequantize())
    ]
    assert (costs[1] <= costs[0] * (1 + 1e-3) + 1e-12).all()


@pytest.mark.parametrize(("format", "symmetric"), KINDS)
def test_sweeps_only_help(format, symmetric):
    x, w = inputs(900, 160), matrix(32, 160)
    losses = [
        loss(
            w,
            binq.quantize(
                w, format, symmetric=symmetric, method="gptq", stats=moments(x), sweeps=sweeps
            ),
            x,
        )
        for sweeps in (0, 1, 2, 6)
    ]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > losses[2]


@pytest.mark.parametrize(("format", "symmetric"), KINDS)
def test_a_bias_takes_over_what_the_mean_costs(format, symmetric):
    """Inputs far from zero: the covariance, with the correction, is what to work with."""
    x, w = inputs(900, 160, mean=4.0), matrix(32, 160)
    stats = moments(x)
    options = {"symmetric": symmetric, "method": "gptq", "stats": stats}
    plain = binq.quantize(w, format, **options)
    q, correction = binq.quantize(w, format, return_bias=True, **options)
    assert correction.dtype == np.float32
    assert correction.shape == (32,)
    np.testing.assert_allclose(
        correction, (w - q.dequantize()).astype(np.float64) @ stats.mean, atol=1e-6
    )
    centre = x.astype(np.float64).mean(axis=0) @ w.T
    spread = np.linalg.norm(x.astype(np.float64) @ w.T - centre)

    def error(q, correction=0.0):
        e = x.astype(np.float64) @ (q.dequantize() - w).T + correction
        return np.linalg.norm(e) / spread

    assert error(q, correction) < 0.85 * error(plain)
    # The correction is what makes the difference.
    assert error(q) > error(q, correction)


def test_return_bias_with_other_methods():
    x, w = inputs(300, 64, mean=4.0), matrix(8, 64)
    q, correction = binq.quantize(w, "binary", stats=moments(x), return_bias=True)
    assert q == binq.quantize(w, "binary")
    assert loss(w, q, x, correction) < loss(w, q, x)


@pytest.mark.parametrize(("format", "symmetric"), KINDS)
@pytest.mark.parametrize("group_size", [32, None])
def test_any_number_of_threads(format, symmetric, group_size, threads):
    x, w = inputs(400, 300), matrix(130, 300)
    found = []
    for count in (1, 2, 5):
        binq.set_num_threads(count)
        found.append(
            binq.quantize(
                w,
                format,
                symmetric=symmetric,
                group_size=group_size,
                method="gptq",
                stats=moments(x),
            )
        )
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(("format", "symmetric"), KINDS)
@pytest.mark.parametrize(
    "x",
    [
        inputs(400, 96, rank=3),
        inputs(4, 96),
        np.repeat(inputs(1, 96), 5, axis=0),
        np.zeros((5, 96), np.float32),
        inputs(400, 96) * (np.arange(96) % 3 > 0).astype(np.float32),
        inputs(400, 96) * np.float32(1e-15),
        inputs(400, 96) * np.float32(1e15),
        np.where(np.arange(96) == 7, np.float32(1e4), np.float32(1)) * inputs(400, 96),
    ],
    ids=["rank 3", "4 rows", "one row", "zeros", "dead inputs", "tiny", "huge", "one outlier"],
)
def test_inputs_to_fear(format, symmetric, x):
    """Handled: what comes out is no worse than data-free, on the rows that were seen."""
    w = matrix(40, 96)
    options = {"symmetric": symmetric, "group_size": 32}
    q, correction = binq.quantize(
        w, format, method="gptq", stats=moments(x), return_bias=True, **options
    )
    assert np.isfinite(q.dequantize()).all()
    assert np.isfinite(correction).all()
    if x.any():
        plain = binq.quantize(w, format, **options)
        assert loss(w, q, x, correction) <= loss(w, plain, x) * 1.01


@pytest.mark.parametrize(("format", "symmetric"), KINDS)
def test_zero_rows_columns_and_groups(format, symmetric):
    w = matrix(9, 96)
    w[3] = 0
    w[:, 40] = 0
    w[5, 32:64] = 0
    q = binq.quantize(
        w, format, symmetric=symmetric, group_size=32, method="gptq", stats=moments(inputs(400, 96))
    )
    values = q.dequantize()
    assert not values[3].any()
    if format != "mxfp4" and (format not in ("int2", "int3") or symmetric):
        # An offset, or a scale that cannot be 0, may make up for errors in other columns.
        assert not values[5, 32:64].any()


def test_scales_that_float16_does_not_hold():
    w = matrix(8, 64) * np.float32(1e-7)
    with pytest.warns(binq.ScaleRangeWarning):
        q = binq.quantize(w, "int4", method="gptq", stats=moments(inputs(99, 64)))
    assert q.scales.dtype == np.float32
    assert np.abs(q.dequantize() - w).max() < np.abs(w).max()


def test_stacks_are_lists_of_matrices():
    stats = moments(inputs(200, 64))
    w = np.stack([matrix(5, 64, seed) for seed in range(6)]).reshape(2, 3, 5, 64)
    q, correction = binq.quantize(w, "int4", method="gptq", stats=stats, return_bias=True)
    one, its = binq.quantize(w[1, 0], "int4", method="gptq", stats=stats, return_bias=True)
    assert q[1, 0] == one
    np.testing.assert_allclose(correction[1, 0], its, rtol=1e-5)
    assert correction.shape == (2, 3, 5)


@pytest.mark.parametrize("shape", [(0, 64), (2, 0, 64)])
def test_no_weights(shape):
    stats = moments(inputs(20, 64))
    q, correction = binq.quantize(
        np.zeros(shape), "int4", method="gptq", stats=stats, return_bias=True
    )
    assert q.shape == shape
    assert correction.shape == shape[:-1]


@pytest.mark.parametrize("nonfinite", ["raise", "zero"])
def test_nonfinite_weights(nonfinite):
    w = matrix(4, 64)
    w[1, 3] = np.inf
    options = {"method": "gptq", "stats": moments(inputs(99, 64)), "nonfinite": nonfinite}
    if nonfinite == "raise":
        with pytest.raises(binq.NonFiniteError, match=r"w\[1, 3\] = inf"):
            binq.quantize(w, "int4", **options)
    else:
        _, correction = binq.quantize(w, "int4", return_bias=True, **options)
        assert np.isfinite(correction).all()


GOOD = moments(inputs(99, 8))


def changed(**fields):
    parts = {"covariance": GOOD.covariance, "mean": GOOD.mean, "count": GOOD.count} | fields
    return Moments(**parts)


def with_entry(index, value):
    covariance = GOOD.covariance.copy()
    covariance[index] = value
    return changed(covariance=covariance)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"format": "binary"}, "method must not be 'gptq' for format 'binary': .* worse"),
        ({"stats": None}, "stats must be given for method 'gptq': binq.Calibrator collects them"),
        ({"method": "mse"}, "stats must be None for method 'mse', which ignores them"),
        ({"method": "mse", "stats": None, "sweeps": 1}, "sweeps must be None for method 'mse'"),
        ({"sweeps": -1}, "sweeps must be from 0 to 1000, got -1"),
        ({"importance": np.ones(8)}, "importance must be None for method 'gptq'"),
        ({"stats": moments(inputs(99, 9))}, r"stats.covariance must have shape \(8, 8\).*\(9, 9\)"),
        ({"stats": changed(count=1)}, "stats.count must be 2 or more rows of x, got 1"),
        ({"stats": with_entry((1, 2), np.nan)}, r"stats.covariance must be finite, got nan at"),
        ({"stats": with_entry((3, 3), -1.0)}, r"must not be below 0 at \(3, 3\): -1.0"),
        ({"stats": with_entry((1, 2), 99.0)}, "stats.covariance must be symmetric, got 99.0"),
        ({"stats": changed(mean=np.zeros(7, np.float32))}, r"stats.mean must have shape \(8,\)"),
    ],
)
def test_what_is_refused(arguments, message):
    options = {"format": "int4", "method": "gptq", "stats": GOOD} | arguments
    with pytest.raises(ValueError, match=message):
        binq.quantize(np.ones((2, 8), np.float32), **options)


@pytest.mark.parametrize("place", [(5, 290), (290, 5), (270, 299)])
def test_a_large_covariance_that_is_not_symmetric(place):
    covariance = np.eye(300, dtype=np.float32)
    covariance[place] = 3
    stats = Moments(covariance, np.zeros(300, np.float32), 500)
    i, j = sorted(place)
    message = rf"symmetric, got {covariance[i, j]} at \({i}, {j}\) and {covariance[j, i]} at"
    with pytest.raises(ValueError, match=message):
        binq.quantize(np.ones((2, 300), np.float32), "int4", method="gptq", stats=stats)


def test_a_covariance_that_is_none():
    """Symmetric, with a diagonal above 0, and an eigenvalue below it that no damping mends."""
    stats = changed(covariance=np.where(np.eye(8, dtype=bool), np.float32(1), np.float32(1e9)))
    with pytest.raises(ValueError, match=r"stats.covariance .*an eigenvalue below 0: -1e\+09"):
        binq.quantize(np.ones((2, 8), np.float32), "int4", method="gptq", stats=stats)


def test_no_damping_where_the_moments_are_singular():
    """Some is added all the same, as little as makes a factor."""
    x, w = inputs(200, 64, rank=5), matrix(8, 64)
    q = binq.quantize(w, "int4", method=Gptq(damping=0), stats=moments(x))
    assert loss(w, q, x) < 0.5 * loss(w, binq.quantize(w, "int4"), x)


def test_moments_of_ones_own():
    """Lists and float64 serve as float32 does."""
    w = matrix(8, 8)
    wanted = binq.quantize(w, "int4", method="gptq", stats=GOOD)
    for kind in (np.ndarray.tolist, lambda a: a.astype(np.float64), np.asfortranarray):
        stats = changed(covariance=kind(GOOD.covariance), mean=kind(GOOD.mean))
        assert binq.quantize(w, "int4", method="gptq", stats=stats) == wanted


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"covariance": None}, "stats.covariance must hold real numbers"),
        ({"covariance": GOOD.covariance * 1j}, "stats.covariance must hold real numbers"),
        ({"mean": "eight"}, "stats.mean must hold real numbers"),
        ({"count": "9"}, "stats.count must be an integer, got '9'"),
        ({"count": float("nan")}, "stats.count must be an integer, got nan"),
    ],
)
def test_moments_of_wrong_types(fields, message):
    with pytest.raises(TypeError, match=message):
        binq.quantize(np.ones((2, 8)), "int4", method="gptq", stats=changed(**fields))


@pytest.mark.parametrize("damping", [float("nan"), float("inf"), 1e7])
def test_damping_that_leaves_nothing_of_the_moments(damping):
    with pytest.raises(ValueError, match=r"damping must be from 0 to 1e\+06, or None, got"):
        Gptq(damping=damping)


def test_wrong_types():
    with pytest.raises(TypeError, match="damping must be a number or None, got '1'"):
        Gptq(damping="1")
    with pytest.raises(TypeError, match="stats must be the Moments of a Calibrator, got ndarray"):
        binq.quantize(np.ones((2, 8)), "int4", method="gptq", stats=GOOD.covariance)
    with pytest.raises(TypeError, match="return_bias must be True or False, got 1"):
        binq.quantize(np.ones((2, 8)), "int4", method="gptq", stats=GOOD, return_bias=1)
    with pytest.raises(ValueError, match="w must be at most 1e\\+30 for method 'gptq'"):
        binq.quantize(
            np.full((2, 8), 1e35, np.float32),
            "int4",
            method="gptq",
            stats=GOOD,
            scale_dtype="float32",
        )


def test_a_method_is_a_value():
    method = METHODS["gptq"]
    assert method == Gptq() == pickle.loads(pickle.dumps(method))
    assert hash(Gptq(3)) == hash(Gptq(sweeps=3)) != hash(Gptq())
    assert repr(Gptq(1, 0.5)) == "Gptq(sweeps=1, damping=0.5)"
    with pytest.raises(ValueError, match=r"damping must be from 0 to 1e\+06, or None, got -1"):
        Gptq(damping=-1)


@pytest.mark.parametrize(
    ("format", "zero"),
    [(name, zero) for name, kind in FORMATS.items() if kind.bits > 1 for zero in kind.zero_kinds],
)
def test_every_kind_of_zero(format, zero):
    """Weights that are not centred on 0: what says where zero lies is refined with the scale."""
    x, w = inputs(900, 200), matrix(48, 200) + np.float32(0.01)
    options = {"symmetric": False, "zero": zero, "group_size": 64}
    plain = binq.quantize(w, format, **options)
    q = binq.quantize(w, format, method="gptq", stats=moments(x), **options)
    assert (q.nbytes, q.scales.dtype) == (plain.nbytes, plain.scales.dtype)
    assert loss(w, q, x) < 0.8 * loss(w, plain, x)
