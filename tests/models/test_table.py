"""The table of families: any model, families of programs and plugins, input-major matrices."""

import json
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from checkpoints.fixtures import Written, save
from hypothesis import given
from hypothesis import strategies as st

import binq
from binq.convert.verify import verify
from binq.errors import FormatError, UnknownModelWarning, UnsupportedFormatError
from binq.files.checkpoint import Checkpoint
from binq.models import UNKNOWN, Family, Rule, logical_tensors, register, table
from binq.models.family import judge

MIX = Family(
    name="Mixer",
    model_types=("mixer",),
    rules=(Rule(r"norm\.weight$", "norm", "norms are small"), Rule(r"\.mix\.weight$", "linear")),
)
LINEAR, ODD = "blocks.0.mix.weight", "blocks.0.other.weight"


@pytest.fixture
def clean(monkeypatch):
    """Puts the table back as it was."""
    monkeypatch.setattr(table, "FAMILIES", dict(table.FAMILIES))
    monkeypatch.setattr(table, "_NAMED", dict(table._NAMED))
    monkeypatch.setattr(table, "_plugins_read", True)


def model(folder, config, shapes, dtype=np.float16):
    written = Written(folder)
    for name, shape in shapes.items():
        written.plain(name, shape, dtype)
    written = save(written, config or {})
    if config is None:
        (folder / "config.json").unlink()
    return written


def quantized(source, family=None):
    return {tensor.name for tensor in logical_tensors(source, family) if tensor.quantize}


ANY = {
    "encoder.layer.0.attention.self.query.weight": (64, 64),
    "h.0.ffn.weight": (64, 64),
    "embeddings.word.weight": (128, 64),
    "wte.weight": (128, 64),
    "lm_head.weight": (128, 64),
    "classifier.weight": (4, 64),
    "h.0.ln_1.weight": (64,),
    "h.0.bias": (64,),
    "mlp.gate.weight": (4, 64),
    "stem.conv.weight": (64, 3, 4, 4),
    "h.0.experts.weight": (4, 64, 64),
    "h.0.table": (64, 64),
}
LINEARS = {"encoder.layer.0.attention.self.query.weight", "h.0.ffn.weight"}


@pytest.mark.parametrize("config", [None, {}, {"model_type": "new"}, {"model_type": ["bert"]}])
def test_any_model_has_its_matrices_quantized_and_says_so(tmp_path, config):
    written = model(tmp_path / "s", config, ANY)
    with Checkpoint(written.path) as source:
        assert quantized(source) == LINEARS
    with pytest.warns(UnknownModelWarning, match="linear layers"):
        report = binq.quantize_checkpoint(written.path, tmp_path / "t", group_size=64)
    assert {t.name for t in report.tensors if not t.kept} == LINEARS
    assert "--family" in report.warnings[0]
    assert report.warnings[0] in str(report)
    assert report.warnings[0] in json.loads(report.to_json())["warnings"]
    assert list(verify(tmp_path / "t", written.path)) == []


def test_one_file_of_any_model_is_read(tmp_path):
    path = model(tmp_path, None, ANY).path / "model.safetensors"
    report = binq.quantize_checkpoint(
        path, tmp_path / "t", group_size=64, family="generic", rules=["h.0.table=ternary"]
    )
    assert {t.name for t in report.tensors if not t.kept} == {*LINEARS, "h.0.table"}
    assert not any("no config.json" in warning for warning in report.warnings)
    assert list(verify(tmp_path / "t", path)) == []


@pytest.mark.parametrize("name", ["BERT", "bert", "roberta"])
def test_a_family_is_named_by_its_name_or_a_model_type(tmp_path, name):
    shapes = {"predictions.dense.weight": (64, 64), "encoder.layer.0.output.dense.weight": (64, 64)}
    written = model(tmp_path / "s", {"model_type": "new"}, shapes)
    with Checkpoint(written.path) as source:
        assert quantized(source, name) == {"encoder.layer.0.output.dense.weight"}
    report = binq.quantize_checkpoint(written.path, tmp_path / "t", family=name)
    config = json.loads((tmp_path / "t/config.json").read_text())
    assert config["quantization_config"]["family"] == "BERT"
    assert report.warnings == []
    assert list(verify(tmp_path / "t", written.path)) == []


