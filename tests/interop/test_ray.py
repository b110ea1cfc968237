"""The Ray adapter of the examples on a Ray of this machine: the same bytes."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from checkpoints.folders import LAYER, SMALL, tree, write_json

import binq

pytestmark = pytest.mark.interop
ray = pytest.importorskip("ray")
EXAMPLE = Path(__file__).parents[2] / "examples" / "ray_executor.py"


@pytest.fixture
def executor():
    spec = importlib.util.spec_from_file_location("ray_executor", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with module.RayExecutor() as executor:
        yield executor
    ray.shutdown()


@pytest.mark.filterwarnings("ignore")
def test_a_ray_cluster_gives_the_same_bytes(tmp_path, executor):
    source = tmp_path / "source"
    source.mkdir()
    rng = np.random.default_rng(0)
    tensors = {
        f"{LAYER}.mlp.{name}_proj.weight": rng.standard_normal((130, 96), dtype=np.float32)
        for name in ("gate", "up", "down")
    }
    binq.save_file(tensors, source / "model.safetensors")
    write_json(source / "config.json", {"model_type": "qwen3"})
    binq.quantize_checkpoint(source, tmp_path / "alone", **SMALL)
    binq.quantize_checkpoint(source, tmp_path / "shared", executor=executor, **SMALL)
    assert tree(tmp_path / "shared") == tree(tmp_path / "alone")
