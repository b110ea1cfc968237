"""int8: quantizers and kernels against the reference, the search, codes that int8 does not hold."""

from functools import cache

import numpy as np
import pytest
from strategies import DISTRIBUTIONS, GROUP_SIZES, random_quantized, sample

import binq
from binq import reference
from binq.convert.verify import verify
from binq.files.metadata import Description, dump

ZEROS = (None, "code", "offset")


def settings_of(zero):
    return {"symmetric": zero is None, "zero": zero}


def same(q, wanted, message=""):
    for got, part in zip(q._data.parts, wanted, strict=False):
        np.testing.assert_array_equal(got, part, err_msg=message)


@pytest.mark.parametrize("group_size", [32, None])
@pytest.mark.parametrize("scale_dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("zero", ZEROS)
def test_quantizers_equal_the_reference(isa, zero, scale_dtype, group_size):
    settings = {"group_size": group_size, "scale_dtype": scale_dtype}
    cases = [("absmax", distribution, (37, 70)) for distribution in DISTRIBUTIONS]
    # The definition takes long to search 256 levels.
    cases += [("mse", distribution, (1, 40)) for distribution in ("normal", "ties", "one_sided")]
    for method, distribution, shape in cases:
        w, wanted = by_reference(method, distribution, shape, zero, scale_dtype, group_size)
        if wanted is None:
            with pytest.warns(binq.errors.ScaleRangeWarning):
                q = binq.quantize(w, "int8", method=method, **settings, **settings_of(zero))
            assert q.scales.dtype == np.float32
            continue
        q = binq.quantize(w, "int8", method=method, **settings, **settings_of(zero))
        same(q, wanted, f"{method} {distribution}")


@cache
def by_reference(method, distribution, shape, zero, scale_dtype, group_size):
    """Returns weights and what the definition makes of them, None where the scales do not fit."""
    w = sample(np.random.default_rng(1), distribution, shape)
    settings = ("int8", group_size, method, zero is None, scale_dtype)
    try:
        return w, reference.quantize(w, *settings, zero=zero)
    except OverflowError:  # weights many times below float16's smallest scale
        return w, None


@pytest.mark.parametrize("zero", ZEROS)
def test_importance_equals_the_reference(zero):
    rng = np.random.default_rng(2)
    h = np.exp(rng.standard_normal(70)).astype(np.float32)
    h[:20] = h[32:64] = 0
    for distribution in ("normal", "outlier", "one_sided", "zero"):
        w = sample(rng, distribution, (2, 70))
        wanted = reference.quantize(w, "int8", 32, "mse", zero is None, importance=h, zero=zero)
        q = binq.quantize(w, "int8", group_size=32, importance=h, **settings_of(zero))
        same(q, wanted, distribution)


def test_powers_of_two_equal_the_reference(isa):
    w = np.random.default_rng(3).standard_normal((37, 140)).astype(np.float32)
    for method in ("mse", "absmax"):
        wanted = reference.quantize(w, "int8", 32, method, True, "e8m0")
        same(binq.quantize(w, "int8", group_size=32, method=method, scale_dtype="e8m0"), wanted)


def test_mse_is_the_best_of_all_scales():
    rng = np.random.default_rng(4)
    for _ in range(6):
        w = rng.standard_normal(32) * rng.choice([1, 1, 1, 8], 32)
        q = binq.quantize(w[None], "int8", group_size=32, scale_dtype="float32")
        found = loss(w, float(q.group_scales()[0, 0]))
        near = np.abs(w).max() / 127
        best = min(loss(w, s) for s in np.linspace(0.5 * near, 1.5 * near, 5000))
        assert found <= best * (1 + 1e-6)


def loss(w, scale):
    return float(np.square(w - scale * np.clip(np.rint(w / scale), -127, 127)).sum())


def test_symmetric_scales_are_positive_and_zero_points_fit_the_range():
    rng = np.random.default_rng(5)
    w = rng.standard_normal((40, 128)).astype(np.float32)
    w[:, 0] = -9
    q = binq.quantize(w, "int8")
    assert (q.group_scales() > 0).all()
    shifted = binq.quantize(w, "int8", symmetric=False)
    quick = binq.quantize(w, "int8", symmetric=False, method="absmax")
    moved = shifted.group_zero_points().astype(int) - quick.group_zero_points()
    assert np.abs(moved).max() <= 1

    def error(packed):
        return float(np.square(packed.dequantize() - w).sum())

    assert error(shifted) < error(quick) < error(q)
    assert error(q) < error(binq.quantize(w, "int8", method="absmax"))


@pytest.mark.parametrize("zero", ZEROS)
def test_levels_come_back_exactly(zero):
    rng = np.random.default_rng(6)
    codes = rng.integers(-100, 101, (40, 128))
    codes[:, ::32], codes[:, 1::32] = -127, 127
    codes[:, 2::32], codes[:, 3::32] = 0, 1
    w = codes * np.float32(0.375)
    q = binq.quantize(w, "int8", group_size=32, **settings_of(zero))
    np.testing.assert_array_equal(q.dequantize(), w)
    np.testing.assert_array_equal(binq.quantize(np.eye(64), "int8").dequantize(), np.eye(64))


@pytest.mark.parametrize("zero", ZEROS)
def test_every_code_survives(isa, tmp_path, zero):
    """Codes to 255 come as uint8, by whichever way: files, rows, joined, turned."""
    rng = np.random.default_rng(7)
    lowest = -128 if zero is None else 0
    codes = np.stack([rng.permutation(256) + lowest for _ in range(70)])
    zeros = {}
    if zero == "code":
        zeros["zero_points"] = rng.integers(0, 256, (70, 2))
    elif zero == "offset":
        zeros["offsets"] = rng.uniform(-1, 1, (70, 2)).astype(np.float16)
    scales = rng.uniform(0.5, 2, (70, 2)).astype(np.float16)
    q = binq.QuantizedArray.from_codes(codes, scales, format="int8", **zeros)
    assert q.codes().dtype == (np.int8 if zero is None else np.uint8)
    assert q.packed.shape == (3, 64, 32, 4)
    np.testing.assert_array_equal(q.codes(), codes)
    path = tmp_path / "m.safetensors"
    binq.save_file({"a": q}, path)
    assert list(verify(path)) == []
    again = binq.load_file(path)["a"]
    assert again == q
    assert dump({"a": Description.of(q)}).startswith('{"version":3,')
    rows = [69, 3, 3, -1]
    taken = q[rows]
    np.testing.assert_array_equal(taken.dequantize(), q.dequantize()[rows])
    np.testing.assert_array_equal(taken.codes(), codes[rows])
    if zero == "code":
        np.testing.assert_array_equal(q.group_zero_points(), zeros["zero_points"])
        np.testing.assert_array_equal(taken.group_zero_points(), zeros["zero_points"][rows])
    both = binq.concatenate([q[5:9], q[64:]])
    np.testing.assert_array_equal(both.dequantize(), q.dequantize()[[*range(5, 9), *range(64, 70)]])
    x = rng.standard_normal((3, 256)).astype(np.float32)
    exact = x.astype(np.float64) @ q.dequantize().T
    np.testing.assert_allclose(x @ q.T, exact, rtol=0, atol=1e-3 * np.abs(exact).max())


def test_wrong_codes_are_refused():
    for code in (-129, 128):
        with pytest.raises(ValueError, match=f"codes must be from -128 to 127, got {code}"):
            binq.QuantizedArray.from_codes([[code]], [[1.0]], format="int8")
    with pytest.raises(ValueError, match="zero_points must be from 0 to 255, got 256"):
        binq.QuantizedArray.from_codes([[1]], [[1.0]], format="int8", zero_points=[[256]])


@pytest.mark.parametrize("group_size", GROUP_SIZES)
@pytest.mark.parametrize("zero", ["code", "offset"])
def test_products_with_zeros_equal_the_reference(isa, zero, group_size):
    rng = np.random.default_rng(8)
    q = binq.quantize(
        sample(rng, "outlier", (70, 300)) + np.float32(0.5),
        "int8",
        group_size=group_size,
        method="absmax",
        **settings_of(zero),
    )
    x = sample(rng, "outlier", (17, 300))
    for mode in ("int8", "int16"):
        wanted = reference.matmul(
            x, *q._data.parts, format="int8", shape=q.shape, group_size=q.group_size,
            activations=mode,
        )  # fmt: skip
        for rows in (1, 2, 3, 4, 5, 8, 9, 17):
            y = binq.linear(x[:rows], q, activations=mode)
            np.testing.assert_array_equal(y.view(np.uint32), wanted[:rows].view(np.uint32))


@pytest.mark.parametrize("format", ["int8", "iq4nl"])
@pytest.mark.parametrize("rows", [1, 3, 9])
def test_sums_of_large_levels_do_not_overflow(isa, format, rows):
    """float32: 256 numbers of 2^114 by levels beyond 15 would leave float32 before the scale."""
    level = {"int8": 127, "iq4nl": 113}[format]
    codes = np.full((32, 256), level)
    q = binq.QuantizedArray.from_codes(
        codes, np.full((32, 1), 2.0**-10), format=format, group_size=256
    )
    x = np.full((rows, 256), 2.0**114, np.float32)
    y = binq.linear(x, q, activations="float32")
    np.testing.assert_allclose(y, 256 * 2.0**104 * level, rtol=1e-6)


@pytest.mark.parametrize("symmetric", [True, False])
def test_gptq_makes_less_of_an_error(symmetric):
    rng = np.random.default_rng(9)
    mixing = rng.standard_normal((64, 64))
    cal = binq.Calibrator()
    x = (rng.standard_normal((500, 64)) @ mixing).astype(np.float32)
    cal.update("a", x)
    w = rng.standard_normal((48, 64)).astype(np.float32)
    settings = {"symmetric": symmetric, "group_size": 64}

    def error(q):
        return float(np.square(x.astype(np.float64) @ (q.dequantize() - w).T).sum())

    q = binq.quantize(w, "int8", method="gptq", stats=cal["a"], **settings)
    assert error(q) < 0.7 * error(binq.quantize(w, "int8", **settings))


def test_random_weights_have_every_code():
    q = random_quantized(np.random.default_rng(10), "int8", (64, 256), symmetric=False)
    assert set(np.unique(q.codes())) == set(range(256))
