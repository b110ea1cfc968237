"""MLX: which settings a module has, and what its shapes leave open."""

import numpy as np
import pytest
from checkpoints import models
from checkpoints.exactness import DOWN, check, refuse
from checkpoints.fixtures import (
    BF16,
    F8,
    F16,
    FP4,
    Written,
    floats,
    integers,
    mlx_affine,
    mxfp4,
    save,
    scales_of,
)

from binq.array.packing import Packing
from binq.errors import FormatError, UnsupportedFormatError
from binq.files.checkpoint import Checkpoint
from binq.models import logical_tensors
from binq.storage.widths import input_widths

MODULE = DOWN.removesuffix(".weight")
QUERY = "model.layers.0.self_attn.q_proj"
SIZES = {"hidden_size": 64, "intermediate_size": 256}


def affine(written, module, shape, bits, group):
    scales = scales_of(module, (*shape[:-1], shape[-1] // group), BF16)
    biases = (floats(module + "b", scales.shape) / 10).astype(BF16)
    codes = integers(module, 0, (1 << bits) - 1, shape)
    mlx_affine(written, module, shape, bits, group, scales=scales, biases=biases, codes=codes)


def saved(written, settings, **config):
    return save(written, {**models.QWEN3, **config, "quantization": settings})


@pytest.mark.parametrize("prefix", ["language_model.", "other."])
@pytest.mark.parametrize(("bits", "group"), [(8, 32), (4, 64), (2, 128), (6, 64), (3, 32)])
def test_the_width_of_the_model_decides_where_no_module_is_named(tmp_path, bits, group, prefix):
    """Any pair of these with the same product has the same shapes."""
    written = Written(tmp_path)
    affine(written, MODULE, (64, 256), bits, group)
    named = {prefix + QUERY: {"group_size": 32, "bits": 5}}
    check(saved(written, {"group_size": 64, "bits": 4, **named}, **SIZES))
    check(saved(written, {"group_size": 64, "bits": 4}, text_config=SIZES))


@pytest.mark.parametrize("prefix", ["language_model.", ""])
def test_settings_under_another_prefix_count(tmp_path, prefix):
    written = Written(tmp_path)
    affine(written, MODULE, (64, 256), 8, 32)
    check(
        saved(
            written, {"group_size": 64, "bits": 4, prefix + MODULE: {"group_size": 32, "bits": 8}}
        )
    )


def test_a_width_that_is_not_the_models_is_refused(tmp_path):
    written = Written(tmp_path)
    affine(written, MODULE, (64, 256), 4, 64)
    for own in ({}, {MODULE: {"group_size": 64, "bits": 4}}):
        settings = {"group_size": 64, "bits": 4, **own}
        broken = saved(written, settings, hidden_size=64, intermediate_size=192)
        refuse(broken, FormatError, "give 256 inputs, by config.json they are 192")
    own = {MODULE: {"group_size": 32, "bits": 8}}
    broken = saved(written, {"group_size": 64, "bits": 4, **own}, **SIZES)
    refuse(broken, FormatError, "give 128 inputs, by config.json they are 256")


@pytest.mark.parametrize("extra", [{}, {"mode": "affine"}, {"mode": None}])
def test_settings_of_a_module_are_affine_unless_they_say_otherwise(tmp_path, extra):
    written = Written(tmp_path)
    affine(written, QUERY, (64, 256), 8, 64)
    base = "model.layers.0.mlp.experts.down_proj"
    mxfp4(written, base, (2, 256, 256))
    blocks, exponents = written.stored.pop(base + "_blocks"), written.stored.pop(base + "_scales")
    written.stored[base + ".weight"] = blocks.reshape(2, 256, 128).view(np.uint32)
    written.stored[base + ".scales"] = exponents
    written.values[base + ".weight"] = written.values.pop(base)
    settings = {"group_size": 32, "bits": 4, "mode": "mxfp4"}
    settings[QUERY] = {"group_size": 64, "bits": 8, **extra}
    config = {"model_type": "gpt_oss", "hidden_size": 256, "quantization": settings}
    check(save(written, config), QUERY + ".weight")


def test_what_settings_leave_out_is_mlx_default(tmp_path):
    written = Written(tmp_path)
    affine(written, MODULE, (64, 256), 8, 64)
    check(saved(written, {"group_size": 32, "bits": 4, MODULE: {"bits": 8}}))


def test_a_module_that_is_said_to_be_plain_is_refused(tmp_path):
    written = Written(tmp_path)
    affine(written, MODULE, (64, 256), 4, 64)
    refuse(saved(written, {"group_size": 64, "bits": 4, MODULE: False}), FormatError, "type False")


def test_a_mode_of_its_own_that_is_not_known_is_refused(tmp_path):
    written = Written(tmp_path)
    affine(written, MODULE, (64, 256), 4, 64)
    own = {MODULE: {"group_size": 64, "bits": 4, "mode": "secret"}}
    broken = saved(written, {"group_size": 64, "bits": 4, **own})
    refuse(broken, UnsupportedFormatError, "mode 'secret'")


@pytest.mark.parametrize(
    ("module", "config", "widths"),
    [
        ("model.layers.3.self_attn.k_proj", {"hidden_size": 64}, [64]),
        ("model.layers.3.self_attn.o_proj", {"hidden_size": 64, "num_attention_heads": 4}, []),
        ("m.self_attn.o_proj", {"num_attention_heads": 4, "head_dim": 32}, [128]),
        (
            "m.self_attn.o_proj",
            {"num_attention_heads": 4, "head_dim": 8, "model_type": "gemma4"},
            [],
        ),
        ("m.self_attn.q_b_proj", {"q_lora_rank": 24}, [24]),
        ("m.linear_attn.out_proj", {"linear_num_value_heads": 2, "linear_value_head_dim": 8}, [16]),
        ("m.mlp.switch_mlp.down_proj", {"intermediate_size": 9, "moe_intermediate_size": 7}, [7]),
        ("m.mlp.experts.3.down_proj", {"intermediate_size": 9, "model_type": "gpt_oss"}, [9]),
        ("m.mlp.experts.3.down_proj", {"intermediate_size": 9}, []),
        ("shared_expert.down_proj", {"shared_expert_intermediate_size": 7}, []),
        ("m.shared_experts.down_proj", {"moe_intermediate_size": 7, "n_shared_experts": 2}, [14]),
        ("m.mlp.down_proj", {"intermediate_size": 9, "use_double_wide_mlp": True}, [9, 18]),
        ("model.visual.blocks.0.attn.q_proj", {"hidden_size": 64}, []),
        ("m.mlp.down_proj", {"intermediate_size": "9"}, []),
        ("m.mystery", {"hidden_size": 64}, []),
    ],
)  # fmt: skip
def test_widths_are_those_of_the_configuration(module, config, widths):
    assert sorted(input_widths(config, module)) == widths
    assert sorted(input_widths({"text_config": config}, module)) == widths


def test_packed_weights_are_read_row_by_row(tmp_path):
    written = Written(tmp_path)
    affine(written, MODULE, (64, 256), 8, 32)
    made = saved(written, {"group_size": 64, "bits": 4}, **SIZES)
    with Checkpoint(made.path) as source:
        (tensor,) = logical_tensors(source)
        part = tensor.read_rows(source, 0, 5, 9)
    np.testing.assert_array_equal(part, written.values[DOWN][5:9])


def float_mode(written, module, mode, shape=(64, 256)):
    """Adds weights of a mode, as mlx.core.quantize packs them."""
    bits, group = {"mxfp4": (4, 32), "nvfp4": (4, 16), "mxfp8": (8, 32)}[mode]
    scales = integers(module + "s", 100, 120, (*shape[:-1], shape[-1] // group)).astype(np.uint8)
    wide = np.exp2(scales.astype(np.float64) - 127) if mode != "nvfp4" else scales.view(F8)
    if bits == 4:
        codes = integers(module, 0, 15, shape)
        elements = FP4[codes]
        stored = (codes[..., 0::2] | codes[..., 1::2] << 4).astype(np.uint8)
    else:
        stored = floats(module, shape).astype(F8).view(np.uint8)
        elements = stored.view(F8).astype(np.float32)
    values = elements * np.repeat(wide.astype(np.float32), group, axis=-1)
    parts = {f"{module}.weight": stored.view(np.uint32), f"{module}.scales": scales}
    written.packed(f"{module}.weight", values, parts)
    return {"mode": mode, "bits": bits, "group_size": group}


@pytest.mark.parametrize("shape", [(64, 256), (3, 32, 64)])
@pytest.mark.parametrize("mode", ["mxfp4", "nvfp4", "mxfp8"])
def test_modes_of_floats(tmp_path, mode, shape):
    written = Written(tmp_path)
    settings = float_mode(written, MODULE, mode, shape)
    check(saved(written, settings))
    check(saved(written, {"bits": 4, "group_size": 64, MODULE: settings}))
    # Nothing says it: the words of a scale do.
    check(saved(written, {"bits": 4, "group_size": 64}))
    written.stored[f"{MODULE}.global_scale"] = np.ones(1, np.float32)
    refuse(saved(written, settings), UnsupportedFormatError, "global_scale")


def test_a_module_with_biases_is_affine_in_a_model_of_floats(tmp_path):
    written = Written(tmp_path)
    settings = float_mode(written, QUERY, "nvfp4")
    affine(written, MODULE, (64, 256), 8, 64)
    check(saved(written, settings, **SIZES))
    refuse(saved(written, settings), UnsupportedFormatError, "nothing says of how many bits")


def test_scales_that_no_mode_has_are_refused(tmp_path):
    written = Written(tmp_path)
    settings = float_mode(written, MODULE, "mxfp4")
    written.stored[f"{MODULE}.scales"] = np.ones((64, 7), np.uint8)
    refuse(saved(written, settings), FormatError, "not MLX weights of mode mxfp4")


@pytest.mark.parametrize("zeros", [[2], [1], [1, 2], [0], [0, 2]])
def test_two_bits_around_a_code_are_int2(tmp_path, zeros):
    """Codes 0 to 3 less 2 are −2 to 1, less 1 those of the negated scale."""
    written = Written(tmp_path)
    scales = scales_of("s", (40, 4), F16)
    middle = np.array([zeros[row % len(zeros)] for row in range(40)])[:, None]
    biases = (-scales.astype(np.float32) * middle).astype(F16)
    codes = integers("codes", 0, 3, (40, 256))
    mlx_affine(written, MODULE, (40, 256), 2, 64, scales=scales, biases=biases, codes=codes)
    found = check(saved(written, {"bits": 2, "group_size": 64}))
    assert found.packing.format == "int2"
    assert found.packing.zero == ("none" if set(zeros) <= {1, 2} else "code")


@pytest.mark.parametrize("dtype", [F16, BF16, np.float32])
@pytest.mark.parametrize("bits", [2, 3, 4, 5])
def test_biases_of_any_value_are_offsets(tmp_path, bits, dtype):
    written = Written(tmp_path)
    scales = scales_of("s", (40, 4), dtype)
    biases = (floats("b", (40, 4)) / 7).astype(dtype)
    codes = integers("codes", 0, (1 << bits) - 1, (40, 256))
    mlx_affine(written, MODULE, (40, 256), bits, 64, scales=scales, biases=biases, codes=codes)
    # The product is rounded, then the sum: as float32 has them.
    wide, middle = (np.repeat(x.astype(np.float32), 64, axis=1) for x in (scales, biases))
    written.values[DOWN] = codes.astype(np.float32) * wide + middle
    found = check(saved(written, {"bits": bits, "group_size": 64}))
    if bits == 5:
        assert found is None
    else:
        assert found.packing == Packing(f"int{bits}", 64, "offset")
        # Numbers of bfloat16 in the middle of its range are numbers of float16.
        assert found.scale_dtype == ("float32" if dtype is np.float32 else "float16")


def test_weights_that_are_not_finite_have_no_packed_form(tmp_path):
    written = Written(tmp_path)
    scales, biases = scales_of("s", (40, 4), F16), np.zeros((40, 4), F16)
    biases[3, 1] = np.inf
    codes = integers("codes", 0, 15, (40, 256))
    mlx_affine(written, MODULE, (40, 256), 4, 64, scales=scales, biases=biases, codes=codes)
    assert check(saved(written, {"bits": 4, "group_size": 64})) is None
