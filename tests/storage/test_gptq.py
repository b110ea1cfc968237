"""GPTQ as its writers have stored it: zeros, labels, settings of single modules, column order."""

import json

import numpy as np
import pytest
from checkpoints import models
from checkpoints.exactness import DOWN, change, check, refuse
from checkpoints.fixtures import (
    BF16,
    F16,
    F32,
    Written,
    integers,
    pack_words,
    save,
    scales_of,
)

from binq.array.packing import Packing
from binq.errors import FormatError, UnsupportedFormatError
from binq.files.checkpoint import Checkpoint
from binq.models import logical_tensors

MODULE = DOWN.removesuffix(".weight")
ONES = {2: 0x55555555, 4: 0x11111111, 8: 0x01010101}
ROWS, COLUMNS = 64, 256
BASE = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False}


def packed_rows(codes, bits):
    """Codes (in, out), packed along the input axis."""
    return np.ascontiguousarray(pack_words(codes.T, bits).T).view(np.int32)


def fields(zeros, bits):
    """Zeros (groups, out), packed along the output axis: uint32 words of version 2."""
    return np.ascontiguousarray(pack_words(zeros, bits))


def weights(zeros, bits=4, group=128, order=None, module=MODULE, dtype=F16):
    """Returns (expected values, stored tensors); zeros (groups, out) are stored as version 2."""
    codes = integers(module, 0, (1 << bits) - 1, (COLUMNS, ROWS))
    scales = scales_of(module, zeros.shape, dtype)
    order = np.arange(COLUMNS) // group if order is None else order
    values = np.empty((ROWS, COLUMNS), F32)
    for column in range(COLUMNS):
        g = order[column]
        values[:, column] = scales[g].astype(F32) * (codes[column] - zeros[g]).astype(F32)
    parts = {
        f"{module}.qweight": packed_rows(codes, bits),
        f"{module}.qzeros": fields(zeros, bits).view(np.int32),
        f"{module}.scales": scales,
    }
    return values, parts


def made(tmp_path, values, parts, **settings):
    written = Written(tmp_path)
    written.packed(DOWN, values, parts)
    return save(written, {**models.QWEN3, "quantization_config": {**BASE, **settings}})


@pytest.mark.parametrize("stored", ["one less", "itself", "GPTQModel's 3 bits"])
@pytest.mark.parametrize("label", ["gptq", "gptq_v2", None])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_symmetric_zeros_are_the_middle_whatever_is_stored(tmp_path, bits, label, stored):
    values, parts = weights(np.full((2, ROWS), 1 << (bits - 1)), bits)
    words = parts[f"{MODULE}.qzeros"].view(np.uint32)
    if stored == "one less":
        words[:] = fields(np.full((2, ROWS), (1 << (bits - 1)) - 1), bits)
    elif stored != "itself":
        for place, word in enumerate((0x24924924, 0x92492492, 0x49249249)):
            words[:, place::3] -= np.uint32(word)
    labels = {} if label is None else {"checkpoint_format": label}
    found = check(made(tmp_path, values, parts, bits=bits, sym=True, **labels))
    assert (found.packing.format, found.packing.symmetric) == (f"int{bits}", True)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_zeros_of_version_1_are_words_less_ones_and_borrow(tmp_path, bits):
    zeros = integers("zeros", 0, (1 << bits) - 1, (2, ROWS))
    zeros[:, 3] = zeros[1, 8:12] = 0  # alone, and beside each other
    zeros[0, -1] = 0  # the highest of its word: borrows from nobody
    values, parts = weights(zeros, bits)
    parts[f"{MODULE}.qzeros"].view(np.uint32)[:] -= np.uint32(ONES[bits])
    found = check(made(tmp_path, values, parts, bits=bits, sym=False, checkpoint_format="gptq"))
    assert (found.packing.format, found.packing.symmetric) == (f"int{bits}", False)


