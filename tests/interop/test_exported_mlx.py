"""MLX reads the bits that binq export wrote, and mlx-lm runs the same model."""

import numpy as np
import pytest

import binq

pytestmark = [pytest.mark.interop, pytest.mark.filterwarnings("ignore")]

CASES = [
    ("binary", {"group_size": 32}),
    ("binary", {}),
    ("ternary", {"group_size": 256}),
    ("int2", {"group_size": 64}),
    ("int3", {}),
    ("int3", {"symmetric": False, "group_size": 32}),
    ("mxfp4", {"group_size": 32}),
    ("int4", {}),
    ("int4", {"group_size": None, "embeddings": "int4:g64"}),
    ("int4", {"symmetric": False, "group_size": 32}),
    ("int4", {"symmetric": False, "zero": "offset"}),
    ("int8", {"group_size": 64}),
    ("int4", {"rules": ["*.down_proj.weight=ternary:g64", "*.v_proj.weight=keep"]}),
]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A Qwen 3 of two layers, in float32."""
    import json

    from checkpoints.exported import CONFIG, SIZES

    rng = np.random.default_rng(0)
    tensors = {
        "model.embed_tokens.weight": rng.standard_normal((96, 256), np.float32),
        "model.norm.weight": rng.uniform(0.5, 1.5, 256).astype(np.float32),
        "lm_head.weight": rng.standard_normal((96, 256), np.float32) / 16,
    }
    vectors = {"input_layernorm": 256, "post_attention_layernorm": 256}
    vectors |= {"self_attn.q_norm": 32, "self_attn.k_norm": 32}
    for layer in range(2):
        at = f"model.layers.{layer}"
        for name, shape in SIZES.items():
            tensors[f"{at}.{name}.weight"] = rng.standard_normal(shape, np.float32) / 16
        for name, size in vectors.items():
            tensors[f"{at}.{name}.weight"] = rng.uniform(0.5, 1.5, size).astype(np.float32)
    folder = tmp_path_factory.mktemp("qwen3")
    binq.save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


@pytest.mark.parametrize(("format", "settings"), CASES, ids=str)
def test_dequantized_weights_and_logits(source, tmp_path, format, settings):
    mx = pytest.importorskip("mlx.core")
    utils = pytest.importorskip("mlx_lm.utils")
    packed, out, plain = tmp_path / "packed", tmp_path / "out", tmp_path / "plain"
    binq.quantize_checkpoint(source, packed, format, **settings)
    binq.export_checkpoint(packed, out, to="mlx")
    stored = mx.load(str(out / "model.safetensors"))
    model, config = utils.load_model(out)
    with binq.load(packed) as tensors:
        for name, weights in tensors.items():
            if not isinstance(weights, binq.QuantizedArray):
                continue
            module = name.removesuffix(".weight")
            own = config["quantization"].get(module, config["quantization"])
            values = mx.dequantize(
                stored[name],
                stored[f"{module}.scales"],
                stored.get(f"{module}.biases"),
                group_size=own["group_size"],
                bits=own["bits"],
                mode=own["mode"],
            )
            values = np.array(values.astype(mx.float32))
            np.testing.assert_array_equal(values, weights.dequantize(), err_msg=name)
    binq.dequantize_checkpoint(packed, plain, dtype="float32")
    other, _ = utils.load_model(plain)
    tokens = mx.arange(24)[None]
    found, expected = np.array(model(tokens)), np.array(other(tokens))
    # The order of float32 sums differs between the product of packed and of float weights.
    assert np.linalg.norm(found - expected) < 2e-6 * np.linalg.norm(expected)


@pytest.mark.parametrize("kind", ["qwen3_moe", "mixtral"])
def test_experts(tmp_path, kind):
    mx = pytest.importorskip("mlx.core")
    utils = pytest.importorskip("mlx_lm.utils")
    import json

    from checkpoints.exported import CONFIG

    rng = np.random.default_rng(0)
    at = {"qwen3_moe": "mlp", "mixtral": "block_sparse_moe"}[kind]
    parts = {"qwen3_moe": ("gate_proj", "up_proj", "down_proj"), "mixtral": ("w1", "w3", "w2")}
    shapes = {
        "model.embed_tokens": (96, 256),
        "lm_head": (96, 256),
        "model.layers.0.self_attn.q_proj": (128 if kind == "qwen3_moe" else 256, 256),
        "model.layers.0.self_attn.k_proj": (64 if kind == "qwen3_moe" else 128, 256),
        "model.layers.0.self_attn.v_proj": (64 if kind == "qwen3_moe" else 128, 256),
        "model.layers.0.self_attn.o_proj": (256, 128 if kind == "qwen3_moe" else 256),
        f"model.layers.0.{at}.gate": (4, 256),
    }
    for expert in range(4):
        for part, shape in zip(parts[kind], [(128, 256), (128, 256), (256, 128)], strict=True):
            shapes[f"model.layers.0.{at}.experts.{expert}.{part}"] = shape
    vectors = {"model.norm": 256}
    for name in ("input_layernorm", "post_attention_layernorm"):
        vectors[f"model.layers.0.{name}"] = 256
    if kind == "qwen3_moe":
        vectors |= {f"model.layers.0.self_attn.{name}": 32 for name in ("q_norm", "k_norm")}
    tensors = {f"{n}.weight": rng.standard_normal(s, np.float32) / 16 for n, s in shapes.items()}
    tensors |= {f"{n}.weight": np.ones(size, np.float32) for n, size in vectors.items()}
    (tmp_path / "src").mkdir()
    binq.save_file(tensors, tmp_path / "src" / "model.safetensors")
    config = {**CONFIG, "model_type": kind, "num_hidden_layers": 1, "num_experts": 4}
    config |= {"num_local_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 128}
    config |= {"moe_intermediate_size": 128, "decoder_sparse_step": 1, "mlp_only_layers": []}
    config |= {"norm_topk_prob": True, "architectures": []}
    (tmp_path / "src" / "config.json").write_text(json.dumps(config))
    packed, out, plain = tmp_path / "packed", tmp_path / "out", tmp_path / "plain"
    binq.quantize_checkpoint(tmp_path / "src", packed, "int4", group_size=64)
    binq.export_checkpoint(packed, out, to="mlx")
    binq.dequantize_checkpoint(packed, plain, dtype="float32")
    tokens = mx.arange(24)[None]
    found, expected = (np.array(utils.load_model(f)[0](tokens)) for f in (out, plain))
    assert np.linalg.norm(found - expected) < 2e-6 * np.linalg.norm(expected)
