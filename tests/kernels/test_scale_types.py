"""Types of scales beside float16 and float32: quantizers, kernels, files, copies."""

import pickle

import ml_dtypes
import numpy as np
import pytest
from strategies import DISTRIBUTIONS, GROUP_SIZES, sample

import binq
from binq import reference
from binq.array.packing import Packing
from binq.convert.verify import verify
from binq.errors import FormatError, ScaleRangeWarning
from binq.files import SafetensorsFile
from binq.files.metadata import KEY
from binq.formats import FORMATS
from binq.formats.zeros import NONE
from binq.methods.measure import tile_errors

KINDS = [(name, zero) for name, format in FORMATS.items() for zero in (NONE, *format.zero_kinds)]


# With the types that each has beside float16 and float32.
TYPES = [
    (name, zero, scale_dtype)
    for name, zero in KINDS
    for scale_dtype in ("bfloat16", "e8m0")
    if scale_dtype == "bfloat16" or (zero == NONE and 0 in FORMATS[name].codes(NONE))
]


def settings(zero):
    return {"symmetric": zero == NONE, "zero": None if zero == NONE else zero}


def assert_same_bytes(got, wanted, message=""):
    assert got.dtype == wanted.dtype
    np.testing.assert_array_equal(got.view(np.uint8), wanted.view(np.uint8), err_msg=message)


@pytest.mark.parametrize("group_size", [32, None])
@pytest.mark.parametrize(("name", "zero", "scale_dtype"), TYPES)
def test_quantizers_equal_the_reference(isa, name, zero, scale_dtype, group_size):
    rng = np.random.default_rng(1)
    for method in FORMATS[name].methods:
        for distribution in DISTRIBUTIONS:
            w = sample(rng, distribution, (9, 140))
            wanted = reference.quantize(
                w, name, group_size, method, zero == NONE, scale_dtype, zero=zero
            )
            q = binq.quantize(
                w,
                name,
                group_size=group_size,
                method=method,
                scale_dtype=scale_dtype,
                **settings(zero),
            )
            for got, part in zip(q._data.parts, wanted, strict=False):
                assert_same_bytes(got, part, f"{method} {distribution}")


@pytest.mark.parametrize("group_size", GROUP_SIZES)
@pytest.mark.parametrize(("name", "zero", "scale_dtype"), TYPES)
def test_products_equal_the_reference(isa, name, zero, scale_dtype, group_size):
    rng = np.random.default_rng(2)
    w = sample(rng, "normal", (70, 300))
    q = binq.quantize(w, name, group_size=group_size, scale_dtype=scale_dtype, **settings(zero))
    parts = (*q._data.parts, None)[:3]
    about = {"format": name, "shape": q.shape, "group_size": q.group_size}
    np.testing.assert_array_equal(q.dequantize(), reference.dequantize(*parts, **about))
    x = sample(rng, "outlier", (40, 300))
    for mode in ("int8", "int16"):
        wanted = reference.matmul(x, *parts, **about, activations=mode)
        for rows in (1, 2, 3, 4, 8, 17, 40):
            np.testing.assert_array_equal(binq.linear(x[:rows], q, activations=mode), wanted[:rows])
    exact = x.astype(np.float64) @ q.dequantize().T.astype(np.float64)
    y = binq.linear(x, q, activations="float32")
    np.testing.assert_allclose(y, exact, atol=1e-5 * np.abs(x).max() * 300)
    tiles = tile_errors(w, q._data)
    totals = np.add.accumulate(tiles)[-1]
    totals[2] = tiles[:, 2].max()
    wanted = reference.measure(w, *parts, format=name, group_size=q.group_size)
    assert totals.tolist() == list(wanted)


@pytest.mark.parametrize(("name", "zero", "scale_dtype"), [t for t in TYPES if t[0] != "binary"])
def test_importance_equals_the_reference(name, zero, scale_dtype):
    rng = np.random.default_rng(3)
    h = np.exp(rng.standard_normal(140)).astype(np.float32)
    h[:20] = h[64:128] = 0
    for distribution in DISTRIBUTIONS:
        w = sample(rng, distribution, (9, 140))
        wanted = reference.quantize(
            w, name, 64, "mse", zero == NONE, scale_dtype, importance=h, zero=zero
        )
        q = binq.quantize(
            w, name, group_size=64, scale_dtype=scale_dtype, importance=h, **settings(zero)
        )
        for got, part in zip(q._data.parts, wanted, strict=False):
            np.testing.assert_array_equal(got, part, err_msg=distribution)


