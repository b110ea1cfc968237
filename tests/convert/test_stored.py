"""Blocks that compiled code reads as they lie in the file become what a matrix of floats would."""

import json

import pytest
from checkpoints import models
from checkpoints.folders import tree

import binq
from binq import _core
from binq.convert import shard

SOURCES = {
    "plain": models.qwen3,
    "float8": models.deepseek,
    "mxfp4": models.gpt_oss,
    "input-major": models.gpt_oss_bf16,
    "GPTQ": models.gptq_model,
    "AWQ": models.awq_model,
    "bitnet": models.bitnet,
}
SETTINGS = [("int4", "absmax"), ("ternary", "absmean"), ("mxfp4", "absmax"), ("binary", "mse")]


@pytest.mark.parametrize(("format", "method"), SETTINGS)
@pytest.mark.parametrize("source", SOURCES)
def test_both_ways_write_the_same(tmp_path, monkeypatch, threads, source, format, method):
    made = SOURCES[source](tmp_path / "source")
    results = []
    taken = []

    def counted(*args):
        block = packed(*args)
        taken.append(block is not None)
        return block

    packed = shard.pack_stored
    for name, way, count in (("a", counted, 1), ("b", counted, 3), ("c", lambda *_: None, 2)):
        _core.set_num_threads(count)
        monkeypatch.setattr(shard, "pack_stored", way)
        report = binq.quantize_checkpoint(made.path, tmp_path / name, format, method=method)
        rows = json.loads(report.to_json())["tensors"]
        for row in rows:
            row.pop("seconds")
        files = tree(tmp_path / name)
        results.append(({n: h for n, h in files.items() if n.endswith(".safetensors")}, rows))
    assert results[0] == results[1] == results[2]
    assert any(taken)
