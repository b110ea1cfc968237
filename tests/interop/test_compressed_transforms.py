"""A model that the library compressed-tensors has rotated and packed: its logits, from its file."""

import pytest

pytestmark = pytest.mark.interop
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("compressed_tensors")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("head_dim", [None, 128])
def test_logits_are_those_of_the_library(tmp_path, head_dim):
    from compressed_tensors import ModelCompressor
    from compressed_tensors.quantization import (
        QuantizationArgs,
        QuantizationConfig,
        QuantizationScheme,
        apply_quantization_config,
    )
    from compressed_tensors.transform import (
        TransformArgs,
        TransformConfig,
        TransformScheme,
        apply_transform_config,
    )

    import binq.torch

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=96, hidden_size=256, intermediate_size=512, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    down = ["re:.*down_proj$"]
    apply = [
        TransformArgs(targets=down, location="input"),
        TransformArgs(targets=down, location="weight_input", inverse=True),
    ]
    scheme = TransformScheme(type="hadamard", head_dim=head_dim, apply=apply)
    apply_transform_config(model, TransformConfig(config_groups={"R4": scheme}))
    weights = QuantizationArgs(num_bits=4, strategy="group", group_size=128)
    groups = {"g": QuantizationScheme(targets=["Linear"], weights=weights)}
    apply_quantization_config(
        model,
        QuantizationConfig(
            config_groups=groups, ignore=["lm_head"], quantization_status="frozen",
            format="pack-quantized",
        ),
    )  # fmt: skip
    for module in model.modules():
        if hasattr(module, "weight_scale"):
            groups = module.weight.detach().reshape(len(module.weight), -1, 128)
            module.weight_scale.data = groups.abs().amax(-1) / 7
    ids = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 8]])
    with torch.no_grad():
        expected = model(ids).logits
    compressor = ModelCompressor.from_pretrained_model(model, quantization_format="pack-quantized")
    compressor.compress_model(model)
    model.save_pretrained(tmp_path / "s")
    compressor.update_config(str(tmp_path / "s"))
    report = binq.quantize_checkpoint(tmp_path / "s", tmp_path / "t", "int4")
    assert report.quality.exact == 14
    loaded = binq.torch.load(tmp_path / "t", activations="float32")
    with torch.no_grad():
        got = loaded(ids).logits
    assert (got - expected).norm() <= 2e-6 * expected.norm()