@pytest.mark.parametrize(("name", "zero", "scale_dtype"), TYPES)
def test_files_copies_and_parts_keep_the_type(tmp_path, name, zero, scale_dtype):
    w = np.random.default_rng(4).standard_normal((3, 70, 96)).astype(np.float32)
    q = binq.quantize(w, name, group_size=32, scale_dtype=scale_dtype, **settings(zero))
    binq.save_file({"a": q}, tmp_path / "m.safetensors")
    again = binq.load_file(tmp_path / "m.safetensors")["a"]
    record = binq.describe(tmp_path / "m.safetensors")["a"]
    assert record.scale_dtype == scale_dtype
    for other in (
        again,
        pickle.loads(pickle.dumps(q, protocol=5)),
        q.copy(),
        binq.stack([q[0], q[1], q[2]]),
        0.5 * (2 * q),
        q * 2 / 2,
    ):
        assert other == q
        assert [part.dtype for part in other._data.parts] == [p.dtype for p in q._data.parts]
    np.testing.assert_array_equal(
        binq.concatenate([q[0], q[1]]).dequantize(), q[:2].dequantize().reshape(140, 96)
    )
    rows = [69, 0, 3]
    np.testing.assert_array_equal(q[1][rows].dequantize(), q[1].dequantize()[rows])
    halves = binq.quantize(w[1], name, group_size=32, scale_dtype="float16", **settings(zero))
    mixed = binq.concatenate([q[0], halves])
    assert mixed.scales.dtype == np.float32


def test_older_readers_are_told_by_the_version(tmp_path):
    q = binq.quantize(np.eye(64), "int4", scale_dtype="bfloat16")
    path = tmp_path / "m.safetensors"
    binq.save_file({"a": q}, path)
    with SafetensorsFile(path) as file:
        text = file.metadata[KEY]
        assert file.tensors["a.scales"].dtype == "BF16"
    assert '"version":3' in text
    assert '"scale_dtype":"bfloat16"' in text
    content = path.read_bytes()
    for old, new in (("bfloat16", "bfloat17"), ("bfloat16", "float32 ")):
        path.write_bytes(content.replace(old.encode(), new.encode()))
        with pytest.raises(FormatError, match=r"'a' has scale_dtype"):
            binq.load_file(path)
    path.write_bytes(content.replace(b'"BF16"', b'"F16" '))
    with pytest.raises(FormatError, match="not of the type"):
        binq.load_file(path)
    path.write_bytes(content.replace(b'version\\":3', b'version\\":2'))
    with pytest.raises(FormatError, match="must have exactly"):
        binq.load_file(path)


def test_from_codes_keeps_what_it_is_given():
    codes = np.ones((1, 32), np.int8)
    tiny = np.array([[2.0**-60]], ml_dtypes.bfloat16)
    q = binq.QuantizedArray.from_codes(codes, tiny, format="int4", group_size=32)
    assert q.scales.dtype == ml_dtypes.bfloat16
    assert q.dequantize()[0, 0] == 2.0**-60
    half = binq.QuantizedArray.from_codes(codes, [[0.5]], format="int4", group_size=32)
    assert half.scales.dtype == np.float16
    chosen = binq.QuantizedArray.from_codes(
        codes, [[0.5]], format="int4", group_size=32, scale_dtype="bfloat16"
    )
    assert chosen.scales.dtype == ml_dtypes.bfloat16
    with pytest.raises(ValueError, match="scales must be numbers that bfloat16 holds exactly"):
        binq.QuantizedArray.from_codes(
            codes, [[1.001]], format="int4", group_size=32, scale_dtype="bfloat16"
        )


def test_what_bfloat16_does_not_hold_becomes_float32():
    w = np.full((1, 32), 1e-40, np.float32)
    with pytest.warns(ScaleRangeWarning, match="bfloat16 does not hold every scale"):
        q = binq.quantize(w, "ternary", group_size=32, scale_dtype="bfloat16")
    assert q.scales.dtype == np.float32
    # float16 does not hold these; bfloat16 does.
    wide = binq.quantize(w * np.float32(1e10), "ternary", group_size=32, scale_dtype="bfloat16")
    assert wide.scales.dtype == ml_dtypes.bfloat16


def test_zeros_are_stored_as_zero_bits():
    w = -np.zeros((40, 64), np.float32)
    for name, zero in KINDS:
        for method in FORMATS[name].methods:
            q = binq.quantize(w, name, method=method, group_size=32, **settings(zero))
            assert not q.scales.view(np.uint16).any()
            if zero == "offset":
                assert not q.offsets.view(np.uint16).any()


def test_names_of_types_are_checked():
    with pytest.raises(ValueError, match="scale_dtype must be one of 'float16'"):
        binq.quantize(np.eye(32), "int4", scale_dtype="float64")
    packing = Packing("int4", 32, "offset")
    assert packing.parts((32, 32))[2].dtype == np.float16


