"""compressed-tensors: each of its formats, as its releases have stored them."""

import json

import numpy as np
import pytest
from checkpoints import models
from checkpoints.exactness import DOWN, change, check, refuse
from checkpoints.fixtures import (
    BF16,
    F8,
    F16,
    F32,
    FP4,
    Written,
    floats,
    integers,
    pack_words,
    save,
    scales_of,
)

from binq.array.packing import Packing
from binq.errors import FormatError, UnsupportedFormatError
from binq.files.checkpoint import Checkpoint
from binq.models import logical_tensors

MODULE = DOWN.removesuffix(".weight")
SHAPE = (64, 256)
BLOCKS = {"num_bits": 4, "type": "int", "strategy": "block"}
TOKENS = {"num_bits": 4, "type": "int", "strategy": "token"}


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("group", [32, 128, None])
def test_compressed_tensors(tmp_path, bits, group, symmetric):
    found = check(models.compressed_tensors(tmp_path, bits, group, symmetric))
    if bits == 1:
        assert (found.packing.format, found.packing.group_size) == ("ternary", group)
    elif bits <= 3 or (bits == 4 and symmetric):
        assert found.packing == Packing(f"int{bits}", group, "none" if symmetric else "code")
    elif bits in (4, 8):
        assert (found.packing.format, found.packing.group_size, found.packing.symmetric) == (
            f"int{bits}",
            group,
            symmetric,
        )
    else:
        assert found is None


@pytest.mark.parametrize("group", [32, 128])
def test_ragged_last_group(tmp_path, group):
    written = Written(tmp_path)
    models.compressed(written, DOWN.removesuffix(".weight"), (37, 200), 4, group, False)
    config = {**models.QWEN3, "quantization_config": models.ct_config(4, group, False)}
    assert check(save(written, config)).packing.group_size == group


@pytest.mark.parametrize(("levels", "format"), [((-1, 1), "binary"), ((-1, 0, 1), "ternary")])
def test_ternary_in_two_bits_is_recognised(tmp_path, levels, format):
    written = Written(tmp_path)
    written.plain("model.embed_tokens.weight", (8, 256))
    codes = np.array(levels)[integers("codes", 0, len(levels) - 1, (64, 256))]
    models.compressed(written, DOWN.removesuffix(".weight"), (64, 256), 2, 128, codes=codes)
    config = {**models.QWEN3, "quantization_config": models.ct_config(2, 128, True)}
    assert check(save(written, config)).packing.format == format


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        (models.ct_config(4.0, 128, True), "4.0-bit"),
        ({"format": "float-quantized"}, "none of the schemes .*: float-quantized of 4-bit 'int'"),
        ({"transform_config": {"config_groups": {"u": 1}}}, "with a transform_config"),
        ({"sparsity_config": {"format": "sparse-24-bitmask"}}, "with a sparsity_config"),
        (models.ct_config(9, 128, True), "9-bit"),
        ({"config_groups": {"a": {"weights": {"num_bits": 4, "type": "nf"}}}}, "4-bit 'nf'"),
        ({"config_groups": {"a": {"weights": TOKENS}}}, "strategy 'token'"),
        ({"config_groups": {"a": {"weights": BLOCKS}}}, "strategy 'block'"),
    ],
)  # fmt: skip
def test_compressed_tensors_of_other_kinds_are_refused(tmp_path, settings, match):
    written = models.compressed_tensors(tmp_path)
    change(written, **settings)
    refuse(written, UnsupportedFormatError, match)


@pytest.mark.parametrize(
    ("part", "array", "match"),
    [
        ("shape", np.array([256.0, np.inf]), "does not hold two sizes"),
        ("shape", np.array([256, 384, 1]), "does not hold two sizes"),
        ("zero_point", np.zeros((32, 3), F32), "is F32, expected packed I32"),
        ("zero_point", np.zeros((32, 3), np.int8), "0 of the 1 schemes of the configuration fit"),
    ],
)
def test_compressed_tensors_whose_parts_have_other_types_are_refused(tmp_path, part, array, match):
    written = models.compressed_tensors(tmp_path, symmetric=False)
    written.stored[f"{DOWN}_{part}"] = array
    config = json.loads((tmp_path / "config.json").read_text())
    refuse(save(written, config), FormatError, match)


