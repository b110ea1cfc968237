"""Rotations that a compressed-tensors configuration names: read, or refused by name."""

import numpy as np
import pytest
from checkpoints import models
from checkpoints.fixtures import Written, integers, save

import binq
from binq import Rotation
from binq.errors import FormatError, UnsupportedFormatError
from binq.files.checkpoint import Checkpoint
from binq.models import logical_tensors

L = "model.layers.0.mlp."
DOWN, UP = L + "down_proj", L + "up_proj"
INPUT = {"targets": ["re:.*down_proj$"], "location": "input", "inverse": False, "ignore": []}
FOLDED = INPUT | {"location": "weight_input", "inverse": True}
R4 = {"type": "hadamard", "apply": [INPUT, FOLDED], "head_dim": 64, "randomize": False,
      "requires_grad": False, "precision": "torch.float32"}  # fmt: skip


def written(folder, group=R4, *, kept=False, matrix=(64, 64)):
    made = Written(folder)
    made.plain("model.embed_tokens.weight", (8, 128))
    for module, shape in ((UP, (256, 128)), (DOWN, (128, 256))):
        codes = integers(module, -8, 7, shape)
        models.compressed(made, module, shape, 4, 128, codes=codes)
    if kept:
        made.linear(L + "gate_proj.weight", (256, 128))
    if matrix:
        made.plain(f"{DOWN}.R4_input.weight", matrix)
    settings = models.ct_config(4, 128, True)
    settings["transform_config"] = {"config_groups": {"R4": group}}
    save(made, {**models.QWEN3, "quantization_config": settings})
    return made


def test_inputs_are_transformed(tmp_path):
    made = written(tmp_path / "s")
    with binq.load(tmp_path / "s") as tensors:
        q = tensors[f"{DOWN}.weight"]
        assert q.rotation == Rotation.of(64, np.ones(256))
        assert tensors[f"{UP}.weight"].rotation is None
        assert not any("R4" in name for name in tensors)
        expected = made.values[f"{DOWN}.weight"].copy()
        q.rotation.back(expected)
        np.testing.assert_array_equal(q.dequantize(), expected)
    report = binq.quantize_checkpoint(tmp_path / "s", tmp_path / "t", "int4")
    assert report.quality.exact == 2
    with binq.load(tmp_path / "t") as tensors:
        assert tensors[f"{DOWN}.weight"] == q


def test_a_whole_row_is_one_block(tmp_path):
    written(tmp_path / "s", R4 | {"head_dim": None}, matrix=None)
    with binq.load(tmp_path / "s") as tensors:
        assert tensors[f"{DOWN}.weight"].rotation.block == 256


def test_what_is_folded_into_weights_is_done(tmp_path):
    written(tmp_path / "s", R4 | {"type": "random-matrix", "apply": [FOLDED]}, matrix=None)
    with binq.load(tmp_path / "s") as tensors:
        assert tensors[f"{DOWN}.weight"].rotation is None


@pytest.mark.parametrize(
    ("group", "error", "reason"),
    [
        (R4 | {"type": "random-hadamard"}, UnsupportedFormatError, "'random-hadamard'"),
        (R4 | {"randomize": True}, UnsupportedFormatError, "randomize"),
        (R4 | {"permuted": True}, UnsupportedFormatError, "permuted"),
        (R4 | {"apply": [INPUT | {"location": "output"}]}, UnsupportedFormatError, "'output'"),
        (R4 | {"apply": [INPUT | {"location": "k_cache"}]}, UnsupportedFormatError, "'k_cache'"),
        (R4 | {"apply": [INPUT, INPUT]}, UnsupportedFormatError, "two transforms"),
        (R4 | {"apply": [INPUT | {"axis": 0}]}, UnsupportedFormatError, "axis"),
        (R4 | {"apply": "all"}, UnsupportedFormatError, "not supported"),
        (R4 | {"head_dim": 48}, FormatError, "power of two"),
        (R4 | {"head_dim": 32}, FormatError, "has shape"),
        (R4 | {"apply": [INPUT | {"targets": 3}]}, FormatError, "targets"),
    ],
)
def test_other_transforms_are_refused(tmp_path, group, error, reason):
    written(tmp_path, group)
    with Checkpoint(tmp_path) as source, pytest.raises(error, match=reason):
        logical_tensors(source)


def test_a_plain_weight_that_multiplies_a_transformed_x_is_refused(tmp_path):
    group = R4 | {"apply": [INPUT | {"targets": ["Linear"], "ignore": ["embed_tokens"]}]}
    written(tmp_path / "a", group, kept=True)
    with (
        Checkpoint(tmp_path / "a") as source,
        pytest.raises(UnsupportedFormatError, match=r"gate_proj\.weight' multiplies"),
    ):
        logical_tensors(source)
    ignoring = [INPUT | {"targets": ["Linear"], "ignore": ["embed_tokens", "re:.*gate_proj"]}]
    written(tmp_path / "b", R4 | {"apply": ignoring}, kept=True)
    with binq.load(tmp_path / "b") as tensors:
        assert tensors[f"{UP}.weight"].rotation.block == 64
