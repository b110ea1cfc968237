"""examples/calibrate.py: layer by layer, better than each layer by itself."""

import json
import sys
from pathlib import Path
from runpy import run_path

import numpy as np
import pytest

import binq

EXAMPLE = Path(__file__).parents[1] / "examples" / "calibrate.py"
WIDTH, WIDE, LAYERS, WORDS = 64, 96, 3, 50


@pytest.fixture(scope="module")
def calibrate():
    return run_path(str(EXAMPLE))


def decoder(rng):
    """Returns tensors and configuration of a small Qwen 3."""
    tensors = {"model.embed_tokens.weight": (WORDS, WIDTH), "model.norm.weight": (WIDTH,)}
    for n in range(LAYERS):
        layer = f"model.layers.{n}."
        tensors |= {
            layer + "input_layernorm.weight": (WIDTH,),
            layer + "post_attention_layernorm.weight": (WIDTH,),
            layer + "self_attn.q_proj.weight": (WIDTH, WIDTH),
            layer + "self_attn.k_proj.weight": (WIDTH // 2, WIDTH),
            layer + "self_attn.v_proj.weight": (WIDTH // 2, WIDTH),
            layer + "self_attn.o_proj.weight": (WIDTH, WIDTH),
            layer + "self_attn.q_norm.weight": (16,),
            layer + "self_attn.k_norm.weight": (16,),
            layer + "mlp.gate_proj.weight": (WIDE, WIDTH),
            layer + "mlp.up_proj.weight": (WIDE, WIDTH),
            layer + "mlp.down_proj.weight": (WIDTH, WIDE),
        }
    config = {
        "model_type": "qwen3",
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
    }
    return fill(rng, tensors), config


def encoder(rng):
    """Returns tensors and configuration of a small BERT."""
    tensors = {
        "embeddings.word_embeddings.weight": (WORDS, WIDTH),
        "embeddings.position_embeddings.weight": (40, WIDTH),
        "embeddings.token_type_embeddings.weight": (2, WIDTH),
    }
    shapes = {
        "attention.self.query": (WIDTH, WIDTH),
        "attention.self.key": (WIDTH, WIDTH),
        "attention.self.value": (WIDTH, WIDTH),
        "attention.output.dense": (WIDTH, WIDTH),
        "intermediate.dense": (WIDE, WIDTH),
        "output.dense": (WIDTH, WIDE),
        "attention.output.LayerNorm": (WIDTH,),
        "output.LayerNorm": (WIDTH,),
    }
    parts = {"embeddings.LayerNorm": (WIDTH,)}
    for n in range(LAYERS):
        parts |= {f"encoder.layer.{n}.{name}": shape for name, shape in shapes.items()}
    for name, shape in parts.items():
        tensors[f"{name}.weight"] = shape
        tensors[f"{name}.bias"] = shape[:1]
    config = {
        "model_type": "bert",
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "layer_norm_eps": 1e-12,
        "hidden_act": "gelu",
    }
    return fill(rng, tensors), config


def fill(rng, shapes):
    made = {}
    for name, shape in shapes.items():
        values = rng.standard_normal(shape).astype(np.float32)
        if len(shape) == 1:
            made[name] = values * np.float32(0.3) + (1 if name.endswith("weight") else 0)
        else:
            made[name] = values / np.float32(np.sqrt(shape[1]))
    return made


@pytest.fixture(params=[decoder, encoder], ids=["decoder", "encoder"])
def source(request, tmp_path):
    tensors, config = request.param(np.random.default_rng(0))
    folder = tmp_path / "src"
    folder.mkdir()
    binq.save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def tokens(seed):
    ids = np.random.default_rng(seed).integers(0, WORDS, (24, 20))
    ids[3, 12:] = -1
    return ids


def test_writes_a_calibrated_folder(calibrate, source, tmp_path, monkeypatch, capsys):
    np.save(tmp_path / "ids.npy", tokens(1))
    arguments = [source, tmp_path / "ids.npy", tmp_path / "dst", "--format", "ternary"]
    monkeypatch.setattr(sys, "argv", ["calibrate.py", *map(str, arguments), "--group-size", "32"])
    calibrate["main"]()
    assert capsys.readouterr().out.count("layer ") == LAYERS
    tensors, made = binq.load(source), binq.load(tmp_path / "dst")
    assert sorted(made) == sorted(tensors)
    model = calibrate["model_of"](tensors)
    batches = [tokens(2)]
    linear = set(calibrate["collect"](model, batches))
    for name in tensors:
        assert isinstance(made[name], binq.QuantizedArray) == (name in linear)
    # On other tokens, nearer to the float model than each layer by its weights alone.
    exact = calibrate["run"](model, batches, tensors)[0]
    alone = {name: binq.quantize(tensors[name], "ternary", group_size=32) for name in linear}
    biases = {name: tensors[name] for name in tensors if name.endswith("bias")}
    kept = batches[0] >= 0

    def off(weights):
        return np.linalg.norm((calibrate["run"](model, batches, weights)[0] - exact)[kept])

    assert off(made) < 0.9 * off(alone | biases)


def test_one_pass_collects_what_each_layer_meets(calibrate, source):
    tensors = binq.load(source)
    model = calibrate["model_of"](tensors)
    cal = calibrate["collect"](model, [tokens(1)[:12], tokens(1)[12:]])
    shapes = {name: tensors[name].shape for name in cal}
    assert len(cal) == LAYERS * (7 if len(shapes) == 7 * LAYERS else 6)
    for name, (_, columns) in shapes.items():
        assert cal[name].in_features == columns
        assert cal[name].count == (tokens(1) >= 0).sum()


def test_collects_what_a_target_of_bits_needs(calibrate, source, tmp_path, monkeypatch):
    np.save(tmp_path / "ids.npy", tokens(1))
    arguments = [source, tmp_path / "ids.npy", tmp_path / "cal.safetensors", "--collect"]
    monkeypatch.setattr(sys, "argv", ["calibrate.py", *map(str, arguments)])
    calibrate["main"]()
    cal = binq.Calibrator.load(tmp_path / "cal.safetensors")
    assert set(cal.sensitivities) == set(cal)
    assert min(cal.sensitivities.values()) > 0
    # The last layer alone, once more: what it takes from the predictions of the first batch.
    name = list(cal)[-1]
    tensors = binq.load(source)
    model, ids = calibrate["model_of"](tensors), tokens(1)[:8]
    q = binq.quantize(tensors[name], "int3", group_size=64, method="gptq", stats=cal[name])
    changed = {other: np.asarray(tensors[other]) for other in tensors} | {name: q.dequantize()}
    stream = calibrate["Stream"]
    found = []
    for weights in (tensors, changed):
        passed = stream(model, [ids])
        for number in range(LAYERS):
            passed.through(number, weights)
        found.append(model.predictions(passed.h[0])[ids >= 0])
    assert cal.sensitivities[name] == pytest.approx(model.lost(*found).mean(), rel=1e-3)
    report = binq.quantize_checkpoint(
        source, tmp_path / "out", target_bpw=3.6, calibration=tmp_path / "cal.safetensors"
    )
    packed = [t for t in report.tensors if t.expected_loss is not None]
    assert len(packed) == len(cal)
    assert len({t.format for t in packed}) > 1
