"""int2: the exact search against all scales, signs, and files."""

import numpy as np
import pytest

import binq
from binq import reference
from binq.files.metadata import Description, dump


def loss(w, scale):
    steps = np.clip(np.rint(w / scale), -2, 1)
    return float(np.square(w - scale * steps).sum())


def test_mse_is_the_best_of_all_scales():
    rng = np.random.default_rng(0)
    for _ in range(20):
        w = rng.standard_normal(32) * rng.choice([1, 1, 1, 8], 32)
        q = binq.quantize(w[None], "int2", group_size=32, scale_dtype="float32")
        found = loss(w, float(q.group_scales()[0, 0]))
        grid = np.linspace(0.02, 12, 4000)
        best = min(loss(w, s) for s in np.concatenate((grid, -grid)))
        assert found <= best * (1 + 1e-6)


@pytest.mark.parametrize("method", ["mse", "absmax"])
def test_scales_have_either_sign(method):
    w = np.ones((1, 32), np.float32)
    w[0, 0] = 2.0
    for sign in (1, -1):
        q = binq.quantize(sign * w, "int2", group_size=32, method=method)
        assert np.sign(q.group_scales()[0, 0]) == -sign
        assert q.codes()[0, 0] == -2


def test_the_four_levels_come_back_exactly():
    rng = np.random.default_rng(1)
    w = rng.choice([-2, -1, 0, 1], (40, 100)) * np.float32(-0.375)
    q = binq.quantize(w, "int2", group_size=32)
    np.testing.assert_array_equal(q.dequantize(), w)
    assert q.bits_per_weight == binq.quantize(w, "ternary", group_size=32).bits_per_weight


@pytest.mark.parametrize("method", ["mse", "absmax"])
@pytest.mark.parametrize("group_size", [32, 256, None])
def test_kernels_equal_the_reference(isa, method, group_size):
    w = np.random.default_rng(2).standard_normal((37, 300)).astype(np.float32)
    w[:, 40:72] = 0
    packed, scales, _ = reference.quantize(w, "int2", group_size, method)
    q = binq.quantize(w, "int2", group_size=group_size, method=method)
    np.testing.assert_array_equal(q.packed, packed)
    np.testing.assert_array_equal(q.scales, scales)


def test_files_are_of_version_2(tmp_path):
    q = binq.quantize(np.eye(4), "int2")
    assert dump({"a": Description.of(q)}).startswith('{"version":2,')
    assert dump({"a": Description.of(binq.quantize(np.eye(4), "int4"))}).startswith('{"version":1,')
    binq.save_file({"a": q}, tmp_path / "m.safetensors")
    assert binq.load_file(tmp_path / "m.safetensors")["a"] == q
