"""Floats as they are stored: exact, and recognised where they hold few levels."""

import json

import ml_dtypes
import numpy as np
import pytest
from checkpoints import models
from checkpoints.exactness import DOWN, check, refuse
from checkpoints.fixtures import (
    BF16,
    F16,
    F32,
    Written,
    by_group,
    integers,
    save,
    scales_of,
)

from binq.errors import FormatError
from binq.files.checkpoint import Checkpoint
from binq.models import logical_tensors


def test_a_scale_beside_a_plain_weight_is_refused(tmp_path):
    written = models.deepseek(tmp_path)
    name = "model.layers.0.self_attn.o_proj.weight"
    written.stored[name] = written.values[name].astype(BF16)
    (tmp_path / "model.safetensors.index.json").unlink()
    config = json.loads((tmp_path / "config.json").read_text())
    match = "o_proj.weight_scale_inv' would scale .*, which is plain BF16"
    refuse(save(written, config), FormatError, match)


@pytest.mark.parametrize("dtype", [BF16, F16, F32])
def test_plain_floats(tmp_path, dtype):
    assert check(models.qwen3(tmp_path, dtype)) is None


@pytest.mark.parametrize("group", [32, 64, 128, 256, None])
@pytest.mark.parametrize("format", ["binary", "ternary"])
@pytest.mark.parametrize("columns", [512, 500])
def test_floats_of_few_levels_are_recognised(tmp_path, group, format, columns):
    written = Written(tmp_path)
    codes = integers("codes", -1, 1, (40, columns))
    if format == "binary":
        codes = np.where(codes == 0, 1, codes)
    groups = 1 if group is None else -(-columns // group)
    values = codes * by_group(scales_of("s", (40, groups)), group or columns, columns)
    written.put(DOWN, values.astype(F16))
    found = check(save(written, models.QWEN3))
    assert (found.packing.format, found.packing.group_size) == (format, group)


def test_zeros_alone_are_no_two_levels(tmp_path):
    written = Written(tmp_path)
    written.put(DOWN, np.zeros((64, 256), F16))
    assert check(save(written, models.QWEN3)) is None


def test_input_major_floats_of_two_levels_are_recognised(tmp_path):
    written = Written(tmp_path)
    name = "language_model.model.layers.0.feed_forward.experts.down_proj"
    signs = 2 * integers("signs", 0, 1, (2, 64, 256)) - 1
    values = (signs * np.repeat(scales_of("s", (2, 64, 2)), 128, axis=2)).astype(F16)
    stored = np.ascontiguousarray(values.swapaxes(1, 2))
    written.packed(name, values, {name: stored})
    with Checkpoint(save(written, {"model_type": "llama4"}).path) as source:
        (tensor,) = logical_tensors(source)
        found = tensor.exact_format(source)
        assert (found.packing.format, found.packing.group_size) == ("binary", 128)
        packed = tensor.exact_rows(source, found, 1, 0, 64)
        np.testing.assert_array_equal(packed.dequantize(), values[1].astype(F32))


def test_one_other_value_is_no_longer_two_levels(tmp_path):
    written = models.bonsai_unpacked(tmp_path)
    written.put(DOWN, written.stored[DOWN])
    written.stored[DOWN][200, 300] *= F16(0.5)
    written.values[DOWN] = written.stored[DOWN].astype(F32)
    assert check(save(written, models.QWEN3)) is None


def test_scales_outside_float16_keep_their_type(tmp_path):
    written = Written(tmp_path)
    signs = (2 * integers("codes", 0, 1, (64, 128)) - 1).astype(F32)
    signs[40] *= F32(1e-9)
    written.put(DOWN, signs.astype(BF16))
    assert check(save(written, models.QWEN3)).scale_dtype == "bfloat16"
    with Checkpoint(tmp_path) as source:
        (tensor,) = logical_tensors(source)
        found = tensor.exact_format(source)
        assert tensor.exact_rows(source, found, 0, 0, 32).scales.dtype == ml_dtypes.bfloat16
