"""A pack of Bonsai 2 for MLX, taken over: the logits that mlx-lm computes from it."""

import json

import numpy as np
import pytest
from checkpoints.fixtures import pack_words, save_file

import binq
from binq import Rotation

pytestmark = pytest.mark.interop
mlx_lm = pytest.importorskip("mlx_lm", minversion="0.32")
transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")
import mlx.core as mx  # noqa: E402
from interop import test_gguf_models as models  # noqa: E402
from mlx_lm.utils import load_model  # noqa: E402

import binq.torch  # noqa: E402

WIDTH, BLOCK = 512, 512
SIZES = models.SIZES | {
    "hidden_size": WIDTH, "intermediate_size": 1024, "head_dim": 128, "num_hidden_layers": 4,
}  # fmt: skip
ATTENTION = models.LINEAR_ATTENTION | {
    "linear_value_head_dim": 128, "linear_key_head_dim": 64,
    "rope_parameters": models.LINEAR_ATTENTION["rope_parameters"] | {"mrope_section": [12, 12, 8]},
}  # fmt: skip
QUANTIZATION = {"bits": 2, "group_size": 128, "mode": "affine"}
NORMS = ("input_layernorm", "post_attention_layernorm", "model.norm", "q_norm", "k_norm")


def pack(folder, schema):
    """Writes a random model as PrismML does; returns it with the floats of its codes."""
    torch.manual_seed(0)
    config = transformers.Qwen3_5TextConfig(**(SIZES | ATTENTION))
    model = transformers.Qwen3_5ForCausalLM(config).eval()
    prefix = "language_model." if schema == 2 else ""
    rng = np.random.default_rng(0)
    signs = {n: rng.choice([-1, 1], n).astype(np.float32) for n in (512, 1024)}
    stored, modules = {}, []
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            values = tensor.float().numpy()
            if values.ndim == 2 and "in_proj_a" not in name and "in_proj_b" not in name:
                codes = rng.integers(-1, 2, values.shape)
                scales = rng.uniform(0.02, 0.04, (len(codes), values.shape[1] // 128))
                scales = scales.astype(np.float16)
                path = name.removesuffix(".weight")
                embedding = path.endswith("embed_tokens")
                # One module that is packed and not rotated.
                block = 0 if path.endswith("layers.1.mlp.up_proj") else BLOCK
                said = {"path": path, "block": block, "embedding": embedding, "dtype": "float16"}
                modules.append(said)
                parts = {"weight": pack_words(codes + 1, 2), "scales": scales, "biases": -scales}
                floats = (codes * np.repeat(scales, 128, axis=1)).astype(np.float32)
                if block:
                    parts["signs"] = signs[values.shape[1]]
                    Rotation.of(block, parts["signs"]).back(floats)
                stored |= {f"{prefix}{path}.{part}": part_of for part, part_of in parts.items()}
                tensor.copy_(torch.from_numpy(floats))
                continue
            if name.endswith("conv1d.weight"):
                values = values.swapaxes(1, 2)
            if any(f"{norm}.weight" in name for norm in NORMS):
                values = values + 1
            stored[prefix + name] = np.ascontiguousarray(values, np.float32)
    save_file(stored, folder / "model.safetensors", metadata={"format": "mlx"})
    namespace = {1: "mlx-lm-text", 2: "mlx-vlm-qwen3_5"}[schema]
    said = {
        "schema_version": schema, "model_type": "prism_hadamard_qwen35",
        "requires_runtime": "runtime/artifact.py", "hadamard_config": "hadamard.json",
        "tensor_namespace": namespace, "base_model_type": "qwen3_5", "quantization": QUANTIZATION,
        "gdn_activation_layout": "grouped", "modules": modules, "text_config": config.to_dict(),
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(said))
    (folder / "hadamard.json").write_text(json.dumps({"prism.hadamard.version": 1}))
    return model, modules


@pytest.mark.parametrize("schema", [1, 2])
def test_logits_are_those_of_mlx(tmp_path, schema):
    source, target = tmp_path / "pack", tmp_path / "packed"
    source.mkdir()
    made, modules = pack(source, schema)
    report = binq.quantize_checkpoint(source, target, "ternary")
    assert report.quality.exact == len(modules)
    assert not (target / "hadamard.json").exists()
    loaded = binq.torch.load(target, activations="float32")
    assert type(loaded) is type(made)
    expected, got = models.logits(made), models.logits(loaded)
    assert np.linalg.norm(got - expected) <= 5e-6 * np.linalg.norm(expected)
    theirs, _ = load_model(source)
    theirs.set_dtype(mx.float32)
    ids = mx.array([[3, 14, 15, 92, 65, 35, 89, 79, 32, 38, 46, 26, 43, 38, 32, 79]])
    other = np.array(theirs(ids).astype(mx.float32))
    # mlx-lm rounds looked-up rows to float16.
    assert np.linalg.norm(got - other) <= 2e-3 * np.linalg.norm(other)
    assert (got.argmax(-1) == other.argmax(-1)).mean() > 0.9
    binq.dequantize_checkpoint(source, tmp_path / "plain", dtype="float32")
    plain = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "plain", dtype=torch.float32
    )
    difference = np.linalg.norm(models.logits(plain) - expected)
    assert difference <= 5e-6 * np.linalg.norm(expected)