@pytest.mark.parametrize("wrong", ["", "nothing", 3])
def test_a_family_that_there_is_not_is_an_error(tmp_path, wrong):
    written = model(tmp_path / "s", {"model_type": "bert"}, {LINEAR: (64, 64)})
    with pytest.raises((ValueError, TypeError), match="family must be"):
        binq.quantize_checkpoint(written.path, tmp_path / "t", family=wrong)


def test_a_registered_family_reads_its_models(clean, tmp_path):
    written = model(tmp_path / "s", {"model_type": "mixer"}, {LINEAR: (64, 64), ODD: (64, 64)})
    register(MIX)
    register(MIX)  # an equal one again changes nothing
    with Checkpoint(written.path) as source:
        assert quantized(source) == {LINEAR}
    report = binq.quantize_checkpoint(written.path, tmp_path / "t")
    assert [t.name for t in report.unknown] == [ODD]
    assert list(verify(tmp_path / "t", written.path)) == []


def test_a_name_that_is_taken_is_not_registered(clean):
    register(MIX)
    with pytest.raises(ValueError, match="family 'MIXER' is registered"):
        register(Family("MIXER", (), ()))
    with pytest.raises(ValueError, match="'llama' belongs to the family 'dense'"):
        register(Family("mine", ("llama",), ()))
    with pytest.raises(ValueError, match="must have a name"):
        register(Family("", (), ()))
    with pytest.raises(TypeError, match=r"an instance of binq\.models\.Family, got dict"):
        register({"name": "mine"})


def test_plugins_are_read_when_a_model_is_not_known(clean, monkeypatch, tmp_path):
    def fails():
        raise ImportError("no such module")

    points = [
        SimpleNamespace(value="broken:FAMILY", load=fails),
        SimpleNamespace(value="mixer:FAMILY", load=lambda: MIX),
    ]
    asked = []
    monkeypatch.setattr(table, "entry_points", lambda group: asked.append(group) or points)
    monkeypatch.setattr(table, "_plugins_read", False)
    assert table.by_model_type("llama").name == "dense"
    assert asked == []
    with pytest.warns(UserWarning, match="'broken:FAMILY' of binq.models: no such module"):
        assert table.by_model_type("mixer") == MIX
    assert table.by_name("mixer") == MIX
    assert asked == ["binq.models"]


GPT2 = {"model_type": "gpt2", "n_embd": 64}
CONV1D = {
    "h.0.attn.c_attn.weight": (64, 192),
    "h.0.attn.c_proj.weight": (64, 64),
    "h.0.mlp.c_fc.weight": (64, 256),
    "h.0.mlp.c_proj.weight": (256, 64),
}


def test_matrices_of_gpt2_are_stored_input_major(tmp_path):
    others = {"wte.weight": (96, 64), "h.0.ln_1.weight": (64,), "h.0.attn.bias": (1, 1, 16, 16)}
    written = model(tmp_path / "s", GPT2, CONV1D | others)
    binq.quantize_checkpoint(written.path, tmp_path / "t", "int4", group_size=32)
    made = binq.load_file(next((tmp_path / "t").glob("*.safetensors")))
    for name in CONV1D:
        turned = np.ascontiguousarray(written.values[name].T)
        assert made[name] == binq.quantize(turned, "int4", group_size=32), name
    assert sorted(name for name, q in made.items() if isinstance(q, np.ndarray)) == sorted(others)
    settings = json.loads((tmp_path / "t/config.json").read_text())["quantization_config"]
    assert settings["transposed"] == sorted(CONV1D)
    assert list(verify(tmp_path / "t", written.path)) == []


