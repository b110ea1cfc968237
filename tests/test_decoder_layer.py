"""A decoder's layer as one call: the bits of its steps one by one, whatever it is made of."""

import json

import numpy as np
import pytest
from strategies import random_quantized

import binq
from binq import _core, nn
from binq.run import Decoder
from binq.run.layer import PackedLayer

HIDDEN, INNER, VOCAB = 80, 168, 120
HEADS, KV_HEADS, SIZE = 6, 2, 24


def model(folder, rng, *, format="int4", biases=(), normed=True, **config):
    """Writes a random model of two layers, of sizes that fill neither tiles nor groups."""
    queries, keys = HEADS * SIZE, KV_HEADS * SIZE
    shapes = {"self_attn.q_proj": (queries, HIDDEN), "self_attn.k_proj": (keys, HIDDEN)}
    shapes |= {"self_attn.v_proj": (keys, HIDDEN), "self_attn.o_proj": (HIDDEN, queries)}
    shapes |= {"mlp.gate_proj": (INNER, HIDDEN), "mlp.up_proj": (INNER, HIDDEN)}
    shapes |= {"mlp.down_proj": (HIDDEN, INNER)}
    vectors = {"input_layernorm": HIDDEN, "post_attention_layernorm": HIDDEN}
    vectors |= {"self_attn.q_norm": SIZE, "self_attn.k_norm": SIZE} if normed else {}
    tensors = {"model.embed_tokens.weight": rng.standard_normal((VOCAB, HIDDEN), np.float32)}
    tensors["model.norm.weight"] = np.ones(HIDDEN, np.float32)
    for number in range(2):
        prefix = f"model.layers.{number}."
        for name, shape in shapes.items():
            tensors[f"{prefix}{name}.weight"] = random_quantized(rng, format, shape, 32)
            if name in biases:
                tensors[f"{prefix}{name}.bias"] = rng.standard_normal(shape[0], np.float32)
        for name, length in vectors.items():
            tensors[f"{prefix}{name}.weight"] = rng.uniform(0.5, 1.5, length).astype(np.float32)
    binq.save_file(tensors, folder / "model.safetensors")
    said = {"hidden_size": HIDDEN, "num_hidden_layers": 2, "head_dim": SIZE}
    said |= {"num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "model_type": "qwen3"}
    (folder / "config.json").write_text(json.dumps(said | config))
    return folder


def stepwise(decoder):
    """Returns the decoder without its compiled layers."""
    for layer in decoder.layers:
        assert layer.pop("whole")
    return decoder


def assert_same(folder, mode="int16"):
    whole, steps = Decoder(folder, mode), stepwise(Decoder(folder, mode))
    for tokens in ([7, 3, 99], [5], [*range(40)], [0]):
        got, expected = whole(tokens), steps(tokens)
        assert np.isfinite(expected).all()
        np.testing.assert_array_equal(got, expected)
        for one, other in zip(whole.caches, steps.caches, strict=True):
            assert len(one) == len(other)
            np.testing.assert_array_equal(one._keys, other._keys)
            np.testing.assert_array_equal(one._values, other._values)


@pytest.mark.parametrize("mode", ["float32", "int16", "int8"])
def test_modes(isa, mode, tmp_path):
    assert_same(model(tmp_path, np.random.default_rng(0)), mode)


@pytest.mark.parametrize("format", ["binary", "ternary", "int2", "int3", "int8", "mxfp4", "iq4nl"])
def test_formats(format, tmp_path):
    assert_same(model(tmp_path, np.random.default_rng(1), format=format))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_threads(count, threads, tmp_path, monkeypatch):
    monkeypatch.setattr("binq.run.decoder.CHUNK", 11)
    binq.set_num_threads(count)
    assert_same(model(tmp_path, np.random.default_rng(2)))


@pytest.mark.parametrize(
    "more",
    [
        {"model_type": "llama", "normed": False},
        {"model_type": "qwen2", "normed": False, "biases": ("self_attn.q_proj", "mlp.down_proj")},
        {"biases": ("self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.up_proj")},
        {"model_type": "mistral", "normed": False, "sliding_window": 5},
    ],
)
def test_kinds_of_layers(more, tmp_path):
    assert_same(model(tmp_path, np.random.default_rng(3), **more))


def test_a_row_that_integers_cannot_carry(tmp_path):
    """Inf in x goes by floats, as in every product."""
    whole = Decoder(model(tmp_path, np.random.default_rng(4)), "int8")
    steps = stepwise(Decoder(tmp_path, "int8"))
    for decoder in (whole, steps):
        decoder.embeddings = np.array(decoder.embeddings)
        decoder.embeddings[3, 5] = np.inf
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(whole([1, 3, 2]), steps([1, 3, 2]))


@pytest.fixture
def parts(tmp_path):
    decoder = Decoder(model(tmp_path, np.random.default_rng(5)))
    layer = decoder.layers[0]
    weights = [w for key in ("qkv", "o", "gate_up", "down") for w in layer[key]]
    norms = ("input_layernorm", "post_attention_layernorm", "q_norm", "k_norm")
    return {
        "matrices": tuple(w._data.matrices()[0] for w in weights),
        "biases": (None,) * 7,
        "norms": tuple(layer[name] for name in norms),
        "sizes": [HEADS, KV_HEADS, SIZE],
        "window": 0,
        "mode": 0,
    }


def native(parts):
    numbers = parts["sizes"], 1e-6, 1.0, parts["window"], parts["mode"]
    return _core.DecoderLayer(
        parts["matrices"], parts["biases"], parts["norms"], *numbers[0], *numbers[1:]
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sizes", [5, 2, 24]),
        ("sizes", [6, 0, 24]),
        ("sizes", [6, 2, 23]),
        ("sizes", [6, 3, 24]),
        ("sizes", [3, 1, 48]),
        ("biases", (np.zeros(143, np.float32), *(None,) * 6)),
        ("biases", (None,) * 6),
        ("norms", (np.ones(79, np.float32), np.ones(80, np.float32), None, None)),
        ("norms", (np.ones(80, np.float32), None, None, None)),
        ("norms", (np.ones(80, np.float32), np.ones(80, np.float32), None, np.ones(24, "f4"))),
        ("window", -1),
        ("mode", 3),
    ],
)
def test_what_does_not_fit_is_refused(parts, name, value):
    native(parts)
    with pytest.raises(ValueError, match="must"):
        native(parts | {name: value})


