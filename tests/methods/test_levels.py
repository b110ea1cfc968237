"""Formats whose 16 levels are not one step apart: mxfp4 and iq4nl."""

import ml_dtypes
import numpy as np
import pytest
from strategies import DISTRIBUTIONS, GROUP_SIZES, sample

import binq
from binq import reference
from binq.array.packed import Packed
from binq.array.packing import Packing
from binq.convert.verify import verify
from binq.formats import FORMATS
from binq.methods.measure import tile_errors

NAMES = ("mxfp4", "iq4nl")
TYPES = [
    (name, scale_dtype)
    for name in NAMES
    for scale_dtype in ("float16", "float32", "bfloat16", "e8m0")
    if name == "mxfp4" or scale_dtype != "e8m0"
]
FP4 = (0, 1, 2, 3, 4, 6, 8, 12)


def same(q, wanted, message=""):
    for got, part in zip(q._data.parts, wanted, strict=False):
        np.testing.assert_array_equal(got, part, err_msg=message)


@pytest.mark.parametrize("group_size", [32, None])
@pytest.mark.parametrize(("name", "scale_dtype"), TYPES)
def test_quantizers_equal_the_reference(isa, name, scale_dtype, group_size):
    rng = np.random.default_rng(1)
    settings = {"group_size": group_size, "scale_dtype": scale_dtype}
    for method in FORMATS[name].methods:
        for distribution in DISTRIBUTIONS:
            w = sample(rng, distribution, (9, 140))
            try:
                wanted = reference.quantize(w, name, group_size, method, True, scale_dtype)
            except OverflowError:  # constants many times below float16's smallest scale
                with pytest.warns(binq.errors.ScaleRangeWarning):
                    q = binq.quantize(w, name, method=method, **settings)
                assert q.scales.dtype == np.float32
                continue
            q = binq.quantize(w, name, method=method, **settings)
            same(q, wanted, f"{method} {distribution}")


@pytest.mark.parametrize("group_size", [64, None])
@pytest.mark.parametrize(("name", "scale_dtype"), TYPES)
def test_importance_equals_the_reference(name, scale_dtype, group_size):
    rng = np.random.default_rng(2)
    h = np.exp(rng.standard_normal(140)).astype(np.float32)
    h[:20] = h[64:128] = 0
    for distribution in set(DISTRIBUTIONS) - {"tiny"}:
        w = sample(rng, distribution, (9, 140))
        wanted = reference.quantize(w, name, group_size, "mse", True, scale_dtype, importance=h)
        q = binq.quantize(w, name, group_size=group_size, scale_dtype=scale_dtype, importance=h)
        same(q, wanted, distribution)


@pytest.mark.parametrize("group_size", GROUP_SIZES)
@pytest.mark.parametrize(("name", "scale_dtype"), TYPES)
def test_products_equal_the_reference(isa, name, scale_dtype, group_size):
    rng = np.random.default_rng(3)
    w = sample(rng, "normal", (70, 300))
    q = binq.quantize(w, name, group_size=group_size, scale_dtype=scale_dtype)
    about = {"format": name, "shape": q.shape, "group_size": q.group_size}
    np.testing.assert_array_equal(
        q.dequantize(), reference.dequantize(q.packed, q.scales, None, **about)
    )
    x = sample(rng, "outlier", (40, 300))
    for mode in ("int8", "int16"):
        wanted = reference.matmul(x, q.packed, q.scales, **about, activations=mode)
        for rows in (1, 2, 3, 4, 8, 17, 40):
            np.testing.assert_array_equal(binq.linear(x[:rows], q, activations=mode), wanted[:rows])
    exact = x.astype(np.float64) @ q.dequantize().T.astype(np.float64)
    y = binq.linear(x, q, activations="float32")
    np.testing.assert_allclose(y, exact, atol=1e-5 * np.abs(x).max() * 300)
    tiles = tile_errors(w, q._data)
    totals = np.add.accumulate(tiles)[-1]
    totals[2] = tiles[:, 2].max()
    wanted = reference.measure(w, q.packed, q.scales, None, format=name, group_size=q.group_size)
    assert totals.tolist() == list(wanted)


def test_mxfp4_is_what_ocp_says():
    rng = np.random.default_rng(4)
    nibbles = rng.integers(0, 16, (40, 96)).astype(np.uint8)
    exponents = rng.integers(0, 253, (40, 3)).astype(np.uint8)
    exponents[0] = (0, 1, 252)
    q = binq.QuantizedArray._of(Packed.of_nibbles(Packing("mxfp4", 32), nibbles, exponents))
    values = np.array([*FP4, *(-level for level in FP4)], np.float32)[nibbles] / 2
    powers = np.ldexp(np.float32(1), exponents.astype(np.int32) - 127)
    np.testing.assert_array_equal(q.dequantize(), values * np.repeat(powers, 32, axis=1))
    assert q.bits_per_weight == 8 * (64 * 48 + 64 * 3) / (40 * 96)
    np.testing.assert_array_equal(q.scales[0, :, :3].T, exponents[:3])
    # The bytes of the codes: column k + j low, k + 4 + j high, -0 as it was.
    np.testing.assert_array_equal(q.packed[0, 0, 0], nibbles[0, :4] | nibbles[0, 4:8] << 4)
    assert (nibbles == 8).any()