def test_matrices_of_gpt2_that_lie_the_other_way_are_refused(tmp_path):
    written = model(tmp_path / "s", GPT2, {"h.0.attn.c_attn.weight": (192, 64)})
    with (
        Checkpoint(written.path) as source,
        pytest.raises(FormatError, match=r"c_attn.*expected 64 inputs, the n_embd"),
    ):
        logical_tensors(source)


def test_names_of_gpt2_alone_say_nothing(tmp_path):
    """GPT-BigCode has the same names for matrices that lie the usual way."""
    with Checkpoint(model(tmp_path / "a", {"model_type": "new"}, CONV1D).path) as source:
        assert quantized(source) == set()
        assert all("input-major" in t.reason for t in logical_tensors(source))
    shapes = {name: shape[::-1] for name, shape in CONV1D.items()}
    with Checkpoint(model(tmp_path / "b", {"model_type": "gpt_bigcode"}, shapes).path) as source:
        assert quantized(source) == set(CONV1D)
        assert {tensor.scheme for tensor in logical_tensors(source)} == {"plain"}


@pytest.mark.parametrize(
    "config",
    [{"quantization_config": {"quant_method": "gptq", "hadamard": True}}, {"rotation": {"n": 4}}],
)
def test_configurations_that_speak_of_a_rotation_are_refused(tmp_path, config):
    written = model(tmp_path, {"model_type": "llama"} | config, {LINEAR: (64, 64)})
    with (
        Checkpoint(written.path) as source,
        pytest.raises(UnsupportedFormatError, match="rotated basis"),
    ):
        logical_tensors(source)


@given(st.text("abehilmnorstw._0", min_size=1, max_size=30), st.integers(0, 5))
def test_every_name_has_a_role_and_a_kept_one_a_reason(name, axes):
    for family in set(table._NAMED.values()):
        verdict = judge(family.rules_for({}), name, (2,) * axes)
        assert verdict.role
        assert verdict.quantize == (not verdict.reason)
        assert verdict.quantize <= (axes >= 2)


@pytest.mark.parametrize("part", ["norm_", "embed", "_", "emb_", "a.", "conv_layers.", "bn_1"])
def test_long_names_take_no_time(part):
    began = time.perf_counter()
    for family in set(table._NAMED.values()):
        rules = family.rules_for({})
        for length in (500, 1 << 16):
            assert judge(rules, (part * length)[:length], (2, 2)).role
    assert time.perf_counter() - began < 5


def test_every_family_has_a_row_of_its_own():
    for kind, family in table.FAMILIES.items():
        assert kind in family.model_types
        assert table.by_name(family.name) is family
    assert judge(table.by_name("dense").rules_for({}), "x.weight", (2, 2)).reason == UNKNOWN


@pytest.mark.parametrize(
    ("fields", "error", "text"),
    [
        ({"name": None}, TypeError, "the name of a family must be a string, got None"),
        (
            {"model_types": "mixer"},
            TypeError,
            "must be a tuple of strings, got 'mixer'",
        ),
        ({"rules": [Rule("a", "linear")]}, TypeError, "rules must be a tuple of Rule, got"),
        ({"rules": (("a", "linear"),)}, TypeError, r"rules must be a tuple of Rule, got \('a'"),
        ({"rules": (Rule("(", "linear"),)}, ValueError, r"pattern must be a regular .* got '\('"),
        ({"input_major": "["}, ValueError, r"input_major must be a regular expression, got '\['"),
    ],
)
def test_a_family_that_could_not_serve_is_refused_by_its_field(clean, fields, error, text):
    with pytest.raises(error, match=text):
        register(replace(MIX, **fields))
    assert "mixer" not in table.FAMILIES


def test_a_class_is_not_a_family(clean):
    with pytest.raises(TypeError, match=r"an instance of binq\.models\.Family, got class Family"):
        register(Family)
