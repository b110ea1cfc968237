"""dequantize_checkpoint: plain folders of whatever binq reads, as the model's class has them."""

import json
import os
import re

import ml_dtypes
import numpy as np
import pytest
from checkpoints.folders import LAYER, tree
from checkpoints.models import MODELS

import binq
from binq.convert import Checkpoint, logical_tensors
from binq.convert.dequantize import MARK
from binq.convert.destination import REPLACED
from binq.models import find_family

F32 = np.float32


def plain(folder):
    """Returns the tensors of a plain folder, and asserts that it is one."""
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= binq.load_file(path)
    config = folder / "config.json"
    if config.exists():
        text = config.read_text()
        assert "quant_method" not in text
        assert "quantization" not in json.loads(text)
    index = folder / "model.safetensors.index.json"
    if index.exists():
        assert set(json.loads(index.read_text())["weight_map"]) == set(tensors)
    else:
        assert [path.name for path in folder.glob("*.safetensors")] == ["model.safetensors"]
    assert not any(isinstance(array, binq.QuantizedArray) for array in tensors.values())
    return tensors


def expected(path):
    """Returns what the weights of a source are, in the order of axes of the model's class."""
    found = {}
    with Checkpoint(path) as source:
        family = None if source.is_gguf else find_family(source)
        for tensor in logical_tensors(source):
            w = tensor.read(source)
            if family is not None and family.is_input_major(tensor.name):
                w = w.mT
            match = re.fullmatch(r"(.+\.)switch_mlp\.(.+)", tensor.name)
            fused = family is not None and family.name in ("Llama 4", "Gemma 4")
            apart = re.fullmatch(
                r"(.+\.experts)\.(?:switch_glu|\d+)\.(gate|up|down)_proj.*", tensor.name
            )
            if fused and apart:
                part = found.setdefault(apart[1], {}).setdefault(apart[2], [])
                part += list(w.reshape(-1, *w.shape[-2:]))
                continue
            if match:
                found |= {f"{match[1]}experts.{n}.{match[2]}": one for n, one in enumerate(w)}
            else:
                found[tensor.name] = w
        for prefix in [name for name, w in found.items() if isinstance(w, dict)]:
            parts = {kind: np.stack(each) for kind, each in found.pop(prefix).items()}
            fused = {
                f"{prefix}.gate_up_proj": np.concatenate([parts["gate"], parts["up"]], axis=1),
                f"{prefix}.down_proj": parts["down"],
            }
            turned = family.name == "Llama 4"
            found |= {name: w.mT if turned else w for name, w in fused.items()}
    return found


@pytest.mark.parametrize("model", MODELS)
def test_every_source_becomes_plain(tmp_path, model):
    path = MODELS[model](tmp_path / "model").path
    report = binq.dequantize_checkpoint(path, tmp_path / "plain", dtype="float32")
    tensors = plain(tmp_path / "plain")
    wanted = expected(path)
    assert set(tensors) == set(wanted)
    for name, w in wanted.items():
        assert tensors[name].dtype in (F32, np.int64, np.int32)
        np.testing.assert_array_equal(np.asarray(tensors[name], F32), w, err_msg=name)
    assert {t.name for t in report.tensors} == set(tensors)


@pytest.mark.parametrize("model", MODELS)
def test_quantized_and_back(tmp_path, model):
    path = MODELS[model](tmp_path / "model").path
    binq.quantize_checkpoint(path, tmp_path / "packed", "int4", group_size=32)
    binq.dequantize_checkpoint(tmp_path / "packed", tmp_path / "plain")
    tensors, wanted = plain(tmp_path / "plain"), expected(path)
    assert set(tensors) == set(wanted)
    for name, w in wanted.items():
        array = np.asarray(tensors[name], F32)
        assert array.shape == w.shape, name
        error = np.linalg.norm(array - w) / max(np.linalg.norm(w), 1e-9)
        assert error < 0.15, name
    if (path / "config.json").exists():
        before = json.loads((path / "config.json").read_text())
        after = json.loads((tmp_path / "plain" / "config.json").read_text())
        assert after.get("architectures") == before.get("architectures")
        assert after["dtype"] == "bfloat16"


def test_files_types_and_shards(source, tmp_path):
    config = json.loads((source / "config.json").read_text())
    config |= {"architectures": ["Qwen3ForCausalLM"], "torch_dtype": "float16"}
    config["text_config"] = {"dtype": "float16", "quantization_config": {"bits": 4}}
    (source / "config.json").write_text(json.dumps(config))
    (source / "quantize_config.json").write_text("{}")
    binq.quantize_checkpoint(source, tmp_path / "packed", "int4")
    said = []
    report = binq.dequantize_checkpoint(
        tmp_path / "packed", tmp_path / "plain", max_shard_bytes=30_000, progress=said.append
    )
    target = tmp_path / "plain"
    shards = sorted(path.name for path in target.glob("*.safetensors"))
    assert len(shards) > 2
    assert shards[0] == f"model-00001-of-{len(shards):05d}.safetensors"
    assert sorted(set(tree(target)) - set(shards)) == [
        "config.json",
        "model.safetensors.index.json",
        "tokenizer.json",
    ]
    written = json.loads((target / "config.json").read_text())
    assert written["architectures"] == ["Qwen3ForCausalLM"]
    assert written["torch_dtype"] == "bfloat16"
    assert written["text_config"] == {"dtype": "bfloat16"}
    packed, tensors = binq.load(tmp_path / "packed"), plain(target)
    for name, array in packed.items():
        if isinstance(array, binq.QuantizedArray):
            array = array.dequantize(ml_dtypes.bfloat16)
        assert tensors[name].dtype == array.dtype
        np.testing.assert_array_equal(tensors[name], array)
    assert sum(said) == report.bytes_done == report.bytes_before
    assert report.bytes_after == sum(array.nbytes for array in tensors.values())
    again = binq.quantize_checkpoint(target, tmp_path / "again", "int4")
    assert again.bytes_after == sum(t.nbytes for t in binq.describe(tmp_path / "packed").values())