def test_mxfp4_has_groups_of_32_and_powers_of_two_unless_said():
    w = np.random.default_rng(5).standard_normal((64, 256)).astype(np.float32)
    q = binq.quantize(w, "mxfp4")
    assert (q.group_size, q.scales.dtype, q.bits_per_weight) == (32, np.uint8, 4.25)
    assert binq.quantize(w, "mxfp4", group_size=128).group_size == 128
    half = binq.quantize(w, "mxfp4", scale_dtype="float16")
    assert half.scales.dtype == np.float16
    assert binq.quantize(w, "iq4nl").bits_per_weight == 4.125
    amax = np.abs(w).reshape(64, 8, 32).max(axis=2)
    rule = binq.quantize(w, "mxfp4", method="absmax")
    # In units of FP4, whose largest number is 6 = 1.5 * 2^2: the scale is twice what levels take.
    np.testing.assert_array_equal(2 * rule.group_scales(), 2.0 ** (np.floor(np.log2(amax)) - 2))


@pytest.mark.parametrize("name", NAMES)
def test_no_scale_is_better(name):
    rng = np.random.default_rng(6)
    levels = np.array(FORMATS[name].codes("none"), np.float64)
    middles = (levels[1:] + levels[:-1]) / 2
    for distribution in DISTRIBUTIONS:
        w = sample(rng, distribution, (4, 64)).astype(np.float64)
        q = binq.quantize(w, name, group_size=64, scale_dtype="float32")
        errors = np.square(q.dequantize().astype(np.float64) - w).sum(axis=1)
        for part in np.linspace(0.5, 400, 4000):
            for sign in (1, -1):
                scales = sign * np.abs(w).max(axis=1, keepdims=True) / part
                scales[scales == 0] = 1
                others = levels[np.searchsorted(middles, w / scales)] * scales
                found = np.square(others - w).sum(axis=1)
                assert (errors <= found * (1 + 1e-6) + 1e-30).all(), distribution


@pytest.mark.parametrize("name", NAMES)
def test_levels_come_back_exactly(name):
    rng = np.random.default_rng(7)
    levels = np.array(FORMATS[name].codes("none"))
    codes = rng.choice(levels, (40, 64))
    codes[:, ::32], codes[:, 1::32] = levels[-1], levels[0]
    w = codes * np.float32(-0.25 if name == "iq4nl" else 0.25)
    q = binq.quantize(w, name, group_size=32)
    np.testing.assert_array_equal(q.dequantize(), w)
    constant = np.full((3, 40), np.float32(-0.375))
    q = binq.quantize(constant, name, group_size=32, scale_dtype="float16")
    np.testing.assert_allclose(q.dequantize(), constant, rtol=0 if name == "mxfp4" else 2.0**-11)
    assert not binq.quantize(0 * constant, name).dequantize().any()
    again = binq.QuantizedArray.from_codes(codes, np.ones((40, 2)), format=name, group_size=32)
    np.testing.assert_array_equal(again.codes(), codes)
    with pytest.raises(ValueError, match="codes must be"):
        binq.QuantizedArray.from_codes(codes * 0 + 5, np.ones((40, 2)), format=name, group_size=32)


def test_iq4nl_is_better_than_int4_on_normal_weights():
    w = np.random.default_rng(8).standard_normal((64, 512)).astype(np.float32)

    def error(name):
        return np.square(binq.quantize(w, name).dequantize() - w).sum()

    assert error("iq4nl") < 0.85 * error("int4")


@pytest.mark.parametrize("name", NAMES)
def test_files_and_parts_keep_them(tmp_path, name):
    w = np.random.default_rng(9).standard_normal((70, 96)).astype(np.float32)
    q = binq.quantize(w, name)
    path = tmp_path / "m.safetensors"
    binq.save_file({"a": q}, path)
    assert binq.load_file(path)["a"] == q
    assert (binq.describe(path)["a"].format, binq.describe(path)["a"].scale_dtype) == (
        name,
        FORMATS[name].scale_dtype,
    )
    np.testing.assert_array_equal(q[[3, 69]].dequantize(), q.dequantize()[[3, 69]])
    assert 0.5 * (2 * q) == q
    np.testing.assert_array_equal((-q).dequantize(), -q.dequantize())
    both = binq.concatenate([q, q])
    np.testing.assert_array_equal(both.dequantize(), np.tile(q.dequantize(), (2, 1)))
    mixed = binq.concatenate(
        [q, binq.quantize(w, name, group_size=q.group_size, scale_dtype="float32")]
    )
    np.testing.assert_array_equal(mixed.dequantize()[:70], q.dequantize())


def test_a_second_zero_is_no_error(tmp_path):
    nibbles = np.random.default_rng(10).integers(0, 16, (40, 64)).astype(np.uint8)
    exponents = np.full((40, 2), 120, np.uint8)
    q = binq.QuantizedArray._of(Packed.of_nibbles(Packing("mxfp4", 32), nibbles, exponents))
    path = tmp_path / "m.safetensors"
    binq.save_file({"a": q}, path)
    assert not [line for line in verify(path) if "as binq writes" in line]
    given = np.array([[0.25]], ml_dtypes.float8_e8m0fnu)
    one = binq.QuantizedArray.from_codes(
        np.ones((1, 32), int), given, format="mxfp4", group_size=32
    )
    assert one.scales[0, 0, 0] == 126  # 2^(126 - 128) times the level 1
    assert one.dequantize()[0, 0] == 0.25


@pytest.mark.parametrize("name", NAMES)
def test_gptq_has_them(name):
    rng = np.random.default_rng(11)
    w = rng.standard_normal((48, 96)).astype(np.float32)
    x = rng.standard_normal((400, 96)) @ rng.standard_normal((96, 96))
    cal = binq.Calibrator()
    cal.update("a", x)
    q = binq.quantize(w, name, group_size=32, method="gptq", stats=cal["a"])
    plain = binq.quantize(w, name, group_size=32)
    assert q.scales.dtype == plain.scales.dtype

    def error(q):
        return np.square(x @ (q.dequantize() - w).T).sum()

    assert error(q) < 0.7 * error(plain)
