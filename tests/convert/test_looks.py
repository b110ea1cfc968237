"""How often a conversion reads a tensor: what is known once is not asked for again."""

from collections import Counter

import numpy as np
import pytest
from checkpoints.folders import one_file
from checkpoints.models import gptq_model

import binq
from binq.files.checkpoint import Checkpoint
from binq.files.tensor_file import TensorFile

EMBEDDINGS = "model.embed_tokens.weight"
UP = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture
def reads(monkeypatch):
    """Counts the bytes that are read of each tensor."""
    counted = Counter()
    read = TensorFile.read_bytes

    def counting(self, name, start, stop):
        counted[name] += stop - start
        return read(self, name, start, stop)

    monkeypatch.setattr(TensorFile, "read_bytes", counting)
    return counted


def looks(reads, source):
    """Returns how often each tensor was read whole, on average of its bytes."""
    with Checkpoint(source) as opened:
        return {name: count / opened.info(name).nbytes for name, count in reads.items()}


def test_a_plan_reads_each_tensor_once_at_most(tmp_path, reads):
    rng = np.random.default_rng(0)
    signs = rng.choice(np.float16([-0.5, 0.5]), (2000, 256))
    floats = rng.standard_normal((2000, 256)).astype(np.float16)
    source = one_file(tmp_path / "s", {EMBEDDINGS: signs, UP: signs, "lm_head.weight": floats})
    reads.clear()
    binq.quantize_checkpoint(source, tmp_path / "t", "binary", dry_run=True)
    found = looks(reads, source)
    # A sample of each tells whether the rest is worth a look.
    assert found[EMBEDDINGS] < 1.1
    assert found[UP] < 1.1
    assert found["lm_head.weight"] < 0.1


def test_a_run_reads_exact_tensors_once_more_to_pack_and_to_measure_them(tmp_path, reads):
    signs = np.random.default_rng(0).choice(np.float16([-0.5, 0.5]), (2000, 256))
    floats = np.random.default_rng(1).standard_normal((2000, 256)).astype(np.float16)
    source = one_file(tmp_path / "s", {UP: signs, UP.replace("up", "down"): floats})
    reads.clear()
    report = binq.quantize_checkpoint(source, tmp_path / "t", "binary")
    found = looks(reads, source)
    assert [t.sqnr_db for t in report.tensors if t.name == UP] == [float("inf")]
    assert found[UP] < 2.1  # by the plan, and by the work
    assert found[UP.replace("up", "down")] < 1.1


def test_codes_are_read_once_to_pack_and_to_measure_them(tmp_path, reads):
    source = gptq_model(tmp_path / "s").path
    reads.clear()
    report = binq.quantize_checkpoint(source, tmp_path / "t", "int4")
    found = looks(reads, source)
    codes = UP.replace(".weight", ".qweight")
    assert [t.sqnr_db for t in report.tensors if t.name == UP] == [float("inf")]
    assert found[codes] < 2.1  # by the plan, whose look ends early in larger tensors, and the work
