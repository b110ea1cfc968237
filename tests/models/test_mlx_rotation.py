"""PrismML's packs for MLX: values in the basis of x, names of Hugging Face, what is refused."""

import json

import numpy as np
import pytest
from checkpoints.fixtures import F16, F32, pack_words, save_file

import binq
from binq.convert.verify import verify
from binq.errors import FormatError, UnsupportedFormatError
from binq.reference.rotation import rotate_back

WIDTH, BLOCK = 1024, 512
UP, EMBED = "model.layers.0.mlp.up_proj", "model.embed_tokens"
TEXT = {"model_type": "qwen3_5_text", "hidden_size": WIDTH, "intermediate_size": 64}
CONFIG = {
    "model_type": "prism_hadamard_qwen35", "schema_version": 2, "base_model_type": "qwen3_5",
    "tensor_namespace": "mlx-vlm-qwen3_5", "gdn_activation_layout": "grouped",
    "hadamard_config": "hadamard.json", "requires_runtime": "runtime/artifact.py",
    "quantization": {"bits": 2, "group_size": 128, "mode": "affine"}, "text_config": TEXT,
    "modules": [
        {"path": UP, "block": BLOCK, "embedding": False, "dtype": "float16"},
        {"path": EMBED, "block": WIDTH, "embedding": True, "dtype": "float16"},
    ],
}  # fmt: skip
GATE = "model.layers.0.linear_attn.in_proj_a.weight"


def pack(folder, *, vision=False, without=(), tensors=(), **changes):
    """Writes a pack of two rotated modules and a gate; returns what they stand for."""
    rng = np.random.default_rng(0)
    signs = rng.choice([-1, 1], WIDTH).astype(F32)
    stored = {f"language_model.{GATE}": rng.standard_normal((4, WIDTH)).astype(F32)}
    meant = {GATE: stored[f"language_model.{GATE}"]}
    for path, rows, block in ((UP, 64, BLOCK), (EMBED, 40, WIDTH)):
        codes = rng.integers(-1, 2, (rows, WIDTH))
        scales = rng.uniform(0.5, 1, (rows, WIDTH // 128)).astype(F16)
        rotated = (codes * np.repeat(scales, 128, axis=1)).astype(F32)
        meant[f"{path}.weight"] = rotate_back(rotated, signs, block)
        parts = {"weight": pack_words(codes + 1, 2), "scales": scales, "biases": -scales}
        parts["signs"] = signs
        stored |= {f"language_model.{path}.{part}": values for part, values in parts.items()}
    if vision:
        stored["vision_tower.blocks.0.norm1.weight"] = np.ones(8, F32)
    for name in without:
        del stored[name]
    save_file(stored | dict(tensors), folder / "model.safetensors", metadata={"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    (folder / "hadamard.json").write_text("{}")
    return meant


def hugging_face(name, vision):
    return name.replace("model.", "model.language_model.", 1) if vision else name


@pytest.mark.parametrize("vision", [False, True])
def test_weights_are_those_in_the_basis_of_x(tmp_path, vision):
    meant = pack(tmp_path, vision=vision)
    loaded = binq.load(tmp_path)
    extra = {"model.visual.blocks.0.norm1.weight"} if vision else set()
    assert set(loaded) == {hugging_face(name, vision) for name in meant} | extra
    for name, values in meant.items():
        got = loaded[hugging_face(name, vision)]
        if isinstance(got, binq.QuantizedArray):
            assert got.format == "ternary"
            assert got.rotation.block == (BLOCK if "up_proj" in name else WIDTH)
            got = got.dequantize()
        np.testing.assert_array_equal(got, values)
    config = dict(loaded.config)
    assert not config.keys() & {"modules", "hadamard_config", "schema_version", "requires_runtime"}
    if vision:
        assert config["architectures"] == ["Qwen3_5ForConditionalGeneration"]
        assert config["text_config"] == TEXT
    else:
        assert config["architectures"] == ["Qwen3_5ForCausalLM"]
        assert config["hidden_size"] == WIDTH
    assert config["model_type"] == ("qwen3_5" if vision else "qwen3_5_text")


def test_a_conversion_loses_nothing(tmp_path):
    source, target = tmp_path / "pack", tmp_path / "packed"
    source.mkdir()
    meant = pack(source)
    report = binq.quantize_checkpoint(source, target, "ternary")
    assert report.quality.exact == 2
    assert list(verify(target, source)) == []
    assert not (target / "hadamard.json").exists()
    loaded = binq.load(target)
    for name in (f"{UP}.weight", f"{EMBED}.weight"):
        np.testing.assert_array_equal(loaded[name].dequantize(), meant[name])
    x = np.random.default_rng(1).standard_normal((3, WIDTH)).astype(F32)
    y = binq.linear(x, loaded[f"{UP}.weight"], activations="float32")
    exact = x.astype(np.float64) @ meant[f"{UP}.weight"].T
    assert np.linalg.norm(y - exact) <= 2e-6 * np.linalg.norm(exact)


def module(**changes):
    return {"modules": [CONFIG["modules"][0] | changes, CONFIG["modules"][1]]}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"schema_version": 3}, "schema_version = 3"),
        ({"schema_version": True}, "schema_version = True"),
        ({"schema_version": None}, "schema_version = None"),
        ({"tensor_namespace": "other"}, "schema_version = 2"),
        ({"base_model_type": "qwen4"}, "base_model_type = 'qwen4'"),
        ({"gdn_activation_layout": "tiled"}, "gdn_activation_layout = 'tiled'"),
        ({"quantization": CONFIG["quantization"] | {"bits": 4}}, "quantization = "),
        ({"modules": []}, "modules = "),
        ({"modules": {}}, "modules = "),
        ({"modules": [3]}, "modules = 3"),
        (module(block=256), "modules = "),
        (module(block="512"), "modules = "),
        (module(dtype="bfloat16"), "modules = "),
        (module(path=None), "modules = "),
    ],
)
def test_other_contracts_are_refused_by_name(tmp_path, changes, said):
    pack(tmp_path, **changes)
    with pytest.raises(UnsupportedFormatError, match="prism_hadamard_qwen35 with") as caught:
        binq.load(tmp_path)
    assert said in str(caught.value)
    assert "GGUF" in str(caught.value)


SIGNS = f"language_model.{UP}.signs"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (module(path="model.layers.9.mlp.up_proj"), "there is no language_model.model.layers.9"),
        (module(path=EMBED), "twice"),
        (module(block=0), "belongs to no rotated module"),
        ({"without": [SIGNS]}, "has no signs"),
        ({"tensors": {SIGNS: np.ones(WIDTH, F16)}}, "has no signs"),
        ({"tensors": {SIGNS: np.ones(WIDTH - 16, F32)}}, "has shape"),
        ({"tensors": {SIGNS: np.zeros(WIDTH, F32)}}, "signs must be"),
        ({"tensors": {"other.signs": np.ones(4, F32)}}, "belongs to no rotated module"),
    ],
)
def test_packs_that_do_not_hold_what_they_say(tmp_path, more, said):
    pack(tmp_path, **more)
    with pytest.raises(FormatError, match=said):
        binq.load(tmp_path)
