"""Each storage scheme over its parameters: exact values, the lossless form, and refusals."""

import json
import tracemalloc

import numpy as np
import pytest
from checkpoints import models
from checkpoints.exactness import DOWN, change, check, refuse
from checkpoints.fixtures import (
    BF16,
    F8,
    F16,
    F32,
    Written,
    floats,
    integers,
    pack_words,
    save,
    scales_of,
)

from binq import NonFiniteError, quantize
from binq.errors import FormatError, UnsupportedFormatError
from binq.files.checkpoint import Checkpoint
from binq.models import logical_tensors
from binq.storage.bits import pack, unpack, unpack_columns
from binq.storage.small_floats import float8_values


def test_awq(tmp_path):
    found = check(models.awq_model(tmp_path))
    assert (found.packing.format, found.packing.symmetric) == ("int4", False)


def test_awq_of_two_levels_is_binary(tmp_path):
    found = check(models.awq_model(tmp_path, binary=True))
    assert (found.packing.format, found.packing.group_size) == ("binary", 128)


@pytest.mark.parametrize("settings", [{"version": "gemv"}, {"bits": 8}, {"zero_point": False}])
def test_awq_of_other_kinds_is_refused(tmp_path, settings):
    written = models.awq_model(tmp_path)
    change(written, **settings)
    refuse(written, UnsupportedFormatError, "AWQ version")


@pytest.mark.parametrize("linear_class", ["autobitlinear", "bitlinear"])
def test_bitnet_multiplies_or_divides(tmp_path, linear_class):
    found = check(models.bitnet(tmp_path, linear_class))
    assert (found.packing.format, found.packing.group_size) == ("ternary", None)


def test_bitnet_code_three_is_refused(tmp_path):
    written = models.bitnet(tmp_path)
    written.stored[DOWN][3, 5] = 0xFF
    config = json.loads((tmp_path / "config.json").read_text())
    with Checkpoint(save(written, config).path) as source:
        tensor = next(tensor for tensor in logical_tensors(source) if tensor.name == DOWN)
        with pytest.raises(FormatError, match="code 3"):
            tensor.read(source)


@pytest.mark.parametrize("block", [(128, 128), (32, 48), (1, 128), (5, 7)])
def test_fp8_blocks(tmp_path, block):
    check(models.deepseek(tmp_path, block), "model.embed_tokens.weight")


def test_fp8_has_the_values_of_e4m3():
    codes = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(float8_values(codes), codes.view(F8).astype(F32))


def test_scales_that_are_not_finite_give_weights_that_are_refused(tmp_path):
    written = models.deepseek(tmp_path / "good")
    name = "model.layers.0.self_attn.o_proj.weight"
    written.stored[name + "_scale_inv"][0, 0] = np.inf
    config = json.loads((written.path / "config.json").read_text())
    written.path = tmp_path / "bad"
    with Checkpoint(save(written, config).path) as source:
        tensor = next(tensor for tensor in logical_tensors(source) if tensor.name == name)
        with pytest.raises(NonFiniteError):
            quantize(tensor.read(source), "int4")


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"weight_block_size": None}, FormatError, "expected one, or one a row"),
        ({"weight_block_size": [128]}, FormatError, "must be two sizes"),
        ({"weight_block_size": [0, 1]}, FormatError, "weight_block_size is 0, not a size"),
        ({"weight_block_size": [64, 64]}, FormatError, "for blocks of 64 by 64"),
        ({"fmt": "e5m2"}, FormatError, "is F8_E4M3, the configuration says e5m2"),
        ({"fmt": "e3m4"}, UnsupportedFormatError, "fmt 'e3m4'"),
    ],
)
def test_fp8_of_other_kinds_is_refused(tmp_path, settings, error, match):
    written = models.deepseek(tmp_path)
    change(written, **settings)
    refuse(written, error, match)


