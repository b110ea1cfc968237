"""To compressed-tensors and back: the same codes, scales and values."""

import json

import numpy as np
import pytest
from checkpoints.exported import same_weights

import binq
from binq.storage import bits, compressed_writer

FORM = "compressed-tensors"
UP = "model.layers.0.mlp.up_proj"


@pytest.mark.parametrize("group_size", [32, 64, 128, 256, None])
@pytest.mark.parametrize(
    ("format", "symmetric"),
    [
        ("int4", True),
        ("int4", False),
        ("int8", True),
        ("int8", False),
        ("int2", False),
        ("int3", False),
        ("ternary", True),
        ("binary", True),
    ],
)
def test_values_survive(packed, tmp_path, format, symmetric, group_size):
    zero = None if symmetric else "code"
    source = packed(format, symmetric=symmetric, zero=zero, group_size=group_size)
    binq.export_checkpoint(source, tmp_path / "out", to=FORM)
    assert same_weights(source, tmp_path / "out")
    binq.quantize_checkpoint(tmp_path / "out", tmp_path / "back", "int8")
    with binq.load(source) as before, binq.load(tmp_path / "back") as after:
        one, other = before[f"{UP}.weight"], after[f"{UP}.weight"]
        assert one.format == other.format
        assert np.array_equal(one.codes(), other.codes())
        assert np.array_equal(one.group_scales(), other.group_scales())
        assert (one.zero_points is None) == (other.zero_points is None)


@pytest.mark.parametrize("format", ["int2", "int3", "mxfp4"])
@pytest.mark.parametrize("group_size", [32, 128])
def test_other_formats(packed, tmp_path, format, group_size):
    source = packed(format, group_size=group_size)
    binq.export_checkpoint(source, tmp_path / "out", to=FORM)
    assert same_weights(source, tmp_path / "out")


def test_integers_and_floats_side_by_side(packed, tmp_path):
    source = packed("int4", rules=["*.down_proj.weight=mxfp4:g32"])
    binq.export_checkpoint(source, tmp_path / "out", to=FORM)
    settings = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert settings["format"] == "mixed-precision"
    formats = {group["format"] for group in settings["config_groups"].values()}
    assert formats == {"pack-quantized", "mxfp4-pack-quantized"}
    assert same_weights(source, tmp_path / "out")


def test_bytes_of_one_matrix(packed, tmp_path):
    source = packed("int4", symmetric=False, group_size=64)
    binq.export_checkpoint(source, tmp_path / "out", to=FORM)
    stored = binq.load_file(tmp_path / "out" / "model.safetensors")
    q = binq.load(source)[f"{UP}.weight"]
    codes = bits.unpack(stored[f"{UP}.weight_packed"].view(np.uint32), 4, 256)
    assert np.array_equal(codes, q.codes())
    assert np.array_equal(stored[f"{UP}.weight_scale"], q.group_scales())
    assert stored[f"{UP}.weight_shape"].tolist() == [512, 256]
    zeros = stored[f"{UP}.weight_zero_point"].view(np.uint32)
    assert zeros.shape == (64, 4)
    assert np.array_equal(
        bits.unpack(np.ascontiguousarray(zeros.T), 4, 512).T, q.group_zero_points()
    )


def test_kept_layers_are_ignored_and_several_packings_named(packed, tmp_path):
    down = "*.down_proj.weight"
    source = packed("int4", rules=[f"{down}=ternary:g64", "*.v_proj.weight=keep"])
    binq.export_checkpoint(source, tmp_path / "out", to=FORM)
    settings = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert {"lm_head", "model.layers.0.self_attn.v_proj"} < set(settings["ignore"])
    groups = settings["config_groups"].values()
    by_bits = {group["weights"]["num_bits"]: group["targets"] for group in groups}
    assert by_bits[2] == [r"re:.*layers\.[0-9]+\.mlp\.down_proj$"]
    assert len(by_bits[4]) == 5
    assert same_weights(source, tmp_path / "out")


def test_embeddings_are_named_beside_all_linear_layers(packed, tmp_path):
    source = packed("int4", embeddings="int4")
    report = binq.export_checkpoint(source, tmp_path / "out", to=FORM)
    assert "model.embed_tokens is packed" in report.notes[0]
    settings = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    (group,) = settings["config_groups"].values()
    assert group["targets"] == ["Linear", "model.embed_tokens"]
    assert settings["ignore"] == []
    assert same_weights(source, tmp_path / "out")


def test_modules_are_named_as_the_text_model_alone_names_them_too():
    q = binq.quantize(np.ones((32, 128), np.float32), "int4")
    other = binq.quantize(np.ones((32, 128), np.float32), "ternary")
    inside = "model.language_model.layers.0"
    kept = [f"{inside}.linear_attn.in_proj_a.weight", "model.visual.merger.fc.weight"]
    settings = compressed_writer.settings({f"{inside}.mlp.up_proj.weight": q}, kept)
    assert settings["ignore"] == [
        "lm_head",
        "model.language_model.layers.0.linear_attn.in_proj_a",
        "model.layers.0.linear_attn.in_proj_a",
        "model.visual.merger.fc",
    ]
    both = {f"{inside}.mlp.up_proj.weight": q, f"{inside}.mlp.down_proj.weight": other}
    # Where a pattern would match other layers too, modules are named.
    others = ["mtp.layers.0.mlp.up_proj.weight"]
    up, down = compressed_writer.settings(both, others)["config_groups"].values()
    assert up["targets"] == [f"{inside}.mlp.up_proj", "model.layers.0.mlp.up_proj"]
    assert down["targets"] == [r"re:.*layers\.[0-9]+\.mlp\.down_proj$"]
