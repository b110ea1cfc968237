"""AutoRound's names for the tensors of GPTQ and AWQ."""

import numpy as np
import pytest
from checkpoints import models
from checkpoints.exactness import DOWN, check, refuse
from checkpoints.fixtures import F32, Written, awq, integers, pack_words, save, scales_of

from binq.errors import FormatError, UnsupportedFormatError

MODULE = DOWN.removesuffix(".weight")
UP = "model.layers.0.mlp.up_proj"
BASE = {
    "quant_method": "auto-round",
    "bits": 4,
    "group_size": 128,
    "sym": False,
    "data_type": "int",
}


def add(written, module, bits, group, less, zeros=None):
    """Adds (64, 256) weights whose stored zeros are ``less`` less than they are."""
    codes = integers(module, 0, (1 << bits) - 1, (256, 64))
    groups = 256 // group
    if zeros is None:
        zeros = integers(module + "z", 1, (1 << bits) - 1, (groups, 64))
    scales = scales_of(module, zeros.shape)
    wide = np.arange(256) // group
    values = (codes - zeros[wide]).astype(F32) * scales[wide].astype(F32)
    parts = {
        f"{module}.qweight": np.ascontiguousarray(pack_words(codes.T, bits).T).view(np.int32),
        f"{module}.qzeros": np.ascontiguousarray(pack_words(zeros - less, bits)).view(np.int32),
        f"{module}.scales": scales,
    }
    written.packed(f"{module}.weight", values.T, parts)


def saved(written, **settings):
    return save(written, {**models.QWEN3, "quantization_config": {**BASE, **settings}})


@pytest.mark.parametrize("method", ["auto-round", "intel/auto-round"])
@pytest.mark.parametrize(
    ("settings", "less"),
    [
        ({"packing_format": "auto_round:auto_gptq"}, 1),
        ({"packing_format": "auto_round:gptqmodel"}, 0),
        ({"packing_format": "auto_round"}, 0),
        ({"backend": "auto_round:auto_gptq"}, 1),
        ({}, 0),
    ],
)
def test_zeros_are_those_of_the_packing_format(tmp_path, settings, less, method):
    written = Written(tmp_path)
    add(written, MODULE, 4, 128, less)
    check(saved(written, quant_method=method, **settings))


@pytest.mark.parametrize("less", [0, 1])
def test_symmetric_zeros_are_the_middle(tmp_path, less):
    written = Written(tmp_path)
    add(written, MODULE, 4, 128, less, np.full((2, 64), 8))
    check(saved(written, sym=True, packing_format="auto_round:auto_gptq"))


@pytest.mark.parametrize("packing", ["auto_round:auto_awq", "auto_round:awq"])
def test_awq(tmp_path, packing):
    written = Written(tmp_path)
    awq(written, MODULE, (64, 256), 128)
    check(saved(written, packing_format=packing))


@pytest.mark.parametrize("key", [MODULE, ".*down_proj", "down_proj"])
def test_settings_of_single_modules(tmp_path, key):
    written = Written(tmp_path)
    add(written, MODULE, 8, 64, 0)
    add(written, UP, 4, 128, 0)
    extra = {"model.embed_tokens": {"bits": 16}, key: {"bits": 8, "group_size": 64}}
    check(saved(written, extra_config=extra))


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"packing_format": "auto_round:llm_compressor"}, UnsupportedFormatError, "llm_compressor"),
        ({"data_type": "mx_fp"}, UnsupportedFormatError, "data_type 'mx_fp'"),
        ({"extra_config": [1]}, FormatError, "extra_config"),
        ({"extra_config": {"a": 1}}, FormatError, "extra_config"),
    ],
)
def test_other_kinds_are_refused(tmp_path, settings, error, match):
    written = Written(tmp_path)
    add(written, MODULE, 4, 128, 0)
    refuse(saved(written, **settings), error, match)