@pytest.mark.parametrize(
    ("model", "part"),
    [
        (models.deepseek, "model.layers.0.self_attn.o_proj.weight_scale_inv"),
        (models.deepseek, "model.layers.0.self_attn.o_proj.weight"),
        (models.gpt_oss, "model.layers.0.mlp.experts.down_proj_scales"),
        (models.bitnet, DOWN + "_scale"),
        (models.compressed_tensors, DOWN + "_scale"),
        (models.compressed_tensors, DOWN + "_shape"),
        (models.gptq_model, DOWN.replace("weight", "qzeros")),
        (models.awq_model, DOWN.replace("weight", "scales")),
        (models.bonsai_mlx, DOWN),
    ],
)
def test_a_missing_part_is_named(tmp_path, model, part):
    written = model(tmp_path / "whole")
    del written.stored[part]
    config = json.loads((written.path / "config.json").read_text())
    written.path = tmp_path / "broken"
    refuse(save(written, config), FormatError, part.replace(".", r"\."))


def test_mxfp4_scale_of_255_is_nan(tmp_path):
    written = models.gpt_oss(tmp_path / "good")
    name = "model.layers.0.mlp.experts.down_proj"
    written.stored[name + "_scales"][0, 0, 0] = 255
    config = json.loads((written.path / "config.json").read_text())
    written.path = tmp_path / "bad"
    with Checkpoint(save(written, config).path) as source:
        tensor = next(tensor for tensor in logical_tensors(source) if tensor.name == name)
        values = tensor.read(source)
    assert np.isnan(values[0, 0, :32]).all()
    assert not np.isnan(values[0, 0, 32:]).any()


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 6, 8])
def test_mlx_with_whole_zero_points_is_lossless(tmp_path, bits):
    written = Written(tmp_path)
    shape, module = (40, 256), DOWN.removesuffix(".weight")
    scales = scales_of("mlx", (40, 4))
    zeros = integers("zero", 0, min(15, (1 << bits) - 1), scales.shape)
    biases = (-scales.astype(F32) * zeros).astype(F32)
    codes = integers("codes", 0, (1 << bits) - 1, shape)
    models.mlx_affine(written, module, shape, bits, 64, scales=scales, biases=biases, codes=codes)
    config = {**models.QWEN3, "quantization": {"group_size": 64, "bits": bits}}
    found = check(save(written, config))
    if bits == 1:
        assert (found.packing.format, found.packing.symmetric) == ("binary", False)
    elif bits <= 4 or bits == 8:
        assert (found.packing.format, found.packing.symmetric) == (f"int{bits}", False)
    else:
        assert found is None


def test_bonsai_keeps_its_one_bit_and_two(tmp_path):
    for model, format in (
        (models.bonsai_mlx, "binary"),
        (models.bonsai_mlx_ternary, "ternary"),
        (models.bonsai_unpacked, "binary"),
        (models.bonsai_gguf, "binary"),
    ):
        with Checkpoint(model(tmp_path / model.__name__).path) as source:
            for tensor in logical_tensors(source):
                if tensor.quantize:
                    found = tensor.exact_format(source)
                    assert (found.packing.format, found.packing.group_size) == (format, 128)
                    assert (found.packing.symmetric, found.scale_dtype) == (True, "float16")


def test_mlx_modes_and_sizes_that_are_not_known_are_refused(tmp_path):
    for index, (settings, match) in enumerate(
        [
            ({"group_size": 128, "bits": 7}, "7 bits"),
            ({"group_size": 100, "bits": 1}, "group 100"),
            ({"group_size": 128, "bits": 1, "mode": "secret"}, "mode 'secret'"),
            ({"bits": 1}, "without quant_method"),
            ({"group_size": 128, "bits": 1.0}, r"1\.0 bits"),
            ({"group_size": 128.0, "bits": 1}, r"group 128\.0"),
        ]
    ):
        written = models.bonsai_mlx(tmp_path / str(index))
        config = {**models.QWEN3, "quantization": settings}
        (written.path / "config.json").write_text(json.dumps(config))
        refuse(written, UnsupportedFormatError, match)


def test_mlx_settings_that_differ_are_refused(tmp_path):
    written = models.bonsai_mlx(tmp_path)
    change(written, bits=2)
    refuse(written, FormatError, "quantization and quantization_config of config.json differ")


