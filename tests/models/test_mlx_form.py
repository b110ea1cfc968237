"""What MLX stores in a form of its own comes out in the form that the names stand for."""

import json

import numpy as np
import pytest
from checkpoints.exactness import refuse
from checkpoints.fixtures import BF16, F16, F32, Written, floats, integers, mlx_affine, save

import binq
from binq.convert.verify import verify
from binq.errors import FormatError, UnsupportedFormatError
from binq.files.checkpoint import Checkpoint
from binq.models import logical_tensors

LAYER = "model.layers.0"
NORMS = (
    f"{LAYER}.input_layernorm.weight", f"{LAYER}.post_attention_layernorm.weight",
    "model.layers.1.self_attn.q_norm.weight", "model.layers.1.self_attn.k_norm.weight",
    "model.norm.weight",
)  # fmt: skip
CONV = f"{LAYER}.linear_attn.conv1d.weight"
OWN_NORM = f"{LAYER}.linear_attn.norm.weight"
CONFIG = {"model_type": "qwen3_5_text", "hidden_size": 256}
MLX = {"quantization": {"group_size": 64, "bits": 4}}
BLOCKS = "model.visual.blocks.0.norm1.weight"


def norm(name, dtype):
    """Norms whose sum with 1, and whose difference again, no rounding changes."""
    return (np.round(np.clip(floats(name, (64,)) * 20, -60, 60)) / 128).astype(dtype)


def model(folder, mlx, *, packed=False, config=CONFIG, dtype=BF16, format="pt", extra=None):
    """Returns the model as Hugging Face has it, stored as MLX or Hugging Face would."""
    written = Written(folder)
    conv = (floats(CONV, (96, 1, 4)) / 10).astype(dtype)
    written.values[CONV] = conv.astype(F32)
    written.stored[CONV] = np.ascontiguousarray(conv.swapaxes(1, 2)) if mlx else conv
    for name in NORMS:
        values = norm(name, dtype)
        written.values[name] = values.astype(F32)
        written.stored[name] = (values.astype(F32) + 1).astype(dtype) if mlx else values
    for name in (OWN_NORM, BLOCKS):
        written.put(name, norm(name, dtype))
    up = f"{LAYER}.mlp.up_proj"
    if packed:
        scales = np.full((64, 4), 0.25, F16)
        codes = integers(up, 0, 15, (64, 256))
        mlx_affine(written, up, (64, 256), 4, 64, scales=scales, biases=-8 * scales, codes=codes)
        config = {**config, **MLX}
    else:
        written.linear(f"{up}.weight", (64, 256), dtype)
    for name, (values, stored) in (extra or {}).items():
        written.values[name], written.stored[name] = values.astype(F32), stored
    return save(written, config, metadata={"format": format})


def check(written):
    with Checkpoint(written.path) as source:
        tensors = logical_tensors(source)
        for tensor in tensors:
            wanted = written.values[tensor.name]
            assert tensor.shape == wanted.shape
            np.testing.assert_array_equal(tensor.read(source), wanted)
    return {tensor.name: tensor for tensor in tensors}


@pytest.mark.parametrize("dtype", [BF16, F16, F32])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("kind", ["qwen3_5_text", "qwen3_5_moe_text", "qwen3_next"])
def test_norms_lose_the_one_and_convolutions_get_their_axes(tmp_path, packed, kind, dtype):
    config = {**CONFIG, "model_type": kind}
    tensors = check(model(tmp_path, True, packed=packed, config=config, dtype=dtype))
    for name in NORMS:
        assert "1 added, which was taken off" in tensors[name].reason
    assert "channels last, which was undone" in tensors[CONV].reason


@pytest.mark.parametrize("packed", [True, False])
def test_what_lies_as_hugging_face_has_it_stays(tmp_path, packed):
    tensors = check(model(tmp_path, False, packed=packed))
    assert all(tensors[name].scheme == "plain" for name in (*NORMS, CONV))


def test_both_forms_give_the_same_checkpoint(tmp_path):
    outputs = {}
    for mlx in (True, False):
        made = model(tmp_path / str(mlx), mlx)
        binq.quantize_checkpoint(made.path, tmp_path / f"{mlx}.out")
        (file,) = (tmp_path / f"{mlx}.out").glob("*.safetensors")
        outputs[mlx] = binq.load_file(file)
    assert sorted(outputs[True]) == sorted(outputs[False])
    for name, expected in outputs[False].items():
        found = outputs[True][name]
        assert found.dtype == expected.dtype
        assert found.shape == expected.shape
        if isinstance(expected, np.ndarray):
            np.testing.assert_array_equal(found.astype(F32), expected.astype(F32))
        else:
            assert found == expected


def test_verify_finds_the_output_right(tmp_path):
    made = model(tmp_path / "s", True)
    binq.quantize_checkpoint(made.path, tmp_path / "t")
    assert not list(verify(tmp_path / "t", made.path))


def test_two_forms_in_one_checkpoint_are_refused(tmp_path):
    name = "model.layers.1.linear_attn.conv1d.weight"
    conv = floats(name, (96, 1, 4)).astype(BF16)
    refuse(model(tmp_path, True, extra={name: (conv, conv)}), FormatError, "some are not")


def test_what_cannot_be_told_is_refused(tmp_path):
    draft = "mtp.norm.weight"
    extra = {draft: (norm(draft, BF16), norm(draft, BF16))}
    made = model(tmp_path / "a", True, extra=extra)
    refuse(made, UnsupportedFormatError, "'mtp.norm.weight' is there")
    made = model(tmp_path / "b", True, packed=True)
    del made.stored[CONV]
    config = json.loads((made.path / "config.json").read_text())
    refuse(save(made, config), UnsupportedFormatError, "no conv1d is there")
    made = model(tmp_path / "c", True, packed=True, config={"model_type": "falcon_h1"})
    refuse(made, UnsupportedFormatError, "'falcon_h1' in a form of its own")


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("model.visual.patch_embed.proj.weight", (24, 3, 2, 4, 4)),
        ("model.vision_tower.patch_embedding.weight", (24, 3, 14, 14)),
        ("model.audio_tower.layers.0.lconv1d.depthwise_conv1d.weight", (32, 1, 5)),
        ("model.audio_tower.subsample_conv.weight", (32, 1, 3, 3)),
    ],
)
def test_convolutions_of_any_model_that_mlx_has_made(tmp_path, name, shape):
    values = floats(name, shape).astype(BF16)
    extra = {name: (values, np.ascontiguousarray(np.moveaxis(values, 1, -1)))}
    config = {"model_type": "gemma4"}
    made = model(tmp_path / "mlx", False, config=config, extra=extra, format="mlx")
    assert check(made)[name].scheme == "moved"
    # Without a sign of MLX, the same shape is what it is.
    other = model(tmp_path / "other", False, config=config, extra={name: (extra[name][1],) * 2})
    assert check(other)[name].scheme == "plain"


@pytest.mark.parametrize("shape", [(24, 3, 3, 3), (24, 80, 3), (24, 1, 80)])
def test_convolutions_that_fit_both_ways_are_refused(tmp_path, shape):
    name = "model.audio_tower.conv.weight"
    values = floats(name, shape).astype(BF16)
    made = model(tmp_path, False, extra={name: (values, values)}, format="mlx",
                 config={"model_type": "gemma4"})  # fmt: skip
    refuse(made, UnsupportedFormatError, "may be in MLX's form or not")