def test_zeros_of_3_bits_wrap_around_alone(tmp_path):
    zeros = integers("zeros", 0, 7, (2, ROWS))
    values, parts = weights(zeros, 3)
    parts[f"{MODULE}.qzeros"] = fields((zeros - 1) & 7, 3).view(np.int32)
    settings = {"bits": 3, "sym": False, "checkpoint_format": "gptq"}
    check(made(tmp_path / "a", values, parts, **settings))
    for version in ("7.7.0", "10.0.1"):
        meta = {"quantizer": [f"gptqmodel:{version}"]}
        check(made(tmp_path / version, values, parts, **settings, meta=meta))
    meta = {"quantizer": ["gptqmodel:2.2.0"]}
    old = made(tmp_path / "old", values, parts, **settings, meta=meta)
    refuse(old, UnsupportedFormatError, "3-bit zero points .* gptqmodel:2.2.0")


@pytest.mark.parametrize(
    "keys", [("checkpoint_format",), ("format",), ("checkpoint_format", "format")]
)
def test_either_key_says_the_version(tmp_path, keys):
    values, parts = weights(integers("zeros", 0, 15, (2, ROWS)))
    check(made(tmp_path, values, parts, sym=False, **dict.fromkeys(keys, "gptq_v2")))


def test_keys_that_disagree_are_refused(tmp_path):
    values, parts = weights(integers("zeros", 1, 15, (2, ROWS)))
    written = made(tmp_path, values, parts, checkpoint_format="gptq", format="gptq_v2")
    refuse(written, FormatError, "checkpoint_format is 'gptq' and format 'gptq_v2'")


def test_without_sym_the_label_counts_unless_the_zeros_deny_it(tmp_path):
    zeros = integers("zeros", 1, 15, (2, ROWS))
    values, parts = weights(zeros)
    parts[f"{MODULE}.qzeros"] = fields(zeros - 1, 4).view(np.int32)
    check(made(tmp_path / "asymmetric", values, parts))
    values, parts = weights(np.full((2, ROWS), 8))
    with Checkpoint(made(tmp_path / "denied", values, parts).path) as source:
        (tensor,) = logical_tensors(source)
        with pytest.raises(UnsupportedFormatError, match=r"holds 8 throughout.*without sym"):
            tensor.read(source)
    check(made(tmp_path / "labelled", values, parts, checkpoint_format="gptq_v2"))
    parts[f"{MODULE}.qzeros"] = fields(np.full((2, ROWS), 7), 4).view(np.int32)
    assert check(made(tmp_path / "plain", values, parts)).packing.symmetric


