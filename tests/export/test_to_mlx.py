"""To MLX and back: the same values, float32 scales, settings that say what each module has."""

import json

import numpy as np
import pytest
from checkpoints.exported import same_weights

import binq
from binq import storage
from binq.storage import bits

UP = "model.layers.0.mlp.up_proj"
CASES = [
    ("binary", {"group_size": 32}, 1, 32),
    ("binary", {}, 1, 128),
    ("binary", {"symmetric": False}, 1, 128),
    ("ternary", {"group_size": 256}, 2, 128),
    ("int2", {"group_size": 64}, 2, 64),
    ("int2", {"symmetric": False}, 2, 128),
    ("int2", {"symmetric": False, "zero": "code", "group_size": 32}, 2, 32),
    ("int3", {}, 3, 128),
    ("int3", {"symmetric": False, "zero": "code"}, 3, 128),
    ("int3", {"symmetric": False, "group_size": 32}, 3, 32),
    ("mxfp4", {"group_size": 32}, 4, 32),
    ("int4", {}, 4, 128),
    ("int4", {"group_size": None}, 4, 128),
    ("int4", {"symmetric": False, "group_size": 32}, 4, 32),
    ("int4", {"symmetric": False, "zero": "offset"}, 4, 128),
    ("int8", {}, 8, 128),
    ("int8", {"symmetric": False, "group_size": 32}, 8, 32),
    ("int8", {"symmetric": False, "zero": "offset"}, 8, 128),
]


def settings_of(folder):
    config = json.loads((folder / "config.json").read_text())
    assert config["quantization"] == config["quantization_config"]
    return config["quantization"]


@pytest.mark.parametrize(("format", "settings", "width", "group"), CASES, ids=str)
def test_values_survive(packed, tmp_path, format, settings, width, group):
    source = packed(format, **settings)
    binq.export_checkpoint(source, tmp_path / "out", to="mlx")
    found = settings_of(tmp_path / "out")
    mode = "mxfp4" if format == "mxfp4" else "affine"
    assert found == {"group_size": group, "bits": width, "mode": mode}
    assert same_weights(source, tmp_path / "out")
    with binq.load(tmp_path / "out") as tensors:
        assert tensors.metadata["format"] == "mlx"


def test_bytes_of_one_matrix(packed, tmp_path):
    source = packed("int4", group_size=64)
    binq.export_checkpoint(source, tmp_path / "out", to="mlx")
    stored = binq.load_file(tmp_path / "out" / "model.safetensors")
    q = binq.load(source)[f"{UP}.weight"]
    words, scales, biases = (stored[f"{UP}.{part}"] for part in ("weight", "scales", "biases"))
    assert (words.dtype, words.shape) == (np.uint32, (512, 32))
    assert scales.dtype == biases.dtype == np.float32
    codes = bits.unpack(words, 4, 256).astype(np.float32)
    each = np.repeat(scales, 64, axis=1) * codes + np.repeat(biases, 64, axis=1)
    assert np.array_equal(each, q.dequantize())
    assert np.array_equal(biases, -8 * q.group_scales().astype(np.float32))


def test_modules_that_are_packed_otherwise_have_settings_of_their_own(packed, tmp_path):
    rules = ["*.down_proj.weight=ternary:g64", "*.v_proj.weight=keep"]
    source = packed("int4", rules=rules, embeddings="int4:g32")
    binq.export_checkpoint(source, tmp_path / "out", to="mlx")
    found = settings_of(tmp_path / "out")
    assert found["model.layers.1.mlp.down_proj"] == {
        "group_size": 64,
        "bits": 2,
        "mode": "affine",
    }
    assert found["model.embed_tokens"]["group_size"] == 32
    assert not any("v_proj" in key for key in found)
    assert same_weights(source, tmp_path / "out")


def test_a_ragged_last_group_becomes_smaller_groups(tmp_path):
    q = binq.quantize(np.random.default_rng(0).standard_normal((64, 192)), "int4")
    for form in ("mlx", "compressed-tensors"):
        binq.save_file({f"{UP}.weight": q}, tmp_path / "m.safetensors")
        binq.export_checkpoint(tmp_path / "m.safetensors", tmp_path / form, to=form)
        read = binq.load(tmp_path / form)[f"{UP}.weight"]
        assert read.group_size == 64
        assert np.array_equal(read.dequantize(), q.dequantize())


@pytest.mark.parametrize(
    ("weights", "name", "text"),
    [
        (binq.quantize(np.ones((32, 64)), "iq4nl"), UP, "weights of format 'iq4nl'"),
        (
            binq.quantize(np.full((32, 64), 0.1), "mxfp4", scale_dtype="float16"),
            UP,
            "powers of two",
        ),
        (binq.quantize(np.ones((32, 48)), "int4"), UP, "rows of 48 in whole groups of 32"),
        (binq.quantize(np.ones((2, 32, 64)), "int4"), UP, "a stack of matrices"),
        (binq.quantize(np.ones((32, 64)), "int4"), "experts.up_proj", "does not end in .weight"),
        (
            binq.quantize(np.full((32, 64), 1e-9 / 3), "int4", scale_dtype="float32"),
            UP,
            "float32 scales of more than 16 bits",
        ),
        (
            binq.quantize(
                np.random.default_rng(0).standard_normal((32, 64)),
                "binary",
                symmetric=False,
                scale_dtype="float32",
            ),
            UP,
            "round a level",
        ),
    ],
)
def test_refusals(weights, name, text):
    scheme = storage.get("mlx")
    name = name if name.startswith("experts") else f"{name}.weight"
    with pytest.raises(binq.UnsupportedFormatError, match=text):
        scheme.check(name, weights)
    with pytest.raises(binq.UnsupportedFormatError, match=text):
        scheme.write(name, weights)


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("parts", [("gate_proj", "up_proj", "down_proj"), ("w1", "w3", "w2")])
def test_experts_become_stacks(tmp_path, parts, kept):
    rng = np.random.default_rng(0)
    experts = {}
    for part in parts:
        for expert in range(11):  # 10 comes behind 9
            w = rng.standard_normal((64, 128)).astype(np.float32)
            name = f"model.layers.0.mlp.experts.{expert}.{part}.weight"
            experts[name] = w if kept else binq.quantize(w, "int4", group_size=32)
    other = {f"{UP}.weight": binq.quantize(rng.standard_normal((64, 128)), "int4", group_size=32)}
    binq.save_file(experts | other, tmp_path / "m.safetensors")
    binq.export_checkpoint(tmp_path / "m.safetensors", tmp_path / "out", to="mlx")
    found = binq.load(tmp_path / "out")
    assert len(found) == 4
    for part, kind in zip(parts, ("gate_proj", "up_proj", "down_proj"), strict=True):
        stacked = found[f"model.layers.0.mlp.switch_mlp.{kind}.weight"]
        for expert in range(11):
            before = experts[f"model.layers.0.mlp.experts.{expert}.{part}.weight"]
            assert np.array_equal(np.asarray(stacked[expert]), np.asarray(before))


