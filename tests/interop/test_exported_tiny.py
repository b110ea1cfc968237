"""Published 1-bit weights through binq and out again: the bytes of the publisher's own files."""

import os
from pathlib import Path

import numpy as np
import pytest

import binq
from binq.files.gguf import GgufFile

pytestmark = pytest.mark.interop

ROOT = os.environ.get("BINQ_TINY_CHECKPOINTS")


@pytest.mark.skipif(not ROOT, reason="BINQ_TINY_CHECKPOINTS names no folder")
@pytest.mark.parametrize("name", ["bonsai_8b_gguf", "bonsai_8b_mlx_1bit", "bonsai_8b_unpacked"])
def test_bonsai_becomes_its_own_gguf_file(tmp_path, name):
    source = Path(ROOT) / name
    embeddings = {"embeddings": "binary"} if name == "bonsai_8b_unpacked" else {}
    binq.quantize_checkpoint(source, tmp_path / "packed", "binary", **embeddings)
    binq.export_checkpoint(tmp_path / "packed", tmp_path / "m.gguf", to="gguf")
    (published,) = (Path(ROOT) / "bonsai_8b_gguf").glob("*.gguf")
    with GgufFile(published) as theirs, GgufFile(tmp_path / "m.gguf") as ours:
        assert set(theirs) == set(ours)
        for tensor in theirs:
            one, other = theirs.info(tensor), ours.info(tensor)
            assert (one.dtype, one.shape) == (other.dtype, other.shape)
            assert np.array_equal(
                theirs.read_bytes(tensor, 0, one.nbytes), ours.read_bytes(tensor, 0, other.nbytes)
            )


@pytest.mark.skipif(not ROOT, reason="BINQ_TINY_CHECKPOINTS names no folder")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["gemma4_26b_a4b", "llama4_scout", "gpt_oss_20b_bf16"])
def test_mlx_lm_runs_the_experts_of_one_tensor(tmp_path, name):
    mx = pytest.importorskip("mlx.core")
    utils = pytest.importorskip("mlx_lm.utils")
    packed, out, plain = tmp_path / "packed", tmp_path / "out", tmp_path / "plain"
    binq.quantize_checkpoint(Path(ROOT) / name, packed, "int4", group_size=32)
    binq.export_checkpoint(packed, out, to="mlx")
    binq.dequantize_checkpoint(packed, plain, dtype="float32")
    ids = np.arange(5, 29)[None]

    def logits(folder):
        # mlx-lm takes the size of the vocabulary from the top of a configuration alone.
        model, _ = utils.load_model(folder, model_config={"vocab_size": 1024})
        model.set_dtype(mx.float32)
        return np.array(model(mx.array(ids)))

    if name.startswith("gpt_oss"):
        # Whose floats mlx-lm does not load; in its own form it makes of floats the logits that it
        # makes of packed weights, which differ by 1.4e-3 from those of transformers.
        expected, most = by_transformers(plain, ids), 5e-3
    else:
        expected, most = logits(plain), 2e-6
    assert np.linalg.norm(logits(out) - expected) < most * np.linalg.norm(expected)


@pytest.mark.skipif(not ROOT, reason="BINQ_TINY_CHECKPOINTS names no folder")
@pytest.mark.filterwarnings("ignore")
def test_mlx_lm_runs_gpt_oss_as_it_was_published(tmp_path):
    mx = pytest.importorskip("mlx.core")
    utils = pytest.importorskip("mlx_lm.utils")
    source = Path(ROOT) / "gpt_oss_120b"
    kept = ["*.self_attn.*=keep"]
    binq.quantize_checkpoint(source, tmp_path / "packed", "mxfp4", group_size=32, rules=kept)
    binq.export_checkpoint(tmp_path / "packed", tmp_path / "out", to="mlx")
    ids = mx.arange(5, 29)[None]
    found, expected = (
        np.array(utils.load_model(folder)[0](ids).astype(mx.float32))
        for folder in (tmp_path / "out", source)
    )
    assert np.array_equal(found, expected)


def by_transformers(folder, ids):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        return model.eval()(torch.from_numpy(ids)).logits.numpy()


@pytest.mark.skipif(not ROOT, reason="BINQ_TINY_CHECKPOINTS names no folder")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["qwen35_9b", "gemma4_12b"])
def test_the_text_model_of_one_that_sees_loads_from_compressed_tensors(tmp_path, name):
    pytest.importorskip("compressed_tensors")
    packed, out, plain = tmp_path / "packed", tmp_path / "out", tmp_path / "plain"
    binq.quantize_checkpoint(Path(ROOT) / name, packed, "int4")
    binq.export_checkpoint(packed, out, to="compressed-tensors")
    binq.dequantize_checkpoint(packed, plain, dtype="float32")
    ids = np.arange(5, 29)[None]
    expected = by_transformers(plain, ids)
    assert np.linalg.norm(by_transformers(out, ids) - expected) < 2e-6 * np.linalg.norm(expected)