def test_packed_tensors_without_configuration_are_refused(tmp_path):
    for model in (models.bonsai_mlx, models.deepseek, models.bitnet, models.gptq_model):
        written = model(tmp_path / model.__name__)
        config = json.loads((written.path / "config.json").read_text())
        config = {"model_type": config["model_type"], "num_hidden_layers": 1}
        (written.path / "config.json").write_text(json.dumps(config))
        refuse(written, UnsupportedFormatError, "which the configuration does not explain")


def test_unknown_tensor_is_kept_and_reported(tmp_path):
    written = Written(tmp_path)
    written.put("model.layers.0.mystery.weight", floats("m", (8, 8)))
    with Checkpoint(save(written, models.QWEN3).path) as source:
        (tensor,) = logical_tensors(source)
    assert (tensor.role, tensor.quantize) == ("other", False)
    assert "not a tensor that this family is known to have" in tensor.reason


@pytest.mark.parametrize("bits", range(1, 9))
def test_codes_come_out_of_words_as_they_went_in(bits):
    codes = integers("words", 0, (1 << bits) - 1, (3, 77))
    words = pack_words(codes, bits)
    np.testing.assert_array_equal(unpack(words, bits, 77), codes)
    for start, stop in ((0, 77), (31, 33), (64, 77), (5, 6)):
        part = unpack_columns(words, bits, start, stop)
        np.testing.assert_array_equal(part, codes[:, start:stop])


@pytest.mark.parametrize("kind", ["plain", "input_major", "fp8", "gptq", "mlx"])
def test_memory_of_a_block_is_that_of_its_rows(tmp_path, kind):
    written = Written(tmp_path)
    shape, module = (4096, 1024), DOWN.removesuffix(".weight")
    config = dict(models.QWEN3)
    if kind == "plain":
        written.put(DOWN, np.ones(shape, BF16))
    elif kind == "input_major":
        name = "language_model.model.layers.0.feed_forward.experts.down_proj"
        written.put(name, np.ones((1, *shape[::-1]), BF16))
        config = {"model_type": "llama4"}
    elif kind == "fp8":
        written.stored = {DOWN: np.ones(shape, F8), DOWN + "_scale_inv": np.ones((32, 8), F32)}
        settings = {"quant_method": "fp8", "weight_block_size": [128, 128]}
        config = {"model_type": "deepseek_v3", "quantization_config": settings}
    elif kind == "gptq":
        written.stored = {
            f"{module}.qweight": np.zeros((128, 4096), np.int32),
            f"{module}.qzeros": np.zeros((8, 512), np.int32),
            f"{module}.scales": np.ones((8, 4096), F16),
        }
        config["quantization_config"] = {"quant_method": "gptq", "bits": 4, "group_size": 128}
    else:
        written.stored = {
            f"{module}.weight": np.zeros((4096, 128), np.uint32),
            f"{module}.scales": np.ones((4096, 8), F16),
            f"{module}.biases": np.ones((4096, 8), F16),
        }
        config["quantization"] = {"bits": 4, "group_size": 128}
    rows = 256
    with Checkpoint(save(written, config).path) as source:
        (tensor,) = logical_tensors(source)
        tensor.read_rows(source, 0, 0, 1)
        tracemalloc.start()
        try:
            part = tensor.read_rows(source, 0, rows, 2 * rows)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert part.shape == (rows, 1024)
    assert peak < 4 * part.nbytes < 4096 * 1024 * 2


@pytest.mark.parametrize("count", [1, 31, 32, 33, 100])
@pytest.mark.parametrize("bits", range(1, 9))
def test_packed_codes_are_one_little_endian_number_a_row(bits, count):
    codes = np.random.default_rng(bits).integers(0, 1 << bits, (3, count), dtype=np.uint8)
    words = pack(codes, bits)
    assert words.shape == (3, -(-count * bits // 32))
    for row, packed in zip(codes, words, strict=True):
        number = sum(int(code) << j * bits for j, code in enumerate(row))
        assert int.from_bytes(packed.tobytes(), "little") == number
    assert np.array_equal(unpack(words, bits, count), codes)
    apart = np.stack([codes, codes], axis=1)[:, 1]  # rows that are not side by side
    assert np.array_equal(pack(apart, bits), words)