def test_convolutions_and_tied_heads_come_back(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    rng = np.random.default_rng(0)
    conv = rng.standard_normal((64, 32, 4), dtype=F32)
    head = rng.standard_normal((96, 64), dtype=F32)
    config = {"model_type": "qwen3", "tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {"x.conv.weight": conv, "model.embed_tokens.weight": head, "lm_head.weight": head}
    binq.save_file(tensors, folder / "model.safetensors")
    binq.quantize_checkpoint(folder, tmp_path / "packed", rules=["x.conv.weight=int4"])
    binq.dequantize_checkpoint(tmp_path / "packed", tmp_path / "plain")
    found = plain(tmp_path / "plain")
    assert set(found) == {"x.conv.weight", "model.embed_tokens.weight"}
    assert found["x.conv.weight"].shape == conv.shape
    np.testing.assert_allclose(found["x.conv.weight"].astype(F32), conv, atol=1)


def test_nothing_is_lost_or_left_where_it_fails(source, tmp_path, monkeypatch):
    target = tmp_path / "plain"
    target.mkdir()
    (target / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"is not empty: overwrite=True \(--overwrite\)"):
        binq.dequantize_checkpoint(source, target)

    def fail(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("binq.files.writer.AppendWriter.write", fail)
        with pytest.raises(OSError, match="No space left"):
            binq.dequantize_checkpoint(source, target, overwrite=True)
    assert [path.name for path in target.iterdir()] == ["mine.txt"]
    assert not (tmp_path / "plain.partial").exists()
    binq.dequantize_checkpoint(source, target, overwrite=True)
    assert (target / "model.safetensors").exists()
    assert not (target / "mine.txt").exists()
    assert not list(target.glob(".*"))
    assert not list(tmp_path.glob("*.partial"))


def test_what_a_kill_left_is_taken_up(source, tmp_path):
    target, partial = tmp_path / "plain", tmp_path / "plain.partial"
    partial.mkdir()
    (partial / MARK).write_text("{}")
    (partial / "model.safetensors").write_bytes(b"half")
    binq.dequantize_checkpoint(source, target)
    assert set(plain(target)) == set(binq.load(source))
    # Killed between the last two renames: the old folder lies within the new one.
    target.rename(tmp_path / "new")
    (tmp_path / "new" / MARK).write_text("{}")
    (tmp_path / "new" / REPLACED).mkdir()
    (tmp_path / "new" / REPLACED / "old.txt").write_text("old")
    (tmp_path / "new").rename(partial)
    with pytest.raises(FileExistsError, match="is not empty"):
        binq.dequantize_checkpoint(source, target)
    assert [path.name for path in target.iterdir()] == ["old.txt"]
    binq.dequantize_checkpoint(source, target, overwrite=True)
    assert not partial.exists()
    partial.mkdir()
    (partial / "mine").write_text("mine")
    with pytest.raises(FileExistsError, match="mine is in the way"):
        binq.dequantize_checkpoint(source, tmp_path / "plain", overwrite=True)


@pytest.mark.skipif(os.name != "posix", reason="modes are posix's")
def test_modes_follow_the_umask(source, tmp_path):
    before = os.umask(0o027)
    try:
        binq.dequantize_checkpoint(source, tmp_path / "plain")
    finally:
        os.umask(before)
    modes = {oct(path.stat().st_mode & 0o777) for path in (tmp_path / "plain").iterdir()}
    assert modes == {"0o640"}


def test_what_cannot_be_done_is_refused(source, tmp_path):
    with pytest.raises(ValueError, match="dtype must be one of 'bfloat16', 'float32', got 'int8'"):
        binq.dequantize_checkpoint(source, tmp_path / "plain", dtype="int8")
    with pytest.raises(ValueError, match="dst must not be the source itself"):
        binq.dequantize_checkpoint(source, source)
    binq.quantize_checkpoint(source, tmp_path / "packed", "int4")
    path = next((tmp_path / "packed").glob("*.safetensors"))
    data = bytearray(path.read_bytes())
    name = f"{LAYER}.self_attn.q_proj.weight.scales"
    with binq.files.SafetensorsFile(path) as file:
        info = file.info(name)
        at = file.size - max(i.stop for i in file.tensors.values()) + info.start
    data[at : at + 2] = np.float16(np.inf).tobytes()
    path.write_bytes(data)
    with pytest.raises(binq.NonFiniteError, match=r"q_proj\.weight: weights that are inf or NaN"):
        binq.dequantize_checkpoint(tmp_path / "packed", tmp_path / "plain")
    assert not (tmp_path / "plain").exists()
