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
    ("int4", {}),
    ("int4", {"group_size": None, "embeddings": "int4:g64"}),
    ("int4", {"symmetric": False, "group_size": 32}),
    ("int4", {"symmetric": False, "zero": "offset"}),
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
                stored[f"{module}.biases"],
                group_size=own["group_size"],
                bits=own["bits"],
            )
            np.testing.assert_array_equal(np.array(values), weights.dequantize(), err_msg=name)
    binq.dequantize_checkpoint(packed, plain, dtype="float32")
    other, _ = utils.load_model(plain)
    tokens = mx.arange(24)[None]
    found, expected = np.array(model(tokens)), np.array(other(tokens))
    # The order of float32 sums differs between the product of packed and of float weights.
    assert np.linalg.norm(found - expected) < 2e-6 * np.linalg.norm(expected)