def test_experts_that_are_no_stack_are_refused(tmp_path):
    w = np.random.default_rng(0).standard_normal((64, 128))
    names = [f"model.layers.0.mlp.experts.{expert}.up_proj.weight" for expert in range(3)]
    tensors = dict.fromkeys(names, binq.quantize(w, "int4"))
    for changed in ({names[1]: binq.quantize(w, "ternary")}, {names[1]: w.astype(np.float32)}):
        binq.save_file(tensors | changed, tmp_path / "m.safetensors")
        with pytest.raises(binq.UnsupportedFormatError, match="experts of a layer in one tensor"):
            binq.export_checkpoint(tmp_path / "m.safetensors", tmp_path / "out", to="mlx")
    del tensors[names[1]]
    binq.save_file(tensors, tmp_path / "m.safetensors")
    with pytest.raises(binq.UnsupportedFormatError, match=r"these are \[0, 2\]"):
        binq.export_checkpoint(tmp_path / "m.safetensors", tmp_path / "out", to="mlx")


def fused(tmp_path, kind, rules=()):
    """Packs two experts of one tensor, as GPT-OSS and Gemma 4 have them; returns both forms."""
    rng = np.random.default_rng(0)
    layer = "model.layers.0.mlp" if kind == "gpt_oss" else "model.language_model.layers.0"
    shapes = {"gate_up_proj": (2, 96, 64), "down_proj": (2, 64, 64)}
    if kind == "gpt_oss":  # (in_features, out_features), and biases
        shapes = {"gate_up_proj": (2, 64, 96), "gate_up_proj_bias": (2, 96)}
        shapes |= {"down_proj": (2, 64, 64), "down_proj_bias": (2, 64)}
    tensors = {
        f"{layer}.experts.{name}": rng.standard_normal(shape).astype(np.float32)
        for name, shape in shapes.items()
    }
    (tmp_path / "src").mkdir()
    binq.save_file(tensors, tmp_path / "src" / "model.safetensors")
    config = {"model_type": kind, "text_config": {"model_type": "gemma4_text"}}
    if kind == "gpt_oss":
        del config["text_config"]
    (tmp_path / "src" / "config.json").write_text(json.dumps(config))
    packed = tmp_path / "packed"
    binq.quantize_checkpoint(tmp_path / "src", packed, "int4", group_size=32, rules=list(rules))
    return packed, layer


@pytest.mark.parametrize("kind", ["gpt_oss", "gemma4"])
def test_experts_of_one_tensor_are_taken_apart(tmp_path, kind):
    packed, layer = fused(tmp_path, kind)
    binq.export_checkpoint(packed, tmp_path / "out", to="mlx")
    stored = binq.load_file(tmp_path / "out" / "model.safetensors")
    before = binq.load(packed)
    gate_up = before[f"{layer}.experts.gate_up_proj"].dequantize()
    assert gate_up.shape == (2, 96, 64)
    turns = kind == "gpt_oss"
    at = f"{layer}.experts" if turns else f"{layer}.experts.switch_glu"
    for part, rows in (
        ("gate_proj", gate_up[:, 0::2] if turns else gate_up[:, :48]),
        ("up_proj", gate_up[:, 1::2] if turns else gate_up[:, 48:]),
        ("down_proj", before[f"{layer}.experts.down_proj"].dequantize()),
    ):
        words, scales, biases = (
            stored[f"{at}.{part}.{end}"] for end in ("weight", "scales", "biases")
        )
        codes = bits.unpack(words, 4, 64).astype(np.float32)
        values = np.repeat(scales, 32, axis=-1) * codes + np.repeat(biases, 32, axis=-1)
        assert np.array_equal(values, rows)
        assert (f"{at}.{part}.bias" in stored) == turns
    if turns:
        bias = np.asarray(before[f"{layer}.experts.gate_up_proj_bias"])
        assert np.array_equal(stored[f"{at}.up_proj.bias"], bias[:, 1::2])
        assert np.array_equal(stored[f"{at}.gate_proj.bias"], bias[:, 0::2])


def test_experts_of_one_tensor_are_all_packed_or_none(tmp_path):
    packed, _ = fused(tmp_path, "gpt_oss", ["*.down_proj=keep"])
    with pytest.raises(binq.UnsupportedFormatError, match="down_proj is not packed and other"):
        binq.export_checkpoint(packed, tmp_path / "out", to="mlx")
