"""binq.load and binq.describe: any file or folder that binq reads, by name, tensor by tensor."""

import json
import mmap
import pickle

import ml_dtypes
import numpy as np
import pytest
from checkpoints.models import MODELS

import binq
from binq.convert import Checkpoint, logical_tensors
from binq.formats import FORMATS


@pytest.mark.parametrize("model", MODELS)
def test_every_source_by_its_names(tmp_path, model):
    path = MODELS[model](tmp_path / "model").path
    with Checkpoint(path) as source:
        expected = {tensor.name: tensor.read(source) for tensor in logical_tensors(source)}
        turned = {t.name for t in logical_tensors(source) if t.scheme == "transposed"}
    tensors = binq.load(path)
    assert set(tensors) == set(expected)
    records = binq.describe(path)
    for name, w in expected.items():
        array = tensors[name]
        assert name in tensors
        if isinstance(array, binq.QuantizedArray):
            array = array.dequantize()
        if name in turned:  # as they are stored
            array = array.mT
        assert array.shape == w.shape
        np.testing.assert_array_equal(np.asarray(array, np.float32), w)
        assert records[name].shape == (w.shape if name not in turned else w.mT.shape)


def test_formats_that_hold_weights_exactly_are_packed(tmp_path):
    for model, format in (("bonsai_mlx", "binary"), ("gptq", "int4"), ("bonsai_gguf", "binary")):
        tensors = binq.load(MODELS[model](tmp_path / model).path)
        packed = [t for t in tensors.values() if isinstance(t, binq.QuantizedArray)]
        assert packed
        assert {t.format for t in packed} == {format}


@pytest.mark.parametrize("format", ["int4", "ternary"])
def test_what_binq_wrote(source, tmp_path, format):
    target = tmp_path / "target"
    binq.quantize_checkpoint(source, target, format, max_shard_bytes=9000)
    tensors = binq.load(target)
    one_by_one = {}
    for path in sorted(target.glob("*.safetensors")):
        one_by_one |= binq.load_file(path)
    assert set(tensors) == set(one_by_one)
    assert len(tensors) == len(one_by_one)
    records = binq.describe(target)
    for name, wanted in one_by_one.items():
        record = records[name]
        if isinstance(wanted, binq.QuantizedArray):
            assert tensors[name] == wanted
            assert (record.format, record.shape) == (wanted.format, wanted.shape)
            assert (record.group_size, record.symmetric) == (wanted.group_size, True)
            assert record.scale_dtype == "float16"
            assert record.nbytes == wanted.nbytes
            assert record.bits_per_weight == wanted.bits_per_weight
        else:
            np.testing.assert_array_equal(tensors[name], wanted)
            assert record.format not in FORMATS
            assert record.group_size is record.symmetric is record.scale_dtype is None
    assert tensors.config["quantization_config"]["quant_method"] == "binq"


def test_tied_weights_have_both_names(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text(
        json.dumps({"model_type": "qwen3", "tie_word_embeddings": True})
    )
    w = np.ones((64, 32), np.float32)
    twins = {"model.embed_tokens.weight": w, "lm_head.weight": w}
    binq.save_file(twins, source / "model.safetensors")
    binq.quantize_checkpoint(source, tmp_path / "target")
    tensors = binq.load(tmp_path / "target")
    assert set(tensors) == set(twins)
    assert tensors["lm_head.weight"] == tensors["model.embed_tokens.weight"]


def test_a_file_of_arrays(tmp_path):
    path = tmp_path / "arrays.safetensors"
    q = binq.quantize(np.eye(64), "int4", symmetric=False, scale_dtype="float32")
    arrays = {
        "q": q,
        "ids": np.arange(6, dtype=np.int32).reshape(2, 3),
        "b": np.ones((2, 2), ml_dtypes.bfloat16),
    }
    binq.save_file(arrays, path, {"step": "7"})
    with binq.load(path) as tensors:
        assert tensors.path == path
        assert dict(tensors.metadata) == {"step": "7"}
        assert dict(tensors.config) == {}
        assert list(tensors) == ["b", "ids", "q"]
        assert repr(tensors) == f"<3 tensors of {path}>"
        ids = tensors["ids"]
        again = pickle.loads(pickle.dumps(tensors))
    assert tensors["q"] == q  # maps outlive the files
    np.testing.assert_array_equal(ids, arrays["ids"])
    assert not ids.flags.writeable
    assert again["q"] == q
    assert binq.describe(path)["q"].scale_dtype == "float32"
    with pytest.raises(KeyError, match=r"arrays.safetensors: no tensor 'c'"):
        tensors["c"]
    with pytest.raises(AttributeError):
        binq.describe(path)["q"].format = "int8"
    with pytest.raises(TypeError):
        tensors.metadata["step"] = "8"
    plain = tmp_path / "plain.safetensors"
    binq.save_file({"ids": arrays["ids"]}, plain)
    np.testing.assert_array_equal(binq.load(plain)["ids"], arrays["ids"])


def test_describe_maps_and_reads_nothing(source, tmp_path, monkeypatch):
    target = tmp_path / "target"
    binq.quantize_checkpoint(source, target, "int4")
    gguf = MODELS["bonsai_gguf"](tmp_path / "gguf").path

    def fail(*arguments, **more):
        raise AssertionError("weights are read")

    monkeypatch.setattr(mmap, "mmap", fail)
    monkeypatch.setattr("binq.files.reading.ReadableFile.read_array", fail)
    for path in (source, target, gguf):
        assert binq.describe(path)
        assert binq.load(path)


def test_a_tensor_is_mapped_once(source, tmp_path):
    tensors = binq.load(source)
    name = next(iter(tensors))
    assert np.shares_memory(tensors[name], tensors[name])


def test_gguf_metadata_is_readable(tmp_path):
    tensors = binq.load(MODELS["bonsai_gguf"](tmp_path / "model").path)
    assert tensors.metadata["general.architecture"] == "qwen3"
    assert dict(tensors.config) == {}


def test_what_is_not_there_or_not_known_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        binq.load(tmp_path / "no.safetensors")
    with pytest.raises(FileNotFoundError, match="not a checkpoint; the folder is empty"):
        binq.load(tmp_path)
    with pytest.raises(FileNotFoundError):
        binq.describe(tmp_path / "nothing")
    (tmp_path / "config.json").write_text(
        '{"model_type": "llama", "quantization_config": {"quant_method": "hqq"}}'
    )
    binq.save_file({"a.weight": np.ones((2, 2))}, tmp_path / "model.safetensors")
    with pytest.raises(binq.UnsupportedFormatError, match="hqq"):
        binq.load(tmp_path)
    with pytest.raises(TypeError, match=r"src must be a str or an os\.PathLike"):
        binq.load(3)