def test_compressed_tensors_that_say_nothing_of_their_order_are_refused(tmp_path):
    written = models.compressed_tensors(tmp_path)
    config = models.ct_config(4, 128, True)
    weights = config["config_groups"]["group_0"]["weights"]
    for order in ("weight", "static", None):
        weights["actorder"] = order
        change(written, **config)
        check(written)
    weights["actorder"] = "group"
    change(written, **config)
    refuse(written, FormatError, "actorder is set and .* has no weight_g_idx")


def test_compressed_tensors_that_fit_no_scheme_are_refused(tmp_path):
    written = models.compressed_tensors(tmp_path)
    change(written, **models.ct_config(4, 64, True))
    refuse(written, FormatError, "0 of the 1 schemes of the configuration fit")


def scheme(format, kind="int", bits=4, strategy="group", group=None, **more):
    weights = {"num_bits": bits, "type": kind, "strategy": strategy, "group_size": group, **more}
    return {"format": format, "targets": ["Linear"], "weights": {"symmetric": True, **weights}}


def made(tmp_path, values, parts, *schemes, format="mixed-precision", name=DOWN, **more):
    written = Written(tmp_path)
    written.packed(name, values, parts)
    groups = {f"group_{index}": group for index, group in enumerate(schemes)}
    settings = {"quant_method": "compressed-tensors", "format": format, "config_groups": groups}
    config = {**models.QWEN3, "quantization_config": {**settings, **more}}
    return save(written, config)


def grouped(codes, scales, group, zeros=0):
    """The weights of integers: each column by the scale and zero point of its group."""
    values = np.empty(codes.shape, F32)
    for column in range(codes.shape[-1]):
        g = column // group
        zero = zeros if isinstance(zeros, int) else zeros[..., g]
        values[..., column] = (codes[..., column] - zero).astype(F32) * scales[..., g].astype(F32)
    return values


def words(codes, bits, loose=False):
    """Unsigned codes along the last axis, densely, or ``32 // bits`` in each word."""
    if not loose:
        return pack_words(codes, bits).view(np.int32)
    each = 32 // bits
    missing = -codes.shape[-1] % each
    padded = np.concatenate([codes, np.zeros((*codes.shape[:-1], missing), int)], axis=-1)
    parts = padded.reshape(*codes.shape[:-1], -1, each)
    packed = sum(parts[..., place] << (bits * place) for place in range(each))
    return packed.astype(np.uint32).view(np.int32)


def packed_parts(codes, scales, bits, loose=False, module=MODULE):
    return {
        f"{module}.weight_packed": words(codes + (1 << (bits - 1)), bits, loose),
        f"{module}.weight_scale": scales,
        f"{module}.weight_shape": np.array(codes.shape),
    }


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_zero_points_may_be_bytes(tmp_path, bits):
    half = 1 << (bits - 1)
    codes = integers("codes", -half, half - 1, SHAPE)
    zeros = integers("zeros", -half, half - 1, (64, 2))
    scales = scales_of("s", (64, 2), BF16)
    parts = packed_parts(codes, scales, bits)
    parts[f"{MODULE}.weight_zero_point"] = zeros.astype(np.int8)
    kind = scheme("pack-quantized", bits=bits, group=128, symmetric=False)
    check(made(tmp_path, grouped(codes, scales, 128, zeros), parts, kind))


@pytest.mark.parametrize("symmetric", [True, False])
def test_zero_points_that_are_all_0_need_not_be_there(tmp_path, symmetric):
    codes, scales = integers("codes", -8, 7, SHAPE), scales_of("s", (64, 2))
    values, parts = grouped(codes, scales, 128), packed_parts(codes, scales, 4)
    kind = scheme("pack-quantized", group=128, symmetric=symmetric)
    assert check(made(tmp_path / "absent", values, parts, kind)).packing.symmetric
    parts[f"{MODULE}.weight_zero_point"] = np.zeros((64, 2), np.int8)
    check(made(tmp_path / "zeros", values, parts, kind))
    parts[f"{MODULE}.weight_zero_point"][3, 1] = 1
    if symmetric:
        broken = made(tmp_path / "others", values, parts, kind)
        refuse(broken, FormatError, "0 of the 1 schemes")


def test_schemes_that_mean_the_same_do_not_disagree(tmp_path):
    codes, scales = integers("codes", -8, 7, (64, 128)), scales_of("s", (64, 1))
    values, parts = grouped(codes, scales, 128), packed_parts(codes, scales, 4)
    kinds = [
        scheme("pack-quantized", group=128),
        scheme("pack-quantized", strategy="channel"),
        scheme("pack-quantized", group=256),
    ]
    check(made(tmp_path, values, parts, *kinds))


