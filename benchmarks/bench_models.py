"""How fast are the matrices of real models (Qwen 3.5, Gemma 4, Bonsai, GPT-OSS experts)?"""

import pytest
from cases import SMOKE

SHAPES = {
    "Qwen 3.5 9B mlp.up": (12288, 4096),
    "Gemma 4 12B mlp.down": (3840, 15360),
    "Bonsai 8B self_attn.k": (1024, 4096),
    "GPT-OSS expert down": (2880, 2880),
}
NAMES = ["numpy float32", "binq binary int16", "binq ternary int16", "binq int4 int16"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rows", [1, 64])
@pytest.mark.parametrize("model", SHAPES)
def bench_model(time_product, model, name, rows):
    out_features, in_features = SHAPES[model]
    if SMOKE:
        out_features, in_features = out_features // 32, in_features // 32
    time_product(name, out_features, in_features, rows=rows, question="models", model=model)
