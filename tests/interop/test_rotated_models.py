"""A model whose rotated weights a GGUF file has, packed: the logits of transformers' floats."""

import json

import numpy as np
import pytest
from checkpoints.fixtures import gguf_file

import binq
from binq import Rotation

pytestmark = pytest.mark.interop
gguf = pytest.importorskip("gguf")
transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")
from interop import test_gguf_models as models  # noqa: E402
from models.test_gguf_rotation import SAID, TYPES, blocks  # noqa: E402

import binq.torch  # noqa: E402

WIDTH, BLOCK = 256, 128
SIZES = {"hidden_size": WIDTH, "intermediate_size": 384, "head_dim": 64, "num_hidden_layers": 4}
# WIDTH inputs, but those of the last product of the MLP and of linear attention.
ATTENTION = models.LINEAR_ATTENTION | {"linear_value_head_dim": 128}
SIGNS = {n: np.random.default_rng(n).choice([-1, 1], n).astype(np.int8) for n in (256, 384, 512)}


def ternary(model):
    """Makes the products and the table ternary in a rotated basis; returns their codes, scales."""
    found = {}
    for name, tensor in model.named_parameters():
        if tensor.ndim != 2 or "norm" in name or "in_proj_a" in name or "in_proj_b" in name:
            continue
        rng = np.random.default_rng(len(found))
        codes = rng.integers(-1, 2, tensor.shape)
        scales = rng.uniform(0.01, 0.04, (tensor.shape[0], tensor.shape[1] // 128))
        scales = scales.astype(np.float16)
        floats = (codes * np.repeat(scales, 128, axis=1)).astype(np.float32)
        Rotation.of(BLOCK, SIGNS[tensor.shape[1]]).back(floats)
        with torch.no_grad():
            tensor.copy_(torch.from_numpy(floats))
        found[name] = codes, scales
    return found


@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize("kind", ["qwen3", "qwen35"])
def test_logits_are_those_of_the_floats(tmp_path, monkeypatch, kind, type):
    architecture, name, more = models.MODELS[kind]
    more = ATTENTION if kind == "qwen35" else more
    monkeypatch.setattr(models, "SIZES", models.SIZES | SIZES)
    monkeypatch.setitem(models.MODELS, kind, (architecture, name, more))
    made = models.written(tmp_path / "plain.gguf", kind)
    stored = ternary(made)
    # The same file, with rotated codes for floats.
    with binq.files.checkpoint.Checkpoint(tmp_path / "plain.gguf") as source:
        metadata = dict(source.config)
    floats = models.tensors_of(architecture, made)
    tensors = {name: (0, values.shape, values.tobytes()) for name, values in floats.items()}
    rotated = {}
    for name, (codes, scales) in stored.items():
        both = np.concatenate([codes, scales], axis=1)  # rows are put in order together
        with torch.no_grad():
            made.get_parameter(name).data = torch.from_numpy(both.astype(np.float32))
    if kind == "qwen35":
        monkeypatch.setattr(models, "turned_columns", lambda values, turned: values)
    for name, values in models.tensors_of(architecture, made).items():
        shape = tensors[name][1]
        if len(shape) == 2 and shape[1] >= 128 and values.shape[1] == shape[1] + shape[1] // 128:
            raw = blocks(type, values[:, : shape[1]].astype(int), values[:, shape[1] :])
            rotated[name] = (TYPES[type], shape, raw)
    names = sorted(rotated.keys() - {"token_embd.weight"})
    said = SAID | {
        "block_size": BLOCK, "weight_names": names,
        "sign_widths": np.array([*SIGNS], np.int32),
        "sign_values": np.concatenate([*SIGNS.values()]),
    }  # fmt: skip
    metadata |= {f"prism.hadamard.{key}": value for key, value in said.items()}
    metadata["general.alignment"] = 32
    (tmp_path / "m.gguf").write_bytes(gguf_file(metadata, tensors | rotated))
    for name, (codes, scales) in stored.items():
        floats = (codes * np.repeat(scales, 128, axis=1)).astype(np.float32)
        Rotation.of(BLOCK, SIGNS[codes.shape[1]]).back(floats)
        made.get_parameter(name).data = torch.from_numpy(floats)
    report = binq.quantize_checkpoint(tmp_path / "m.gguf", tmp_path / "packed", "ternary")
    assert report.quality.exact == len(stored)
    config = json.loads((tmp_path / "packed" / "config.json").read_text())
    assert config["quantization_config"]["version"] == 4
    loaded = binq.torch.load(tmp_path / "packed", activations="float32")
    expected, got = models.logits(made), models.logits(loaded)
    assert np.linalg.norm(got - expected) <= 5e-6 * np.linalg.norm(expected)
    loaded.save_pretrained(tmp_path / "again")
    again = binq.torch.load(tmp_path / "again", activations="float32")
    np.testing.assert_array_equal(models.logits(again), got)