def test_powers_of_two_are_what_ocp_says():
    rng = np.random.default_rng(6)
    w = rng.standard_normal((33, 96)).astype(np.float32)
    w[5, 32:64] = 0
    q = binq.quantize(w, "int4", group_size=32, method="absmax", scale_dtype="e8m0")
    assert q.scales.dtype == np.uint8
    amax = np.abs(w).reshape(33, 3, 32).max(axis=2)
    wanted = 2.0 ** (np.floor(np.log2(np.where(amax > 0, amax, 1))) - 2)
    wanted[5, 1] = 2.0**-127
    np.testing.assert_array_equal(q.group_scales(), wanted)
    assert not q.dequantize()[5, 32:64].any()
    np.testing.assert_array_equal(q.scales[0, :, 0], np.log2(wanted[0]) + 127)
    assert q.nbytes == 64 * 96 // 2 + 64 * 3
    best = binq.quantize(w, "int4", group_size=32, scale_dtype="e8m0")
    assert np.square(best.dequantize() - w).sum() < np.square(q.dequantize() - w).sum()


@pytest.mark.parametrize("name", ["ternary", "int2", "int4"])
def test_no_power_of_two_is_better(name):
    rng = np.random.default_rng(7)
    levels = np.array(FORMATS[name].codes(NONE))
    for distribution in DISTRIBUTIONS:
        w = sample(rng, distribution, (4, 64))
        q = binq.quantize(w, name, group_size=64, scale_dtype="e8m0")
        errors = np.square(q.dequantize().astype(np.float64) - w).sum(axis=1)
        for exponent in range(-30, 20):
            steps = np.clip(np.rint(w / 2.0**exponent), levels[0], levels[-1])
            others = np.square(steps * 2.0**exponent - w).sum(axis=1)
            assert (errors <= others * (1 + 1e-6)).all()


def test_powers_of_two_need_a_code_for_zero():
    for name, given in (("binary", {}), ("int4", {"symmetric": False})):
        with pytest.raises(ValueError, match="scale_dtype must not be 'e8m0'"):
            binq.quantize(np.eye(32), name, scale_dtype="e8m0", **given)
    q = binq.quantize(np.eye(32), "int4", scale_dtype="e8m0")
    codes = binq.quantize(np.eye(32), "binary").packed
    with pytest.raises(TypeError, match="scales must have dtype"):
        binq.QuantizedArray("binary", q.shape, 32, True, codes, q.scales)
    with pytest.raises(ValueError, match="scales must be numbers that e8m0 holds"):
        binq.QuantizedArray.from_codes(
            np.ones((1, 32), int), [[3.0]], format="int4", group_size=32, scale_dtype="e8m0"
        )
    given = np.array([[0.25]], ml_dtypes.float8_e8m0fnu)
    again = binq.QuantizedArray.from_codes(
        np.ones((1, 32), int), given, format="int4", group_size=32, scale_dtype=given.dtype
    )
    assert again.scales[0, 0, 0] == 125
    assert again.dequantize()[0, 0] == 0.25


def test_what_powers_of_two_do_not_hold_becomes_float32():
    w = np.full((1, 32), 1e-43, np.float32)
    with pytest.warns(ScaleRangeWarning, match="e8m0 does not hold every scale"):
        q = binq.quantize(w, "ternary", group_size=32, scale_dtype="e8m0")
    assert q.scales.dtype == np.float32


def test_smallest_powers_of_two_are_multiplied(isa):
    codes = np.tile(np.array([[1, -1, 7, -8]]), (40, 16))
    scales = (2.0 ** (np.arange(40.0) - 127)).astype(np.float32)[:, None]
    q = binq.QuantizedArray.from_codes(
        codes, scales, format="int4", group_size=64, scale_dtype="e8m0"
    )
    np.testing.assert_array_equal(q.scales[0, 0], np.arange(32))
    np.testing.assert_array_equal(q.dequantize(), (scales * codes).astype(np.float32))
    x = np.full((1, 64), 2.0**60, np.float32)
    for mode in ("int8", "int16", "float32"):
        y = binq.linear(x, q, activations=mode)
        np.testing.assert_allclose(y[0], -16 * 2.0**60 * scales[:, 0], rtol=1e-6)


def test_gptq_chooses_powers_of_two():
    rng = np.random.default_rng(8)
    w = rng.standard_normal((48, 96)).astype(np.float32)
    cal = binq.Calibrator()
    cal.update("a", rng.standard_normal((400, 96)) @ rng.standard_normal((96, 96)))
    q = binq.quantize(w, "int4", group_size=32, method="gptq", stats=cal["a"], scale_dtype="e8m0")
    assert q.scales.dtype == np.uint8


def test_verify_knows_what_is_no_number(tmp_path):
    q = binq.quantize(np.eye(64), "int4", group_size=32, scale_dtype="e8m0")
    scales = q.scales.copy()
    scales[0, 0, 3] = 255
    wrong = binq.QuantizedArray("int4", q.shape, 32, True, q.packed, scales)
    for number, array in enumerate((q, wrong)):
        folder = tmp_path / str(number)
        folder.mkdir()
        binq.save_file({"a": array}, folder / "m.safetensors")
        result = [*verify(folder / "m.safetensors")]
        assert any("inf or NaN" in str(line) for line in result) == bool(number)
