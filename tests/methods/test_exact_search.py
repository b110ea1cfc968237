"""The exact search: the bytes of the reference whatever the weights are.

Ties and near ties, where the order of the search and its roundings decide, must come out the same,
and so must groups for which very many scales are nearly as good, which no buffer may be short of.
"""

import functools

import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings

import binq
from binq import reference

CASES = [("int4", None), ("int4", "code"), ("int3", None), ("int3", "code"), ("int2", "code")]
KINDS = {
    "normal": lambda rng, g: g,
    "one sign": lambda rng, g: np.abs(g),
    "far from zero": lambda rng, g: g + 5,
    "far from zero, one side": lambda rng, g: np.abs(g) + rng.uniform(4, 14),
    "integers": lambda rng, g: rng.integers(-9, 10, g.shape),
    "nearly integers": lambda rng, g: rng.integers(-9, 10, g.shape) * (1 + 1e-7 * g),
    "nearly equal": lambda rng, g: np.sign(g) * (1 + 1e-6 * rng.standard_normal(g.shape)),
    "halfway": lambda rng, g: rng.choice([0.5, 1, 3, 5, 7.5], g.shape) * (1 + 2.0**-23 * (g > 1)),
    "few steps": lambda rng, g: np.round(g * 20) / 16,
    "one outlier": lambda rng, g: np.where(np.arange(g.shape[1]), g, 10.0 ** rng.integers(0, 9)),
    "all magnitudes": lambda rng, g: np.exp(12 * rng.standard_normal(g.shape)) * np.sign(g),
    "mostly zero": lambda rng, g: g * (rng.random(g.shape) < 0.1),
    "denormal": lambda rng, g: g * 2.0**-146,
    "largest": lambda rng, g: np.clip(g, -3, 3) * 1e38,
    "long tails": lambda rng, g: g**7,
    "constant": lambda rng, g: np.full_like(g, rng.standard_normal()),
    "two values": lambda rng, g: np.where(g > 0, *rng.standard_normal(2)),
    "equal but one": lambda rng, g: np.where(np.arange(g.shape[1]), 1, 9 * g[:, :1]),
    "none above zero": lambda rng, g: np.where(g > 0, -0.0, g),
    "largest floats": lambda rng, g: np.copysign(np.finfo(np.float32).max, g),
    "least floats": lambda rng, g: np.trunc(g) * 1e-45,
    "small beside large": lambda rng, g: np.where(g > 0, g, g * 2.0 ** -rng.integers(1, 149)),
}


@pytest.mark.parametrize(("format", "zero"), CASES)
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=12)
@given(seed=st.integers(0, 2**32 - 1), size=st.sampled_from([1, 5, 32, 100, 128, 256, 500, 600]))
def test_bytes_are_those_of_the_reference(format, zero, kind, seed, size):
    rng = np.random.default_rng(seed)
    w = np.float32(KINDS[kind](rng, rng.standard_normal((2, size))))
    options = {"symmetric": zero is None, "zero": zero, "scale_dtype": "float32"}
    q = binq.quantize(w, format, group_size=256 if size <= 256 else None, **options)
    packed, scales, zeros = reference.quantize(w, format, q.group_size, **options)
    np.testing.assert_array_equal(q.packed, packed)
    np.testing.assert_array_equal(q.scales, scales)
    if zeros is not None:
        np.testing.assert_array_equal(q.zero_points, zeros)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("symmetric", [True, False])
def test_halves_give_the_bytes_of_the_same_floats(dtype, symmetric):
    w = np.random.default_rng(1).standard_normal((8, 600)).astype(dtype)
    q = binq.quantize(w, "int4", symmetric=symmetric)
    packed, scales, _ = reference.quantize(np.float32(w), "int4", 128, "mse", symmetric)
    np.testing.assert_array_equal(q.packed, packed)
    np.testing.assert_array_equal(q.scales, scales)


@pytest.mark.parametrize("symmetric", [True, False])
def test_equal_importance_changes_nothing(symmetric):
    """Two implementations: importance is searched scale by scale, in float64 alone."""
    w = np.float32(np.random.default_rng(2).standard_normal((40, 512)))
    q = binq.quantize(w, "int4", symmetric=symmetric)
    other = binq.quantize(w, "int4", symmetric=symmetric, importance=np.ones(512, np.float32))
    np.testing.assert_array_equal(q.packed, other.packed)
    np.testing.assert_array_equal(q.scales, other.scales)


@functools.cache
def wanted(group_size, symmetric):
    rng = np.random.default_rng(0)
    rows = [kind(rng, rng.standard_normal((1, 560))) for kind in KINDS.values()]
    w = np.float32(np.concatenate(rows))
    w[:, 300] = w[:, 301]
    return w, reference.quantize(w, "int4", group_size, "mse", symmetric, "float32")


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group_size", [64, 256, None])
def test_every_kernel_set_gives_them(isa, group_size, symmetric):
    w, (packed, scales, _) = wanted(group_size, symmetric)
    q = binq.quantize(w, "int4", group_size=group_size, symmetric=symmetric, scale_dtype="float32")
    np.testing.assert_array_equal(q.packed, packed)
    np.testing.assert_array_equal(q.scales, scales)
