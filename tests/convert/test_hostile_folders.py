"""Folders of strangers: axes of any length, names that speak to terminals, absurd settings."""

import json

import numpy as np
import pytest
from checkpoints.folders import one_file, write_json

import binq
from binq.cli import main
from binq.convert.inspect import inspect
from binq.convert.tables import shown
from binq.convert.verify import verify
from binq.files.writer import header_room

NAME = "model.layers.0.mlp.up_proj.weight"
EXPERTS = "model.layers.0.mlp.experts.gate_up_proj"


def raw_folder(path, tensors, config, data=b""):
    """Makes a folder whose header says anything."""
    path.mkdir()
    text = json.dumps(tensors).encode()
    (path / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    write_json(path / "config.json", config)
    return path


def entry(dtype, shape, start=0, stop=0):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        (NAME, [2**47, 0]),
        (NAME, [0, 2**47]),
        (EXPERTS, [2**40, 1, 0]),
        (EXPERTS, [0, 2**20, 2**20]),
        (EXPERTS, [2**20, 0, 2**30]),
    ],
)
def test_empty_tensors_of_any_shape_are_kept(tmp_path, name, shape):
    source = raw_folder(tmp_path / "s", {name: entry("BF16", shape)}, {"model_type": "qwen3_moe"})
    report = binq.quantize_checkpoint(source, tmp_path / "t")
    assert [t.kept for t in report.tensors] == [True]
    assert list(verify(tmp_path / "t", source)) == []
    assert [e.shape for e in inspect(tmp_path / "t")] == [tuple(shape)]


def test_an_empty_packed_tensor_takes_no_time(tmp_path):
    path = tmp_path / "m.safetensors"
    shape = (2**47, 0)
    parts = [np.zeros(s, t) for s, t in (((2**42, 0, 32, 4), np.uint8), ((2**42, 0, 32), "f2"))]
    q = binq.QuantizedArray("int4", shape, 128, True, *parts)
    binq.save_file({"a": q}, path)
    assert list(verify(path)) == []
    loaded = binq.load_file(path)["a"]
    for dtype in (np.float16, np.float32):
        assert loaded.dequantize(dtype).shape == shape


def test_an_empty_shape_that_no_array_has_is_refused(tmp_path):
    path = raw_folder(tmp_path / "s", {"a": entry("F32", [0, 2**47, 2**47])}, {})
    with pytest.raises(
        binq.FormatError, match=r"tensor 'a': shape .* more elements than any array"
    ):
        binq.load_file(path / "model.safetensors")


@pytest.mark.parametrize("size", [0, -1, True, 1.0, None, "128", 10**12, 10**19, 10**30])
def test_block_sizes_of_float8_are_sizes(tmp_path, size):
    tensors = {
        NAME: entry("F8_E4M3", [32, 32], 0, 1024),
        f"{NAME}_scale_inv": entry("F32", [1, 1], 1024, 1028),
    }
    settings = {"quant_method": "fp8", "weight_block_size": [128, size]}
    config = {"model_type": "deepseek_v3", "quantization_config": settings}
    source = raw_folder(tmp_path / "s", tensors, config, b"\x38" * 1024 + b"\0\0\x80\x3f")
    with pytest.raises(binq.FormatError, match=r"weight_block_size is .*, not a size from 1"):
        binq.quantize_checkpoint(source, tmp_path / "t")


def test_a_block_larger_than_the_tensor_takes_no_more_memory(tmp_path):
    tensors = {
        NAME: entry("F8_E4M3", [32, 32], 0, 1024),
        f"{NAME}_scale_inv": entry("F32", [1, 1], 1024, 1028),
    }
    settings = {"quant_method": "fp8", "weight_block_size": [2**31 - 1, 2**31 - 1]}
    config = {"model_type": "deepseek_v3", "quantization_config": settings}
    source = raw_folder(tmp_path / "s", tensors, config, b"\x38" * 1024 + b"\0\0\x80\x3f")
    report = binq.quantize_checkpoint(source, tmp_path / "t")
    assert report.tensors[0].sqnr_db > 60


EVIL = "\x1b]0;title\x07\x1b[2K\rmodel.layers.0.mlp.up_proj.weight\nmodel.safetensors: ok"


def test_names_do_not_speak_to_the_terminal(tmp_path, capsys):
    source = one_file(tmp_path / "s", {EVIL: np.ones((2, 2), np.float32)})
    for arguments in (
        ["inspect", source],
        ["quantize", source, tmp_path / "t", "--dry-run"],
        ["quantize", source, tmp_path / "t"],
        ["verify", source],
        ["verify", tmp_path / "t", "--against", one_file(tmp_path / "o", {"a": np.ones(3)})],
    ):
        main([str(argument) for argument in arguments])
        printed = "".join(capsys.readouterr())
        assert all(c.isprintable() or c == "\n" for c in printed), arguments
        assert not any(line.startswith("model.safetensors: ok") for line in printed.splitlines())
    assert shown("a\udcff\u202eb") == "a\\udcff\\u202eb"


@pytest.mark.parametrize("part", ["up$\\frac$", "$a_b$", "a$b", "\x1b[31m", "é", "9" * 5000])
def test_names_are_drawn_as_they_are(tmp_path, part):
    pytest.importorskip("matplotlib")
    rng = np.random.default_rng(0)
    w = rng.standard_normal((4, 32), dtype=np.float32)
    source = one_file(tmp_path / "s", {f"model.layers.{part}.mlp.weight": w})
    report = binq.quantize_checkpoint(source, tmp_path / "t", rules=["*=int4:g32"])
    report.plot(tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size > 1000


def test_no_shard_is_written_that_is_not_read(tmp_path):
    """Names take room in a header several times: the longest that are read fill none."""
    name = "x" * (1 << 16)
    assert header_room([name]) < 10**6
    source = one_file(tmp_path / "s", {name: np.ones(3, np.float32)})
    binq.quantize_checkpoint(source, tmp_path / "t")
    assert list(verify(tmp_path / "t", source)) == []
    with pytest.raises(ValueError, match="tensor names must be valid Unicode of at most 65536"):
        binq.save_file({name + "x": np.ones(3)}, tmp_path / "m.safetensors")
    raw = raw_folder(tmp_path / "r", {name + "x": entry("U8", [1], 0, 1)}, {}, b"\0")
    with pytest.raises(binq.FormatError, match="a name of 65537 characters"):
        binq.load_file(raw / "model.safetensors")


def test_a_header_that_no_reader_takes_is_not_saved(tmp_path):
    path = tmp_path / "m.safetensors"
    binq.save_file({"good": np.arange(3)}, path)
    with pytest.raises(ValueError, match=r"the header would take 10.* bytes, more than"):
        binq.save_file({"a": np.zeros(3)}, path, {"k": "x" * 101_000_000})
    assert list(binq.load_file(path)) == ["good"]
