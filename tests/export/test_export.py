"""binq export: what every target does, refusals before a byte is written, files and folders."""

import json

import numpy as np
import pytest
from checkpoints.exported import CONFIG

import binq
from binq import cli, storage
from binq.export.export import MARK

FORM = "compressed-tensors"
NAME = "model.layers.0.mlp.up_proj.weight"


def test_config_and_files_come_along_and_binqs_own_settings_do_not(packed, tmp_path):
    out = tmp_path / "out"
    report = binq.export_checkpoint(packed("int4"), out, to=FORM)
    config = json.loads((out / "config.json").read_text())
    settings = config.pop("quantization_config")
    assert config == CONFIG
    assert settings["quant_method"] == FORM
    assert sorted(path.name for path in out.iterdir()) == [
        "chat_template.jinja",
        "config.json",
        "model.safetensors",
        "tokenizer_config.json",
    ]
    assert report.notes == []
    assert not list(tmp_path.glob("*.partial"))


def test_shards_and_their_index(packed, tmp_path):
    source = packed("int4")
    binq.export_checkpoint(source, tmp_path / "one", to=FORM)
    binq.export_checkpoint(source, tmp_path / "many", to=FORM, max_shard_bytes=200_000)
    index = json.loads((tmp_path / "many" / "model.safetensors.index.json").read_text())
    files = set(index["weight_map"].values())
    assert len(files) > 2
    stored = {}
    for name in files:
        stored |= binq.load_file(tmp_path / "many" / name)
    whole = binq.load_file(tmp_path / "one" / "model.safetensors")
    assert stored.keys() == whole.keys() == index["weight_map"].keys()
    assert all(np.array_equal(stored[name], whole[name]) for name in whole)
    assert index["metadata"]["total_size"] == sum(array.nbytes for array in whole.values())


def test_a_file_without_config_exports_what_it_has_and_says_so(tmp_path):
    q = binq.quantize(np.random.default_rng(0).standard_normal((40, 96)), "int4", group_size=32)
    binq.save_file({NAME: q, "b": np.ones(3, np.float16)}, tmp_path / "m.safetensors")
    report = binq.export_checkpoint(tmp_path / "m.safetensors", tmp_path / "out", to=FORM)
    assert "no config.json" in " ".join(report.warnings)
    tensors = binq.load(tmp_path / "out")
    assert tensors[NAME] == q
    assert np.array_equal(tensors["b"], np.ones(3, np.float16))


def test_what_a_target_cannot_hold_is_refused_by_name_before_anything_is_written(packed, tmp_path):
    source = packed("int4", symmetric=False, zero="offset")
    with pytest.raises(binq.UnsupportedFormatError, match=r"14 of the packed weights") as error:
        binq.export_checkpoint(source, tmp_path / "out", to=FORM)
    text = str(error.value)
    assert "layers.0.mlp.down_proj.weight: compressed-tensors cannot hold an offset a" in text
    assert "and 6 more" in text
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob("*.partial"))


def test_a_weight_that_its_class_stores_transposed_is_refused(tmp_path):
    source = tmp_path / "gpt2"
    source.mkdir()
    (source / "config.json").write_text('{"model_type": "gpt2"}')
    w = np.random.default_rng(0).standard_normal((64, 192)).astype(np.float32)
    binq.save_file({"h.0.attn.c_attn.weight": w}, source / "model.safetensors")
    binq.quantize_checkpoint(source, tmp_path / "packed", "int4")
    with pytest.raises(binq.UnsupportedFormatError, match=r"c_attn.*\(in_features, out_features\)"):
        binq.export_checkpoint(tmp_path / "packed", tmp_path / "out", to=FORM)


def test_a_source_that_binq_did_not_pack_is_refused(qwen3, tmp_path):
    with pytest.raises(binq.FormatError, match="no weights that binq packed"):
        binq.export_checkpoint(qwen3, tmp_path / "out", to=FORM)


def test_an_existing_folder_is_kept_unless_it_is_to_be_replaced(packed, tmp_path):
    source, out = packed("int4"), tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError):
        binq.export_checkpoint(source, out, to=FORM)
    assert (out / "mine.txt").read_text() == "mine"
    binq.export_checkpoint(source, out, to=FORM, overwrite=True)
    assert not (out / "mine.txt").exists()
    with pytest.raises(ValueError, match="must not be the source itself"):
        binq.export_checkpoint(source, source, to=FORM, overwrite=True)


