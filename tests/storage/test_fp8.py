"""float8 weights as DeepSeek, Ministral, fbgemm and ModelOpt store them, and ModelOpt's NVFP4."""

import ml_dtypes
import numpy as np
import pytest
from checkpoints import models
from checkpoints.exactness import DOWN, check, refuse
from checkpoints.fixtures import BF16, F8, F32, FP4, Written, floats, integers, save, scales_of

from binq.errors import FormatError, UnsupportedFormatError
from binq.storage.small_floats import float8_values

SHAPE = (192, 320)
E8M0 = ml_dtypes.float8_e8m0fnu
KINDS = {
    "F8_E4M3": F8, "F8_E5M2": ml_dtypes.float8_e5m2,
    "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz, "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
}  # fmt: skip


def made(tmp_path, weights, scales, block, suffix="_scale_inv", parts=None, **settings):
    """Saves weights whose scale is that of their block; returns what they are."""
    values = weights.astype(F32)
    grid = scales.astype(F32).reshape(*weights.shape[:-2], *(-(-n // b) for n, b in
                                      zip(weights.shape[-2:], block, strict=True)))  # fmt: skip
    for place in np.ndindex(weights.shape):
        *lead, row, column = place
        values[place] *= grid[(*lead, row // block[0], column // block[1])]
    written = Written(tmp_path)
    written.packed(DOWN, values, {DOWN: weights, DOWN + suffix: scales, **(parts or {})})
    config = {"quant_method": "fp8", **settings}
    return save(written, {**models.QWEN3, "quantization_config": config})


def weights_of(shape=SHAPE, dtype=F8):
    return (5 * floats("w", shape)).astype(dtype)


@pytest.mark.parametrize("suffix", ["_scale_inv", "_scale"])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
@pytest.mark.parametrize("settings", [{"weight_block_size": None}, {}, {"fmt": "e4m3"}])
def test_one_scale_a_tensor(tmp_path, shape, suffix, settings):
    scales = scales_of("s", shape, F32)
    check(
        made(tmp_path, weights_of(), scales, SHAPE, suffix, activation_scheme="static", **settings)
    )


@pytest.mark.parametrize("method", ["fp8", "fbgemm_fp8", "modelopt"])
@pytest.mark.parametrize("shape", [(192,), (192, 1)])
def test_one_scale_a_row(tmp_path, shape, method):
    scales = scales_of("s", shape, F32)
    check(made(tmp_path, weights_of(), scales, (1, 320), "_scale", quant_method=method))


@pytest.mark.parametrize("settings", [{}, {"weight_block_size": [128, 128]}])
@pytest.mark.parametrize("dtype", [E8M0, F32, BF16])
def test_blocks_of_128_unless_it_is_said(tmp_path, settings, dtype):
    scales = np.exp2(integers("e", -9, 3, (2, 3))).astype(dtype)
    check(made(tmp_path, weights_of(), scales, (128, 128), scale_fmt="ue8m0", **settings))


def test_bytes_are_powers_of_two_where_it_is_said(tmp_path):
    powers = np.exp2(integers("e", -9, 3, (2, 3))).astype(E8M0)
    written = made(tmp_path, weights_of(), powers, (128, 128), scale_fmt="ue8m0")
    written.stored[DOWN + "_scale_inv"] = powers.view(np.uint8)
    settings = {"quant_method": "fp8", "scale_fmt": "ue8m0"}
    check(save(written, {**models.QWEN3, "quantization_config": settings}))


def test_blocks_of_the_size_that_is_said(tmp_path):
    scales = np.exp2(integers("e", -9, 3, (6, 10))).astype(E8M0)
    check(made(tmp_path, weights_of(), scales, (32, 32), weight_block_size=[32, 32]))


STACKS = [((3, 1, 1), (64, 96)), ((3,), (64, 96)), ((3, 64, 1), (1, 96)), ((3, 2, 3), (32, 32))]


@pytest.mark.parametrize(("shape", "block"), STACKS)
def test_stacks_have_scales_of_their_own(tmp_path, shape, block):
    scales = scales_of("s", shape, F32)
    settings = {"weight_block_size": [32, 32]}
    check(made(tmp_path, weights_of((3, 64, 96)), scales, block, **settings))


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_all_types_of_float8(kind):
    codes = np.arange(256, dtype=np.uint8)
    expected = codes.view(KINDS[kind]).astype(F32)
    np.testing.assert_array_equal(float8_values(codes, kind), expected)


def test_e5m2(tmp_path):
    weights = weights_of(dtype=ml_dtypes.float8_e5m2)
    check(made(tmp_path / "a", weights, scales_of("s", (1,), F32), SHAPE, fmt="e5m2"))
    check(made(tmp_path / "b", weights, scales_of("s", (1,), F32), SHAPE))


@pytest.mark.parametrize(
    ("scales", "suffix", "parts", "match"),
    [
        (np.ones((3, 3), F32), "_scale_inv", {}, r"expected \(2, 3\) for blocks of 128 by 128"),
        (np.ones((320,), F32), "_scale_inv", {}, "scales of shape"),
        (np.ones((1, 1, 1, 2), F32), "_scale_inv", {}, "scales of shape"),
        (np.ones((2, 3), np.uint8), "_scale_inv", {}, "expected scales of type"),
        (np.ones((1,), F32), "_scale", {DOWN + "_scale_inv": np.ones((1,), F32)}, " and "),
        (np.ones((1,), F32), "_other", {}, "has no .*_scale_inv"),
    ],
)  # fmt: skip
def test_scales_that_mean_nothing_are_refused(tmp_path, scales, suffix, parts, match):
    written = Written(tmp_path)
    written.stored = {DOWN: weights_of(), DOWN + suffix: scales, **parts}
    config = {**models.QWEN3, "quantization_config": {"quant_method": "fp8"}}
    refuse(save(written, config), (FormatError, UnsupportedFormatError), match)


def test_nvfp4_of_modelopt_multiplies(tmp_path):
    codes = integers("codes", 0, 15, (64, 256))
    scales = (100 * np.abs(floats("s", (64, 16)))).astype(F8)
    overall = np.array(0.0123, F32)
    written = Written(tmp_path)
    parts = {
        DOWN: (codes[:, 0::2] | codes[:, 1::2] << 4).astype(np.uint8),
        DOWN + "_scale": scales,
        DOWN + "_scale_2": overall,
        DOWN.replace("weight", "input_scale"): np.array(0.5, F32),
    }
    values = FP4[codes] * np.repeat(scales.astype(F32) * overall, 16, axis=-1)
    written.packed(DOWN, values, parts)
    written.values[DOWN.replace("weight", "input_scale")] = np.array(0.5, F32)
    config = {"quant_method": "modelopt", "quant_algo": "NVFP4"}
    check(save(written, {**models.QWEN3, "quantization_config": config}))
    del written.stored[DOWN + "_scale"]
    written.path = tmp_path / "broken"
    broken = save(written, {**models.QWEN3, "quantization_config": config})
    refuse(broken, FormatError, "and no .*weight_scale")