@pytest.mark.parametrize("pattern", ["re:.*down_proj$", DOWN.removesuffix(".weight"), "down_proj"])
def test_of_schemes_that_differ_the_one_that_names_a_module_counts(tmp_path, pattern):
    """8 bits in groups of 128 have the words of 4 bits of twice as many columns."""
    codes, scales = integers("codes", -8, 7, SHAPE), scales_of("s", (64, 1))
    values, parts = grouped(codes, scales, 256), packed_parts(codes, scales, 4)
    named = scheme("pack-quantized", strategy="channel") | {"targets": [pattern]}
    check(made(tmp_path / "a", values, parts, scheme("pack-quantized", group=64), named))
    # The scale of a tensor and those of its rows: only the size of the scales tells.
    one = scales_of("s", (1,))
    parts[f"{MODULE}.weight_scale"] = one
    tensor = scheme("pack-quantized", strategy="tensor")
    check(made(tmp_path / "b", codes * one.astype(F32), parts, tensor, named))


def test_formats_side_by_side(tmp_path):
    codes, scales = integers("codes", -8, 7, SHAPE), scales_of("s", (64, 2))
    written = Written(tmp_path)
    written.packed(DOWN, grouped(codes, scales, 128), packed_parts(codes, scales, 4))
    query = "model.layers.0.self_attn.q_proj.weight"
    weights, rows = (20 * floats("w", SHAPE)).astype(F8), scales_of("r", (64, 1), BF16)
    values = weights.astype(F32) * rows.astype(F32)
    written.packed(query, values, {query: weights, query + "_scale": rows})
    groups = {
        "a": scheme("pack-quantized", group=128),
        "b": scheme("float-quantized", "float", 8, "channel"),
    }
    settings = {"quant_method": "compressed-tensors", "format": "mixed-precision"}
    config = {"quantization_config": {**settings, "config_groups": groups}}
    assert check(save(written, {**models.QWEN3, **config})).packing.format == "int4"


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [3, 5, 6, 7])
@pytest.mark.parametrize("loose", [True, False])
@pytest.mark.parametrize("rows", [64, 40])
def test_odd_widths_lie_densely_or_word_by_word(tmp_path, bits, loose, symmetric, rows):
    """Zero points of 40 rows take as many words either way: they lie as the codes do."""
    half = 1 << (bits - 1)
    codes = integers("codes", -half, half - 1, (rows, 256))
    scales, zeros = scales_of("s", (rows, 2)), 0
    parts = packed_parts(codes, scales, bits, loose)
    if not symmetric:
        zeros = integers("zeros", -half, half - 1, (rows, 2))
        across = np.ascontiguousarray(zeros.T) + half
        parts[f"{MODULE}.weight_zero_point"] = np.ascontiguousarray(words(across, bits, loose).T)
    kind = scheme("pack-quantized", bits=bits, group=128, symmetric=symmetric)
    written = made(tmp_path, grouped(codes, scales, 128, zeros), parts, kind)
    check(written)
    with Checkpoint(written.path) as source:
        (tensor,) = logical_tensors(source)
        part = tensor.read_rows(source, 0, 13, 39)
    np.testing.assert_array_equal(part, written.values[DOWN][13:39])


@pytest.mark.parametrize("loose", [True, False])
def test_words_that_may_be_either_need_a_version(tmp_path, loose):
    codes, scales = integers("codes", -4, 3, (64, 20)), scales_of("s", (64, 1))
    values, parts = grouped(codes, scales, 20), packed_parts(codes, scales, 3, loose)
    kind = scheme("pack-quantized", bits=3, strategy="channel")
    refuse(made(tmp_path / "a", values, parts, kind), UnsupportedFormatError, "densely or word by")
    version = "0.17.1" if loose else "0.20.0"
    check(made(tmp_path / "b", values, parts, kind, version=version))