def test_what_a_killed_export_left_is_taken_over_and_a_failed_one_leaves_nothing(
    packed, tmp_path, monkeypatch
):
    source, out = packed("int4"), tmp_path / "out"
    partial = tmp_path / "out.partial"
    partial.mkdir()
    (partial / MARK).write_text("{}")
    (partial / "model-00001-of-00002.safetensors").write_bytes(b"half")

    def fail(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("binq.export.folder.copy_files", fail)
        with pytest.raises(OSError, match="No space"):
            binq.export_checkpoint(source, out, to=FORM)
    assert not out.exists()
    assert not partial.exists()
    binq.export_checkpoint(source, out, to=FORM)
    assert (out / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"to": "pickle"}, ValueError, "to must be one of"),
        ({"to": FORM, "max_shard_bytes": 0}, ValueError, "max_shard_bytes"),
        ({"to": FORM, "family": "no such"}, ValueError, "family"),
    ],
)
def test_wrong_arguments(packed, tmp_path, arguments, error, text):
    with pytest.raises(error, match=text):
        binq.export_checkpoint(packed("int4"), tmp_path / "out", **arguments)


def test_the_command(packed, tmp_path, capsys):
    source = packed("ternary")
    out = tmp_path / "out"
    assert cli.main(["export", str(source), str(out), "--to", FORM, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert {t["format"] for t in printed["tensors"]} == {"ternary g128", "F32"}
    assert cli.main(["export", str(source), str(out), "--to", FORM]) == 1
    assert "--overwrite" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        cli.main(["export", str(source), str(out), "--to", "pickle"])
    assert ended.value.code == 2


class Bytes(storage.Scheme):
    """Ternary weights as signed bytes, with a scale a row."""

    name = "test-bytes"

    def collect(self, source, settings, names):
        return {}

    def write(self, name, weights):
        if weights.format != "ternary":
            raise binq.UnsupportedFormatError(f"{name}: not ternary")
        return {name: weights.codes(), f"{name}_scale": weights.group_scales()}

    def settings(self, weights):
        return {"quant_method": self.name, "modules": sorted(weights)}


class Reading(Bytes):
    """A scheme that does not write."""

    name = "test-reading"
    write = storage.Scheme.write


def test_a_registered_scheme_that_writes_is_a_target(packed, tmp_path):
    for scheme in (Bytes(), Reading()):
        storage.register(scheme)
    try:
        binq.export_checkpoint(packed("ternary"), tmp_path / "out", to="test-bytes")
        stored = binq.load_file(tmp_path / "out" / "model.safetensors")
        assert stored[NAME].dtype == np.int8
        settings = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
        assert NAME in settings["modules"]
        with pytest.raises(binq.UnsupportedFormatError, match="14 of the packed weights"):
            binq.export_checkpoint(packed("int4"), tmp_path / "other", to="test-bytes")
        with pytest.raises(ValueError, match="to must be one of"):
            binq.export_checkpoint(packed("ternary"), tmp_path / "other", to="test-reading")
    finally:
        for name in ("test-bytes", "test-reading"):
            storage.unregister(name)


@pytest.mark.parametrize("scale_dtype", ["float16", "bfloat16", "float32", "e8m0"])
@pytest.mark.parametrize("to", [FORM, "gguf", "mlx"])
def test_every_type_of_scales_is_the_same_numbers(tmp_path, to, scale_dtype):
    w = np.random.default_rng(0).standard_normal((64, 256)).astype(np.float32)
    q = binq.quantize(w, "int4", group_size=64, scale_dtype=scale_dtype)
    if scale_dtype == "float32":  # with numbers that float16 holds
        half = q.group_scales().astype(np.float16).astype(np.float32)
        q = binq.QuantizedArray.from_codes(q.codes(), half, format="int4", group_size=64)
    binq.save_file({NAME: q}, tmp_path / "m.safetensors")
    binq.export_checkpoint(tmp_path / "m.safetensors", tmp_path / "out", to=to)
    found = binq.load(tmp_path / "out")[NAME]
    assert np.array_equal(np.asarray(found), q.dequantize())
