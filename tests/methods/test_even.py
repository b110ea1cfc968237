"""int2 and int3: the exact search against all scales, signs, offsets, and files."""

import pickle

import numpy as np
import pytest

import binq
from binq import reference
from binq.files.metadata import Description, dump

FORMATS = {"int2": 2, "int3": 4}  # and minus the lowest code
ZEROS = [None, "offset", "code"]


def loss(w, scale, middle):
    steps = np.clip(np.rint(w / scale), -middle, middle - 1)
    return float(np.square(w - scale * steps).sum())


@pytest.mark.parametrize(("format", "middle"), FORMATS.items())
def test_mse_is_the_best_of_all_scales(format, middle):
    rng = np.random.default_rng(0)
    for _ in range(20):
        w = rng.standard_normal(32) * rng.choice([1, 1, 1, 8], 32)
        q = binq.quantize(w[None], format, group_size=32, scale_dtype="float32")
        found = loss(w, float(q.group_scales()[0, 0]), middle)
        grid = np.linspace(0.02, 12, 4000)
        best = min(loss(w, s, middle) for s in np.concatenate((grid, -grid)))
        assert found <= best * (1 + 1e-6)


@pytest.mark.parametrize(("format", "middle"), FORMATS.items())
@pytest.mark.parametrize("method", ["mse", "absmax"])
def test_scales_have_either_sign(format, middle, method):
    w = np.ones((1, 32), np.float32)
    w[0, 0] = middle
    for sign in (1, -1):
        q = binq.quantize(sign * w, format, group_size=32, method=method)
        assert np.sign(q.group_scales()[0, 0]) == -sign
        assert q.codes()[0, 0] == -middle


@pytest.mark.parametrize(("format", "middle"), FORMATS.items())
def test_levels_come_back_exactly(format, middle):
    rng = np.random.default_rng(1)
    levels = rng.integers(-middle, middle, (40, 128))
    levels[:, ::32] = -middle
    levels[:, 1::32] = 1
    w = levels * np.float32(-0.375)
    q = binq.quantize(w, format, group_size=32)
    np.testing.assert_array_equal(q.dequantize(), w)
    assert q.bits_per_weight == pytest.approx(1.6 * (int(format[3]) + 0.5))
    w = w + np.float32(2.0)
    q = binq.quantize(w, format, group_size=32, symmetric=False, zero="offset")
    np.testing.assert_array_equal(q.dequantize(), w)


def test_three_bits_beat_two_and_mse_beats_absmax():
    w = np.random.default_rng(3).standard_normal((64, 512)).astype(np.float32)
    errors = {
        (format, method, zero): float(
            np.square(
                w
                - binq.quantize(
                    w, format, method=method, symmetric=zero is None, zero=zero
                ).dequantize()
            ).sum()
        )
        for format in FORMATS
        for method in ("mse", "absmax")
        for zero in ZEROS
    }
    for (format, method, zero), error in errors.items():
        if method == "mse":
            assert error < errors[format, "absmax", zero]
        if format == "int3":
            assert error < 0.4 * errors["int2", method, zero]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("zero", ZEROS)
@pytest.mark.parametrize("method", ["mse", "absmax"])
@pytest.mark.parametrize("group_size", [32, 256, None])
def test_kernels_equal_the_reference(isa, method, group_size, format, zero):
    w = np.random.default_rng(2).standard_normal((37, 300)).astype(np.float32)
    w[:, 40:72] = 0
    symmetric = zero is None
    packed, scales, zeros = reference.quantize(w, format, group_size, method, symmetric, zero=zero)
    settings = {"symmetric": symmetric, "zero": zero}
    q = binq.quantize(w, format, group_size=group_size, method=method, **settings)
    np.testing.assert_array_equal(q.packed, packed)
    np.testing.assert_array_equal(q.scales, scales)
    if zero == "offset":
        assert binq.quantize(w, format, group_size=group_size, method=method, symmetric=False) == q
        np.testing.assert_array_equal(q.offsets, zeros)
    elif zero == "code":
        np.testing.assert_array_equal(q.zero_points, zeros)
        assert q.offsets is None


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("symmetric", [True, False])
def test_files_are_of_version_2(tmp_path, format, symmetric):
    q = binq.quantize(np.eye(4), format, symmetric=symmetric)
    assert dump({"a": Description.of(q)}).startswith('{"version":2,')
    assert dump({"a": Description.of(binq.quantize(np.eye(4), "int4"))}).startswith('{"version":1,')
    binq.save_file({"a": q}, tmp_path / "m.safetensors")
    assert binq.load_file(tmp_path / "m.safetensors")["a"] == q


@pytest.mark.parametrize(("format", "middle"), FORMATS.items())
def test_files_of_zero_points_are_of_version_5(tmp_path, format, middle):
    w = np.random.default_rng(4).standard_normal((40, 200))
    q = binq.quantize(w, format, symmetric=False, zero="code")
    assert dump({"a": Description.of(q)}).startswith('{"version":5,')
    assert q.zero_points.shape == (2, 2, 16)
    assert "asymmetric" in repr(q)
    binq.save_file({"a": q}, tmp_path / "m.safetensors")
    again = binq.load_file(tmp_path / "m.safetensors")["a"]
    assert again == q
    assert again != binq.quantize(w, format, symmetric=False)
    assert pickle.loads(pickle.dumps(q)) == q
    assert binq.stack([q, q])[1] == q


@pytest.mark.parametrize(("format", "middle"), FORMATS.items())
def test_levels_with_zero_points_come_back_exactly(format, middle):
    rng = np.random.default_rng(5)
    for zero in range(2 * middle):
        levels = rng.integers(-zero, 2 * middle - zero, (10, 96))
        levels[:, ::32], levels[:, 1::32] = -zero, 2 * middle - 1 - zero
        w = levels * np.float32(0.375)
        q = binq.quantize(w, format, group_size=32, symmetric=False, zero="code")
        np.testing.assert_array_equal(q.dequantize(), w)
        assert (q.group_zero_points() == zero).all()


def test_zero_points_are_within_the_codes():
    with pytest.raises(ValueError, match="zero_points must be from 0 to 7, got 8"):
        binq.QuantizedArray.from_codes([[1, 2]], [[1.0]], format="int3", zero_points=[[8]])
    q = binq.QuantizedArray.from_codes([[1, 2]], [[1.0]], format="int3", zero_points=[[4]])
    assert q.dequantize().tolist() == [[-3.0, -2.0]]
    with pytest.raises(ValueError, match="zero_points must be None where offsets are given"):
        binq.QuantizedArray.from_codes(
            [[1, 2]], [[1.0]], format="int3", zero_points=[[4]], offsets=[[1.0]]
        )