@pytest.mark.parametrize("symmetric", [True, False])
def test_stacks_of_experts_are_packed_slice_by_slice(tmp_path, symmetric):
    name = "model.layers.0.mlp.experts.up_proj.weight"
    module = name.removesuffix(".weight")
    codes, scales = integers("codes", -8, 7, (3, 64, 256)), scales_of("s", (3, 64, 2))
    zeros = 0 if symmetric else integers("zeros", -8, 7, (3, 64, 2))
    parts = packed_parts(codes, scales, 4, module=module)
    if not symmetric:
        packed = [words(np.ascontiguousarray(z.T) + 8, 4).T for z in zeros]
        parts[f"{module}.weight_zero_point"] = np.ascontiguousarray(packed)
    kind = scheme("pack-quantized", group=128, symmetric=symmetric)
    written = made(tmp_path, grouped(codes, scales, 128, zeros), parts, kind, name=name)
    with Checkpoint(written.path) as source:
        (tensor,) = logical_tensors(source)
        np.testing.assert_array_equal(tensor.read(source), written.values[name])
        np.testing.assert_array_equal(
            tensor.read_rows(source, 2, 7, 9), written.values[name][2, 7:9]
        )
        exact = tensor.exact_format(source)
        packed = tensor.exact_rows(source, exact, 1, 0, 64)
    np.testing.assert_array_equal(packed.dequantize(), written.values[name][1])


