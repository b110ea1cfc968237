"""Plain folders that binq wrote load into transformers' own classes, key for key."""

import json
import os
from pathlib import Path

import pytest

import binq
from binq.convert import Checkpoint, logical_tensors

pytestmark = pytest.mark.interop

ROOT = os.environ.get("BINQ_TINY_CHECKPOINTS")
FOLDERS = sorted(path.parent for path in Path(ROOT).glob("*/config.json")) if ROOT else []


@pytest.mark.parametrize("quantized", [False, True], ids=["direct", "quantized"])
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
@pytest.mark.filterwarnings("ignore")
def test_every_key_of_the_class_is_there(tmp_path, folder, quantized):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    source = folder
    if quantized:
        source = tmp_path / "packed"
        binq.quantize_checkpoint(folder, source, "int4", group_size=32)
    binq.dequantize_checkpoint(source, tmp_path / "plain")
    config = json.loads((tmp_path / "plain" / "config.json").read_text())
    assert (
        config["architectures"] == json.loads((folder / "config.json").read_text())["architectures"]
    )
    cls = getattr(transformers, config["architectures"][0])
    _, info = cls.from_pretrained(tmp_path / "plain", output_loading_info=True, dtype=torch.float32)
    with Checkpoint(folder) as opened:
        # Modules that draft further tokens are published beside the model, whose class has none.
        drafting = {tensor.name for tensor in logical_tensors(opened) if tensor.role == "mtp"}
    assert not info["missing_keys"]
    assert not info["mismatched_keys"]
    layers = tuple({".".join(name.split(".")[:3]) + "." for name in drafting})
    assert [name for name in info["unexpected_keys"] if not name.startswith(layers)] == []
