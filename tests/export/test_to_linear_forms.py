"""To GPTQ, AWQ and BitNet and back: the same codes, scales and values."""

import json
import shutil

import numpy as np
import pytest
from checkpoints.exported import same_weights

import binq

UP = "model.layers.0.mlp.up_proj.weight"


def settings_of(folder):
    return json.loads((folder / "config.json").read_text())["quantization_config"]


def again(folder, back):
    """Returns one matrix as binq packs what was exported, without loss."""
    report = binq.quantize_checkpoint(folder, back, "int8")
    exact = [t for t in report.tensors if t.format.endswith("exact")]
    assert len(exact) == 14
    with binq.load(back) as tensors:
        return tensors[UP]


@pytest.mark.parametrize("group_size", [32, 64, 128, 256, None])
@pytest.mark.parametrize(
    ("format", "symmetric"),
    [
        ("int4", True),
        ("int4", False),
        ("int8", True),
        ("int8", False),
        ("int3", True),
        ("int3", False),
        ("int2", True),
        ("int2", False),
        ("ternary", True),
        ("binary", True),
    ],
)
def test_to_gptq(packed, tmp_path, format, symmetric, group_size):
    zero = None if symmetric else "code"
    source = packed(format, symmetric=symmetric, zero=zero, group_size=group_size)
    out = tmp_path / "out"
    binq.export_checkpoint(source, out, to="gptq")
    assert same_weights(source, out)
    settings = settings_of(out)
    assert settings["bits"] == {"int8": 8, "int4": 4, "int3": 3}.get(format, 2)
    assert settings["group_size"] == (group_size or -1)
    assert settings["sym"] is symmetric
    assert settings["checkpoint_format"] == ("gptq" if symmetric else "gptq_v2")
    one, other = binq.load(source)[UP], again(out, tmp_path / "back")
    assert one.format == other.format
    assert np.array_equal(one.codes(), other.codes())
    assert np.array_equal(one.group_scales(), other.group_scales())
    if not symmetric:
        assert np.array_equal(one.group_zero_points(), other.group_zero_points())


def test_to_gptq_of_several_kinds(packed, tmp_path):
    rules = ["*.down_proj.weight=ternary:g64", "*.v_proj.weight=keep"]
    source = packed("int4", symmetric=False, rules=rules)
    report = binq.export_checkpoint(source, tmp_path / "out", to="gptq")
    assert same_weights(source, tmp_path / "out")
    settings = settings_of(tmp_path / "out")
    assert (settings["bits"], settings["sym"]) == (4, False)
    down = r"+:^model\.layers\.0\.mlp\.down_proj$"
    assert settings["dynamic"][down] == {"bits": 2, "group_size": 64, "sym": True}
    assert settings["dynamic"][r"-:^model\.layers\.1\.self_attn\.v_proj$"] == {}
    (tails,) = settings["modules_in_block_to_quantize"]
    assert "self_attn.q_proj" in tails
    assert "self_attn.v_proj" not in tails
    assert "transformers (5.24) does not" in " ".join(report.notes)


@pytest.mark.parametrize("group_size", [32, 64, 128, 256, None])
@pytest.mark.parametrize(
    ("format", "symmetric"),
    [
        ("int4", True),
        ("int4", False),
        ("ternary", True),
        ("int3", True),
        ("int3", False),
        ("int2", False),
    ],
)
def test_to_awq(packed, tmp_path, format, symmetric, group_size):
    zero = None if symmetric else "code"
    source = packed(format, symmetric=symmetric, zero=zero, group_size=group_size)
    out = tmp_path / "out"
    binq.export_checkpoint(source, out, to="awq")
    assert same_weights(source, out)
    settings = settings_of(out)
    assert settings["group_size"] == (-1 if group_size is None else min(group_size, 128))
    assert settings["modules_to_not_convert"] == ["lm_head"]
    again(out, tmp_path / "back")


def test_to_awq_of_several_groups(packed, tmp_path):
    rules = ["*.down_proj.weight=int4:g32", "*.v_proj.weight=keep"]
    source = packed("int4", rules=rules)
    binq.export_checkpoint(source, tmp_path / "out", to="awq")
    assert same_weights(source, tmp_path / "out")
    settings = settings_of(tmp_path / "out")
    assert settings["group_size"] == 32
    assert "model.layers.1.self_attn.v_proj" in settings["modules_to_not_convert"]


def test_a_packed_head_goes_to_gptq_alone(packed, tmp_path):
    source = packed("int4", rules=["lm_head.weight=int4"])
    report = binq.export_checkpoint(source, tmp_path / "out", to="gptq")
    assert settings_of(tmp_path / "out")["lm_head"] is True
    assert "lm_head is packed" in " ".join(report.notes)
    assert same_weights(source, tmp_path / "out")
    with pytest.raises(
        binq.UnsupportedFormatError, match=r"lm_head\.weight: AWQ cannot hold lm_head"
    ):
        binq.export_checkpoint(source, tmp_path / "awq", to="awq")


@pytest.fixture
def one_scale(packed, tmp_path):
    """A packed folder whose ternary weights have one scale a matrix."""
    folder = packed("ternary", group_size=None)
    made = {}
    with binq.load(folder) as tensors:
        for name, tensor in tensors.items():
            if isinstance(tensor, binq.QuantizedArray):
                scales = np.full((len(tensor), 1), np.float32(tensor.group_scales().mean()))
                made[name] = binq.QuantizedArray.from_codes(
                    tensor.codes(), scales, format="ternary", group_size=None
                )
            else:
                made[name] = np.array(tensor)
    one = tmp_path / "one"
    one.mkdir()
    binq.save_file(made, one / "model.safetensors")
    shutil.copy(folder / "config.json", one)
    return one


def test_to_bitnet(one_scale, tmp_path):
    report = binq.export_checkpoint(one_scale, tmp_path / "out", to="bitnet")
    assert "8 bits" in " ".join(report.notes)
    settings = settings_of(tmp_path / "out")
    assert settings["linear_class"] == "autobitlinear"
    assert settings["modules_to_not_convert"] == ["lm_head"]
    assert same_weights(one_scale, tmp_path / "out")
    assert again(tmp_path / "out", tmp_path / "back") == binq.load(one_scale)[UP]


def test_scales_that_differ_are_refused_before_anything_is_written(packed, tmp_path):
    with pytest.raises(binq.UnsupportedFormatError, match="14 of the packed weights"):
        binq.export_checkpoint(packed("ternary"), tmp_path / "out", to="bitnet")
    assert not (tmp_path / "out").exists()
