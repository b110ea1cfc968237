"""int4 with an offset a group: the kernels and the quantizers against the reference, and files."""

import numpy as np
import pytest
from strategies import DISTRIBUTIONS, GROUP_SIZES, sample

import binq
from binq import reference
from binq.methods.measure import tile_errors

MODES = ("int8", "int16", "float32")
BATCHES = (1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 40)
SCALES = [(np.float16, np.float16), (np.float16, np.float32), (np.float32, np.float16)]


def random_q(seed, shape, group_size, scale_dtype=np.float16, offset_dtype=np.float16):
    rng = np.random.default_rng(seed)
    groups = 1 if group_size is None else -(-shape[1] // group_size)
    scales = rng.uniform(-2, 2, (shape[0], groups)).astype(np.float16).astype(scale_dtype)
    offsets = rng.uniform(-9, 9, (shape[0], groups)).astype(np.float16).astype(offset_dtype)
    if scale_dtype == np.float32:
        scales *= np.float32(1 + 2**-20)
    if offset_dtype == np.float32:
        offsets *= np.float32(1 + 2**-20)
    codes = rng.integers(0, 16, shape)
    q = binq.QuantizedArray.from_codes(
        codes, scales, format="int4", group_size=group_size, offsets=offsets
    )
    assert q.scales.dtype == scale_dtype
    assert q.offsets.dtype == offset_dtype
    np.testing.assert_array_equal(q.codes(), codes)
    return q


def by_reference(q, x=None, activations="int16"):
    parts = (q.packed, q.scales, q.offsets)
    settings = {"format": "int4", "shape": q.shape, "group_size": q.group_size}
    if x is None:
        return reference.dequantize(*parts, **settings)
    return reference.matmul(x, *parts, **settings, activations=activations)


@pytest.mark.parametrize(("scale_dtype", "offset_dtype"), SCALES)
@pytest.mark.parametrize("group_size", GROUP_SIZES)
def test_products_equal_the_reference(isa, group_size, scale_dtype, offset_dtype):
    q = random_q(1, (70, 300), group_size, scale_dtype, offset_dtype)
    x = sample(np.random.default_rng(2), "outlier", (max(BATCHES), 300))
    exact = x.astype(np.float64) @ q.dequantize().T.astype(np.float64)
    # Scale and offset count by themselves: a level near zero is their difference.
    size = 1e-6 * np.linalg.norm(x, axis=1)[:, None] * 40 * np.sqrt(300)
    for mode in MODES:
        wanted = by_reference(q, x, mode)
        for rows in BATCHES:
            y = binq.linear(x[:rows], q, activations=mode)
            if mode == "float32":
                assert (np.abs(y - exact[:rows]) <= size[:rows]).all()
                np.testing.assert_array_equal(y[0], binq.linear(x[:1], q, activations=mode)[0])
            else:
                np.testing.assert_array_equal(y, wanted[:rows])


@pytest.mark.parametrize("group_size", GROUP_SIZES)
def test_weights_equal_the_reference(isa, group_size):
    q = random_q(3, (45, 259), group_size, np.float16, np.float32)
    np.testing.assert_array_equal(q.dequantize(), by_reference(q))


@pytest.mark.parametrize("scale_dtype", ["float16", "float32"])
@pytest.mark.parametrize("method", ["mse", "absmax"])
@pytest.mark.parametrize("group_size", GROUP_SIZES)
def test_quantizers_equal_the_reference(isa, group_size, method, scale_dtype):
    rng = np.random.default_rng(4)
    for distribution in DISTRIBUTIONS:
        w = sample(rng, distribution, (11, 140))
        wanted = reference.quantize(
            w, "int4", group_size, method, False, scale_dtype, zero="offset"
        )
        q = binq.quantize(
            w,
            "int4",
            group_size=group_size,
            method=method,
            symmetric=False,
            zero="offset",
            scale_dtype=scale_dtype,
        )
        for got, expected in zip((q.packed, q.scales, q.offsets), wanted, strict=True):
            np.testing.assert_array_equal(got, expected, err_msg=distribution)


@pytest.mark.parametrize("group_size", [32, 128, None])
def test_importance_equals_the_reference(group_size):
    rng = np.random.default_rng(5)
    h = np.exp(rng.standard_normal(140)).astype(np.float32)
    h[3:20] = 0
    h[96:128] = 0
    for distribution in DISTRIBUTIONS:
        w = sample(rng, distribution, (11, 140))
        wanted = reference.quantize(
            w, "int4", group_size, "mse", False, importance=h, zero="offset"
        )
        q = binq.quantize(
            w, "int4", group_size=group_size, symmetric=False, zero="offset", importance=h
        )
        for got, expected in zip((q.packed, q.scales, q.offsets), wanted, strict=True):
            np.testing.assert_array_equal(got, expected, err_msg=distribution)


def test_mse_loses_less_than_zero_points_and_absmax():
    w = np.random.default_rng(6).standard_normal((64, 1024)).astype(np.float32)

    def loss(**settings):
        return np.square(
            binq.quantize(w, "int4", symmetric=False, **settings).dequantize() - w
        ).sum()

    best = loss(zero="offset")
    assert best < 0.96 * loss(zero="code")
    assert best < 0.9 * loss(zero="offset", method="absmax")


def test_16_even_levels_come_back_exactly():
    rng = np.random.default_rng(7)
    w = (rng.integers(0, 16, (20, 96)) * np.float32(0.25) + np.float32(3.5)).astype(np.float32)
    w[:, ::32], w[:, 1::32] = 3.5, 7.25
    q = binq.quantize(w, "int4", group_size=32, symmetric=False, zero="offset")
    np.testing.assert_array_equal(q.dequantize(), w)


def test_errors_are_measured(isa):
    w = np.random.default_rng(8).standard_normal((45, 300)).astype(np.float32)
    q = binq.quantize(w, "int4", group_size=64, symmetric=False, zero="offset")
    tiles = tile_errors(w, q._data)
    totals = np.add.accumulate(tiles)[-1]
    totals[2] = tiles[:, 2].max()
    wanted = reference.measure(w, q.packed, q.scales, q.offsets, format="int4", group_size=64)
    assert totals.tolist() == list(wanted)


def test_files_and_slices_keep_offsets(tmp_path):
    q = random_q(9, (70, 300), 64, np.float16, np.float32)
    binq.save_file({"a": q}, tmp_path / "m.safetensors")
    again = binq.load_file(tmp_path / "m.safetensors")["a"]
    assert again == q
    assert again.offsets.dtype == np.float32
    rows = np.array([3, 69, 3, 0])
    np.testing.assert_array_equal(q[rows].dequantize(), q.dequantize()[rows])
    assert "offset" in repr(q)
