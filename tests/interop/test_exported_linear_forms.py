"""GPTQModel and transformers load what binq export wrote as GPTQ, AWQ and BitNet, on the CPU."""

import json

import numpy as np
import pytest

import binq

pytestmark = [pytest.mark.interop, pytest.mark.filterwarnings("ignore")]


def loaded(folder, **arguments):
    import torch
    import transformers

    model, told = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True, **arguments
    )
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    assert not told["mismatched_keys"]
    return model.eval()


def logits(model):
    import torch

    with torch.no_grad():
        return model(torch.arange(24)[None]).logits.numpy()


def in_float16(folder, packed):
    """Returns the plain model with the packed weights in float16, as these libraries have them."""
    import torch

    model = loaded(folder)
    with binq.load(packed) as tensors, torch.no_grad():
        for name, q in tensors.items():
            if isinstance(q, binq.QuantizedArray):
                half = torch.from_numpy(q.dequantize(np.float16))
                model.get_parameter(name).copy_(half.float())
    return model


def exported(model, tmp_path, form, format, settings):
    packed, out = tmp_path / "packed", tmp_path / "out"
    binq.quantize_checkpoint(model, packed, format, **settings)
    binq.export_checkpoint(packed, out, to=form)
    return packed, out


KEPT = {"rules": ["*.v_proj.weight=keep"]}
GPTQ = [
    ("int4", {}),
    ("int4", {"group_size": 32}),
    ("int4", {"group_size": 256}),
    ("int4", {"group_size": None}),
    ("int4", {"group_size": 64, "symmetric": False}),
    ("ternary", {}),
    ("binary", {"group_size": 64}),
    ("int2", {"group_size": 32}),
    ("int2", {"group_size": 32, "symmetric": False, "zero": "code"}),
    ("int3", {}),
    ("int3", {"group_size": 32, "symmetric": False, "zero": "code"}),
    ("int8", {}),
    ("int8", {"group_size": 64, "symmetric": False}),
    ("int4", KEPT),
]


@pytest.mark.parametrize(("format", "settings"), GPTQ, ids=str)
def test_gptqmodel_has_the_weights_of_gptq(model, tmp_path, format, settings):
    pytest.importorskip("gptqmodel")
    transformers = pytest.importorskip("transformers")
    packed, out = exported(model, tmp_path, "gptq", format, settings)
    saved = json.loads((out / "config.json").read_text())["quantization_config"]
    backend = transformers.GPTQConfig(bits=saved["bits"], backend="gptq_torch")
    theirs = loaded(out, quantization_config=backend)
    with binq.load(packed) as tensors:
        for name, q in tensors.items():
            if isinstance(q, binq.QuantizedArray):
                layer = theirs.get_submodule(name.removesuffix(".weight"))
                values = layer.dequantize_weight().T.numpy()
                assert np.array_equal(values, q.dequantize(np.float16)), name
    expected = logits(in_float16(model, packed))
    assert np.abs(logits(theirs) - expected).max() <= 1e-5 * expected.std()


AWQ = [
    ("int4", {}),
    ("int4", {"group_size": 32, "symmetric": False}),
    ("int4", {"group_size": 64}),
    ("int4", {"group_size": 256}),
    ("int4", {"group_size": None}),
    ("int3", {"group_size": 32, "symmetric": False, "zero": "code"}),
    ("ternary", {}),
    ("int4", KEPT),
]


@pytest.mark.parametrize(("format", "settings"), AWQ, ids=str)
def test_gptqmodel_has_the_weights_of_awq(model, tmp_path, format, settings):
    pytest.importorskip("gptqmodel")
    from gptqmodel.quantization.awq.utils.packing_utils import dequantize_gemm

    transformers = pytest.importorskip("transformers")
    packed, out = exported(model, tmp_path, "awq", format, settings)
    theirs = loaded(out, quantization_config=transformers.AwqConfig(backend="torch_awq"))
    with binq.load(packed) as tensors:
        for name, q in tensors.items():
            if isinstance(q, binq.QuantizedArray):
                layer = theirs.get_submodule(name.removesuffix(".weight"))
                size = layer.in_features if layer.group_size == -1 else layer.group_size
                values = dequantize_gemm(layer.qweight, layer.qzeros, layer.scales, 4, size)
                assert np.array_equal(values.T.numpy(), q.dequantize(np.float16)), name
    expected = logits(in_float16(model, packed))
    # x is rounded to float16 in every layer.
    assert np.abs(logits(theirs) - expected).max() <= 1e-2 * expected.std()


def test_transformers_has_the_weights_of_bitnet(model, tmp_path):
    packed = tmp_path / "packed"
    binq.quantize_checkpoint(model, packed, "ternary", group_size=None)
    one = {}
    with binq.load(packed) as tensors:
        for name, tensor in tensors.items():
            if isinstance(tensor, binq.QuantizedArray):
                scales = np.full((len(tensor), 1), np.float32(tensor.group_scales().mean()))
                one[name] = binq.QuantizedArray.from_codes(
                    tensor.codes(), scales, format="ternary", group_size=None
                )
            else:
                one[name] = np.array(tensor)
    for path in packed.glob("*.safetensors*"):
        path.unlink()
    binq.save_file(one, packed / "model.safetensors")
    binq.export_checkpoint(packed, tmp_path / "out", to="bitnet")
    theirs, plain = loaded(tmp_path / "out"), loaded(model)
    import torch
    from transformers.integrations.bitnet import ActQuant

    with torch.no_grad():
        for name, q in one.items():
            if not isinstance(q, binq.QuantizedArray):
                continue
            module = name.removesuffix(".weight")
            layer = theirs.get_submodule(module)
            values = (layer.weight * layer.weight_scale).numpy()
            assert np.array_equal(values, q.dequantize()), name
            plain.get_parameter(name).copy_(torch.from_numpy(q.dequantize()))
            # x is rounded to 8 bits in every layer.
            plain.get_submodule(module).register_forward_pre_hook(
                lambda _, args: (ActQuant.apply(args[0]),)
            )
    expected = logits(plain)
    assert np.abs(logits(theirs) - expected).max() <= 1e-2 * expected.std()
