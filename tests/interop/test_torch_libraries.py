"""Packed checkpoints against the libraries that own their formats (torch, transformers)."""

import ml_dtypes
import numpy as np
import pytest
from checkpoints.fixtures import Written, integers, save, scales_of
from checkpoints.models import QWEN3, ct_config

import binq
import binq.storage
from binq.files.checkpoint import Checkpoint
from binq.models import logical_tensors

pytestmark = pytest.mark.interop
torch = pytest.importorskip("torch")
MODULE = "model.layers.0.mlp.up_proj"


def read(written, config):
    with Checkpoint(save(written, config).path) as source:
        (tensor,) = logical_tensors(source)
        return tensor.read(source)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
def test_compressed_tensors_packed_by_the_library(tmp_path, bits, symmetric):
    helpers = pytest.importorskip("compressed_tensors.compressors.pack_quantized.helpers")
    half = 1 << (bits - 1)
    codes = integers("codes", -half, half - 1, (40, 256)).astype(np.int8)
    zeros = integers("zeros", -half, half - 1, (40, 2)).astype(np.int8)
    scales = scales_of("scales", (40, 2))
    written = Written(tmp_path)
    written.stored = {
        f"{MODULE}.weight_packed": helpers.pack_to_int32(torch.from_numpy(codes), bits).numpy(),
        f"{MODULE}.weight_scale": scales,
        f"{MODULE}.weight_shape": np.array(codes.shape),
    }
    if not symmetric:
        packed = helpers.pack_to_int32(torch.from_numpy(zeros), bits, packed_dim=0)
        written.stored[f"{MODULE}.weight_zero_point"] = packed.numpy()
    values = codes.astype(np.float32)
    if not symmetric:
        values -= np.repeat(zeros, 128, axis=1)
    values *= np.repeat(scales.astype(np.float32), 128, axis=1)
    settings = ct_config(bits, 128, symmetric)
    np.testing.assert_array_equal(read(written, {**QWEN3, "quantization_config": settings}), values)


def test_bitnet_packed_by_transformers(tmp_path):
    bitnet = pytest.importorskip("transformers.integrations.bitnet")
    codes = integers("codes", -1, 1, (64, 256)).astype(np.float32)
    scale = scales_of("scale", (1,))
    written = Written(tmp_path)
    written.stored = {
        f"{MODULE}.weight": bitnet.pack_weights(torch.from_numpy(codes.copy())).numpy(),
        f"{MODULE}.weight_scale": scale,
    }
    settings = {"quant_method": "bitnet", "linear_class": "autobitlinear"}
    config = {"model_type": "bitnet", "quantization_config": settings}
    np.testing.assert_array_equal(read(written, config), codes * scale.astype(np.float32))


@pytest.mark.parametrize("group", [32, 128, None])
@pytest.mark.parametrize(
    "format",
    ["binary", "ternary", "int2 asymmetric", "int3 asymmetric", "int4", "int4 asymmetric"],
)
def test_compressed_tensors_that_are_written_are_read_by_the_library(format, group):
    config = pytest.importorskip("compressed_tensors.quantization")
    base = pytest.importorskip("compressed_tensors.compressors.pack_quantized.base")
    w = np.random.default_rng(2).standard_normal((64, 256)).astype(np.float32)
    name, _, asymmetric = format.partition(" ")
    more = {"symmetric": False, "zero": "code"} if asymmetric else {}
    q = binq.quantize(w, name, group_size=group, **more)
    scheme = binq.storage.get("compressed-tensors")
    settings = config.QuantizationConfig.model_validate(scheme.settings({f"{MODULE}.weight": q}))
    parts = {
        part.removeprefix(f"{MODULE}."): torch.from_numpy(array.copy())
        for part, array in scheme.write(f"{MODULE}.weight", q).items()
    }
    # The library multiplies in the type of the scales: in float32, nothing is rounded.
    parts["weight_scale"] = parts["weight_scale"].float()
    (group_scheme,) = settings.config_groups.values()
    read = base.PackedQuantizationCompressor.decompress(parts, group_scheme)["weight"]
    np.testing.assert_array_equal(read.float().numpy(), q.dequantize())


def stored(tensor):
    """A tensor as numpy has it, float8 by its bytes."""
    if tensor.dtype == torch.float8_e4m3fn:
        return tensor.view(torch.uint8).numpy().view(ml_dtypes.float8_e4m3fn)
    return tensor.numpy()


@pytest.mark.parametrize(
    ("format", "bits", "strategy", "group", "shape"),
    [
        ("float-quantized", 8, "channel", None, (32, 1)),
        ("float-quantized", 8, "tensor", None, (1,)),
        ("mxfp4-pack-quantized", 4, "group", 32, (32, 4)),
        ("nvfp4-pack-quantized", 4, "tensor_group", 16, (32, 8)),
    ],
)
def test_floats_of_compressed_tensors_made_by_the_library(
    tmp_path, format, bits, strategy, group, shape
):
    library = pytest.importorskip("compressed_tensors.quantization")
    compressors = pytest.importorskip("compressed_tensors.compressors")
    weights = library.QuantizationArgs(
        num_bits=bits, type="float", strategy=strategy, group_size=group, symmetric=True
    )
    scheme = library.QuantizationScheme(targets=["Linear"], weights=weights)
    rng = np.random.default_rng(4)
    scales = np.exp2(rng.integers(-6, -2, shape)).astype(np.float32)
    state = {
        "weight": torch.from_numpy(rng.standard_normal((32, 128)).astype(np.float32)),
        "weight_scale": torch.from_numpy(scales),
    }
    if format.startswith("nvfp4"):
        state["weight_scale"] *= 8
        state["weight_global_scale"] = torch.tensor([8.0])
    compressor = compressors.BaseCompressor.get_value_from_registry(format)
    packed = compressor.compress(dict(state), scheme)
    expected = compressor.decompress(dict(packed), scheme)["weight"].float().numpy()
    written = Written(tmp_path)
    written.stored = {f"{MODULE}.{part}": stored(tensor) for part, tensor in packed.items()}
    group_settings = {
        "targets": ["Linear"],
        "weights": {"num_bits": bits, "type": "float", "strategy": strategy, "group_size": group},
    }
    settings = {
        "quant_method": "compressed-tensors",
        "format": format,
        "config_groups": {"group_0": group_settings},
    }
    np.testing.assert_array_equal(
        read(written, {**QWEN3, "quantization_config": settings}), expected
    )