def test_packed_columns_in_activation_order(tmp_path):
    codes, scales = integers("codes", -8, 7, SHAPE), scales_of("s", (64, 4))
    order = np.random.default_rng(1).permutation(np.arange(256) // 64)
    values = np.stack([codes[:, c] * scales[:, order[c]].astype(F32) for c in range(256)], axis=1)
    parts = packed_parts(codes, scales, 4)
    parts[f"{MODULE}.weight_g_idx"] = order.astype(np.int32)
    kind = scheme("pack-quantized", group=64, actorder="group")
    assert check(made(tmp_path, values, parts, kind)) is None


@pytest.mark.parametrize("format", ["int-quantized", "naive-quantized"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("strategy", ["channel", "tensor", "group", "rows"])
def test_int8(tmp_path, strategy, symmetric, format):
    codes = integers("codes", -128, 127, SHAPE)
    shape = {"channel": (64, 1), "rows": (64,), "tensor": (1,), "group": (64, 2)}[strategy]
    scales = scales_of("s", shape, BF16)
    zeros = np.zeros(shape, int) if symmetric else integers("zeros", -128, 127, shape)
    each = (64, 2 if strategy == "group" else 1)
    wide = [np.broadcast_to(x if x.ndim > 1 else x[:, None], each) for x in (scales, zeros)]
    parts = {DOWN: codes.astype(np.int8), DOWN + "_scale": scales}
    if not symmetric:
        parts[DOWN + "_zero_point"] = zeros.astype(np.int8)
    size = 128 if strategy == "group" else 256
    strategy = "channel" if strategy == "rows" else strategy
    kind = scheme(format, bits=8, strategy=strategy, symmetric=symmetric,
                  group=128 if strategy == "group" else None)  # fmt: skip
    values = grouped(codes, wide[0], size, wide[1])
    packing = check(made(tmp_path, values, parts, kind)).packing
    group = 128 if strategy == "group" else None
    assert (packing.format, packing.group_size, packing.symmetric) == ("int8", group, symmetric)


def test_int8_that_holds_few_levels_is_exact(tmp_path):
    codes, scales = integers("codes", -8, 7, SHAPE), scales_of("s", (64, 1), BF16)
    parts = {DOWN: codes.astype(np.int8), DOWN + "_scale": scales}
    kind = scheme("int-quantized", bits=4, strategy="channel")
    written = made(tmp_path, codes * scales.astype(F32), parts, kind)
    assert str(check(written).packing) == "int4 row"
    written.stored[DOWN][5, 5] = 8
    config = json.loads((tmp_path / "config.json").read_text())
    with Checkpoint(save(written, config).path) as source:
        (tensor,) = logical_tensors(source)
        with pytest.raises(FormatError, match="holds -8 to 8, not integers of 4 bits"):
            tensor.read(source)


@pytest.mark.parametrize(
    ("strategy", "shape", "more"),
    [
        ("channel", (64, 1), {}),
        ("tensor", (1,), {}),
        ("tensor", (), {}),
        ("block", (2, 2), {"block_structure": [48, 128]}),
        ("block", (1, 2), {}),
        ("group", (64, 4), {"group_size": 64}),
    ],
)
@pytest.mark.parametrize("format", ["float-quantized", "naive-quantized"])
def test_float8(tmp_path, strategy, shape, more, format):
    weights, scales = (20 * floats("w", SHAPE)).astype(F8), scales_of("s", shape, BF16)
    values = weights.astype(F32)
    blocks = {"channel": (1, 256), "tensor": (64, 256), "group": (1, 64)}
    high, wide = blocks.get(strategy, more.get("block_structure", [128, 128]))
    grid = scales.astype(F32).reshape(-(-64 // high), -(-256 // wide))
    for row, column in np.ndindex(SHAPE):
        values[row, column] *= grid[row // high, column // wide]
    parts = {DOWN: weights, DOWN + "_scale": scales}
    check(made(tmp_path, values, parts, scheme(format, "float", 8, strategy) | {
        "weights": scheme(format, "float", 8, strategy)["weights"] | more}))  # fmt: skip


def test_mxfp8(tmp_path):
    weights, exponents = (2 * floats("w", SHAPE)).astype(F8), integers("e", 110, 130, (64, 8))
    values = weights.astype(F32) * np.repeat(np.exp2(exponents - 127.0), 32, axis=1)
    parts = {DOWN: weights, DOWN + "_scale": exponents.astype(np.uint8)}
    check(made(tmp_path, values, parts, scheme("mxfp8-quantized", "float", 8, group=32)))


def fp4_bytes(codes):
    return (codes[..., 0::2] | codes[..., 1::2] << 4).astype(np.uint8)


@pytest.mark.parametrize("lead", [(), (3,)])
@pytest.mark.parametrize("group", [32, None])
def test_mxfp4(tmp_path, lead, group):
    codes = integers("codes", 0, 15, (*lead, *SHAPE))
    exponents = integers("e", 100, 130, (*lead, 64, 8))
    values = FP4[codes] * np.repeat(np.exp2(exponents - 127.0), 32, axis=-1)
    parts = {DOWN + "_packed": fp4_bytes(codes), DOWN + "_scale": exponents.astype(np.uint8)}
    kind = scheme("mxfp4-pack-quantized", "float", 4, group=group)
    check(made(tmp_path, values, parts, kind))


@pytest.mark.parametrize("group", [16, None])
def test_nvfp4_divides_by_the_scale_of_the_tensor(tmp_path, group):
    codes = integers("codes", 0, 15, SHAPE)
    scales = (100 * np.abs(floats("s", (64, 16)))).astype(F8)
    overall = np.array([1234.5], F32)
    values = FP4[codes] * np.repeat(scales.astype(F32) / overall, 16, axis=-1)
    parts = {
        DOWN + "_packed": fp4_bytes(codes),
        DOWN + "_scale": scales,
        DOWN + "_global_scale": overall,
    }
    kind = scheme("nvfp4-pack-quantized", "float", 4, "tensor_group", group)
    written = made(tmp_path, values, parts, kind)
    check(written)
    for part in ("_scale", "_global_scale"):
        broken = {name: array for name, array in parts.items() if name != DOWN + part}
        broken = made(tmp_path / part, values, broken, kind)
        refuse(broken, FormatError, "has no .*weight_scale|0 of the 1 schemes")


def test_experts_of_a_family_that_stores_them_input_major_are_refused(tmp_path):
    written = Written(tmp_path)
    name = "language_model.model.layers.0.feed_forward.experts.down_proj"
    written.stored = {name: np.ones((2, 64, 128), F8), name + "_scale_inv": np.ones((2, 1, 1), F32)}
    settings = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    written = save(written, {"model_type": "llama4", "quantization_config": settings})
    refuse(written, UnsupportedFormatError, "input-major; of float8")


def test_scales_and_weights_of_other_shapes_are_refused(tmp_path):
    parts = {DOWN: np.ones(SHAPE, F8), DOWN + "_scale": np.ones((64, 3), F32)}
    kind = scheme("float-quantized", "float", 8, "channel")
    refuse(made(tmp_path / "a", np.ones(SHAPE), parts, kind), FormatError, "0 of the 1 schemes")
    parts = {DOWN: np.ones(SHAPE, np.int8), DOWN + "_scale": np.ones((64, 3), F16)}
    kind = scheme("int-quantized", bits=8, strategy="channel")
    refuse(made(tmp_path / "b", np.ones(SHAPE), parts, kind), FormatError, "0 of the 1 schemes")
    kind = scheme("pack-quantized", bits=8, strategy="channel")
    broken = made(tmp_path / "c", np.ones(SHAPE), parts, kind)
    refuse(broken, UnsupportedFormatError, "is I8 .*none of the schemes")