@pytest.mark.parametrize("sym", [True, False])
@pytest.mark.parametrize("group", [32, 64, 128])
def test_activation_order_is_followed(tmp_path, group, sym):
    groups = COLUMNS // group
    order = np.random.default_rng(group).permutation(np.arange(COLUMNS) // group)
    zeros = np.full((groups, ROWS), 8) if sym else integers("z", 0, 15, (groups, ROWS))
    values, parts = weights(zeros, 4, group, order)
    parts[f"{MODULE}.g_idx"] = order.astype(np.int32)
    settings = {"sym": sym, "desc_act": True, "group_size": group, "checkpoint_format": "gptq_v2"}
    written = made(tmp_path, values, parts, **settings)
    assert check(written) is None  # groups that are mixed have no packed form
    with Checkpoint(written.path) as source:
        (tensor,) = logical_tensors(source)
        assert MODULE + ".g_idx" in tensor.stored
        part = tensor.read_rows(source, 0, 16, 40)
    np.testing.assert_array_equal(part, values[16:40])


@pytest.mark.parametrize("bad", [-1, 2])
def test_an_order_that_names_no_group_is_refused(tmp_path, bad):
    values, parts = weights(np.full((2, ROWS), 8))
    order = np.arange(COLUMNS, dtype=np.int32) // 128
    order[7] = bad
    parts[f"{MODULE}.g_idx"] = order
    refuse(made(tmp_path, values, parts, desc_act=True), FormatError, "g_idx.*expected 0 to 1")


def test_few_codes_tell_that_weights_have_more_than_two_bits(tmp_path, monkeypatch):
    values, parts = weights(integers("zeros", 1, 15, (2, ROWS)))
    written = made(tmp_path, values, parts, checkpoint_format="gptq_v2")
    check(written)
    with Checkpoint(written.path) as source:
        (tensor,) = (t for t in logical_tensors(source) if t.name == DOWN)
        monkeypatch.setattr(type(tensor.storage), "read_codes", None)
        assert tensor.exact_format(source).packing.format == "int4"


@pytest.mark.parametrize("pattern", [r"+:.*\.down_proj.*", r".*\.down_proj$", r"model\.layers\.0"])
def test_dynamic_has_settings_of_single_modules(tmp_path, pattern):
    values, parts = weights(np.full((4, ROWS), 128), 8, 64)
    up = "model.layers.1.mlp.up_proj"
    others, more = weights(np.full((2, ROWS), 8), module=up)
    written = Written(tmp_path)
    written.packed(DOWN, values, parts)
    written.packed(f"{up}.weight", others, more)
    dynamic = {"-:.*gate.*": {}, pattern: {"bits": 8, "group_size": 64}, "+:.*": {}}
    settings = {**BASE, "sym": True, "dynamic": dynamic}
    found = check(save(written, {**models.QWEN3, "quantization_config": settings}))
    assert str(found.packing) == "int8 g64"


@pytest.mark.parametrize(
    ("dynamic", "error", "match"),
    [
        ({"-:.*down.*": {}}, FormatError, "dynamic excludes .*down_proj"),
        ({"+:.*down.*": 8}, FormatError, "is 8"),
        (["+:.*"], FormatError, "dynamic is"),
        ({"+:(": {}}, UnsupportedFormatError, "dynamic has the pattern"),
        ({"+:.*": {"bits": 5}}, UnsupportedFormatError, "GPTQ weights of 5 bits"),
    ],
)
def test_dynamic_of_other_kinds_is_refused(tmp_path, dynamic, error, match):
    values, parts = weights(np.full((2, ROWS), 8))
    refuse(made(tmp_path, values, parts, dynamic=dynamic), error, match)


def test_scales_may_be_bfloat16(tmp_path):
    values, parts = weights(np.full((2, ROWS), 8), dtype=BF16)
    check(made(tmp_path, values, parts, sym=True))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("group", [32, 128])
@pytest.mark.parametrize("version", [1, 2])
def test_gptq(tmp_path, bits, group, version):
    found = check(models.gptq_model(tmp_path, bits, group, version))
    assert found.packing == Packing(f"int{bits}", group, "code")


def test_symmetric_gptq_is_symmetric_int4(tmp_path):
    found = check(models.gptq_model(tmp_path, zero=8))
    assert (found.packing.format, found.packing.group_size, found.packing.symmetric) == (
        "int4",
        128,
        True,
    )


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"checkpoint_format": "marlin"}, UnsupportedFormatError, "checkpoint_format 'marlin'"),
        ({"bits": 5}, UnsupportedFormatError, "GPTQ weights of 5 bits"),
        ({"bits": 4.0}, UnsupportedFormatError, "GPTQ weights of 4.0 bits"),
        ({"desc_act": "yes"}, FormatError, "desc_act is 'yes'"),
        ({"sym": "true"}, FormatError, "sym is 'true'"),
        ({"group_size": 64}, FormatError, "not GPTQ weights of 4 bits in groups of 64"),
        ({"group_size": "all"}, FormatError, "group_size is 'all'"),
        ({"quant_method": "hqq"}, UnsupportedFormatError, "quantization method 'hqq'"),
    ],
)
def test_gptq_of_other_kinds_is_refused(tmp_path, settings, error, match):
    written = models.gptq_model(tmp_path)
    change(written, **settings)
    refuse(written, error, match)


def test_activation_order_without_an_order_is_refused(tmp_path):
    written = models.gptq_model(tmp_path)
    change(written, desc_act=True)
    check(written)  # its indices are those of columns in their own order
    del written.stored[DOWN.replace("weight", "g_idx")]
    config = json.loads((tmp_path / "config.json").read_text())
    refuse(save(written, config), FormatError, "desc_act is true and .* has no g_idx")
