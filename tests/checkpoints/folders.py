"""What the tests of conversion share: small folders, and what is in a finished one."""

import hashlib
import json

import numpy as np

import binq

LAYER = "model.layers.0"
# Makes several shards of the small checkpoint.
SMALL = {"max_shard_bytes": 9000}


def write_json(path, content):
    path.write_text(json.dumps(content))


def one_file(folder, tensors):
    """Makes a folder of a small model whose weights lie in one file."""
    folder.mkdir(parents=True)
    binq.save_file(tensors, folder / "model.safetensors")
    write_json(folder / "config.json", {"model_type": "qwen3"})
    return folder


def load(folder):
    index = json.loads((folder / "binq.safetensors.index.json").read_text())
    tensors = {}
    for file in set(index["weight_map"].values()):
        tensors |= binq.load_file(folder / file)
    return tensors


def tree(folder):
    """The sha256 of every file of a folder by name."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def deep_source(root):
    """Makes a model in one file, a folder deep: root/home/models/source."""
    rng = np.random.default_rng(3)
    tensors = {
        f"model.layers.{i}.mlp.up_proj.weight": rng.standard_normal((40, 64)).astype(np.float16)
        for i in range(5)
    }
    return one_file(root / "home" / "models" / "source", tensors)