@pytest.mark.parametrize("number", range(7))
def test_another_matrix_is_refused(parts, number):
    other = random_quantized(np.random.default_rng(0), "int4", (48, 56), 32)._data.matrices()[0]
    matrices = [*parts["matrices"]]
    matrices[number] = other
    with pytest.raises(ValueError, match="must have shape"):
        native(parts | {"matrices": tuple(matrices)})
    with pytest.raises(TypeError):
        native(parts | {"matrices": (*matrices[:number], None, *matrices[number + 1 :])})


def test_runs_refuse_what_does_not_fit(parts):
    layer = native(parts)
    cache = nn.KeyValueCache(KV_HEADS, SIZE)
    angles = np.zeros((2, SIZE // 2), np.float32)
    x = np.ones((2, HIDDEN), np.float32)
    with cache._room(2) as (keys, values, start):
        layer.run(x, angles, angles, keys, values, start)
        wrong = [
            (x[:, :-1].copy(), angles, angles, keys, values, start),
            (x, angles[:1], angles, keys, values, start),
            (x, angles, angles[:, 1:].copy(), keys, values, start),
            (x, angles, angles, keys[:1], values, start),
            (x, angles, angles, keys, values, -1),
            (x, angles, angles, keys, values, values.shape[1] - 1),
        ]
        for arguments in wrong:
            with pytest.raises(ValueError, match="must"):
                layer.run(*arguments)
    layer.run(x[:0], angles[:0], angles[:0], keys, values, 0)
    with pytest.raises(RuntimeError, match="does not change"):
        layer.__init__(
            parts["matrices"], parts["biases"], parts["norms"], 6, 2, 24, 1e-6, 1.0, 0, 0
        )


def test_a_cache_counts_what_was_written():
    cache = nn.KeyValueCache(1, 2)
    with pytest.raises(KeyError), cache._room(3):
        raise KeyError
    assert len(cache) == 0
    cache.append(np.ones((2, 1, 2)), np.ones((2, 1, 2)))
    assert len(cache) == 2


def test_other_weights_take_the_steps(tmp_path):
    layer = Decoder(model(tmp_path, np.random.default_rng(6))).layers[0]
    floats = layer["o"][0].dequantize()
    rotation = binq.Rotation.of(16, np.ones(floats.shape[1]))
    q = layer["o"][0]
    rotated = binq.QuantizedArray.from_codes(
        q.codes(), np.ones((HIDDEN, 5), np.float16), format="int4", group_size=32, rotation=rotation
    )
    assert PackedLayer.takes(layer)
    for other in (floats, rotated):
        assert not PackedLayer.takes(layer | {"o": [other]})
