"""Google's own packing of Gemma: bits by patterns, scales of rows and of blocks."""

import numpy as np
import pytest
from checkpoints.exactness import change, check, refuse
from checkpoints.fixtures import F32, Written, integers, save, scales_of

from binq.errors import FormatError, UnsupportedFormatError

LAYER = "model.language_model.layers.0"
QUERY, UP, DOWN = (f"{LAYER}.{n}" for n in ("self_attn.q_proj", "mlp.up_proj", "mlp.down_proj"))
EMBED = "model.language_model.embed_tokens"
SETTINGS = {
    "quant_method": "gemma",
    "num_bits": 4,
    "quantize_embeddings": True,
    "module_quant_configs": {"mlp.down": {"num_bits": 8}, "mlp": {"num_bits": 2}, "embed": {}},
}


def add(written, module, shape, bits, parts=("weight", "weight_scale"), blocks=1):
    half = 1 << (bits - 1)
    codes = integers(module, -half, half - 1, shape)
    scales = scales_of(module, (shape[0], blocks), F32)
    wide = np.repeat(scales, shape[1] // blocks, axis=1)
    if bits == 8:
        stored = codes.astype(np.int8)
    else:
        each = 8 // bits
        missing = -shape[1] % each
        padded = np.pad(codes + half, ((0, 0), (0, missing)))
        strips = [padded[:, place::each] << (bits * place) for place in range(each)]
        stored = np.sum(strips, axis=0).astype(np.uint8)
    values = codes.astype(F32) * wide
    names = [f"{module}.{part}" for part in parts]
    written.packed(f"{module}.weight", values, dict(zip(names, (stored, scales), strict=True)))


def model(tmp_path, hidden=256):
    written = Written(tmp_path)
    add(written, QUERY, (64, hidden), 4)
    add(written, UP, (96, hidden), 2)
    add(written, DOWN, (hidden, 96), 8)
    embedding = ("embedding_quantized", "embedding_scale")
    add(written, EMBED, (40, hidden), 4, embedding, 2 if hidden % 2 == 0 else 1)
    written.put(f"{QUERY}.input_activation_scale", np.array(0.1, F32))
    text = {"hidden_size": hidden, "intermediate_size": 96}
    config = {"model_type": "gemma4", "text_config": text, "quantization_config": SETTINGS}
    return save(written, config)


def test_bits_are_those_of_the_first_pattern(tmp_path):
    written = model(tmp_path)
    assert str(check(written, f"{QUERY}.weight").packing) == "int4 row"
    assert check(written, f"{UP}.weight").packing.format == "int2"
    assert str(check(written, f"{DOWN}.weight").packing) == "int8 row"
    assert str(check(written, f"{EMBED}.weight").packing) == "int4 g128"


def test_a_row_need_not_fill_its_last_byte(tmp_path):
    """255 inputs of 2 bits take 64 bytes: the configuration tells them from 256."""
    assert check(model(tmp_path, 255), f"{UP}.weight").packing.format == "int2"


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"num_bits": 3}, UnsupportedFormatError, "3 bits"),
        ({"num_bits": 8}, FormatError, "expected a matrix of I8 for 8 bits"),
        ({"num_bits": 2}, FormatError, "has 512 inputs of 2 bits, by config.json they are 256"),
        ({"module_quant_configs": [1]}, FormatError, "module_quant_configs"),
        ({"module_quant_configs": {"(": {}}}, UnsupportedFormatError, "has the pattern"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path, settings, error, match):
    written = model(tmp_path)
    change(written, **settings)
    refuse(written, error, match)


@pytest.mark.parametrize("scales", [None, np.ones((64, 3), F32), np.ones((64, 1), np.uint8)])
def test_scales_that_do_not_fit_are_refused(tmp_path, scales):
    written = model(tmp_path)
    name = f"{QUERY}.weight_scale"
    del written.stored[name]
    if scales is not None:
        written.stored[name] = scales
    text = {"hidden_size": 256, "intermediate_size": 96}
    config = {"model_type": "gemma4", "text_config": text, "quantization_config": SETTINGS}
    refuse(save(written, config), FormatError, "weight_scale")
