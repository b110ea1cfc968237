"""transformers never takes a folder of packed weights for a model of random ones."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from checkpoints.folders import one_file

import binq
from binq.files.checkpoint import Checkpoint

pytestmark = pytest.mark.interop
transformers = pytest.importorskip("transformers")
CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 50,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
}
CLASSES = ("AutoModelForCausalLM", "AutoModel", "Qwen3ForCausalLM", "Qwen3Model")


@pytest.fixture
def source(tmp_path):
    """A folder that transformers loads."""
    rng = np.random.default_rng(0)
    shapes = {"model.embed_tokens.weight": (50, 64), "lm_head.weight": (50, 64)}
    layer = "model.layers.0."
    for name, shape in {
        **dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj"), (64, 64)),
        **dict.fromkeys(("q_norm", "k_norm"), (32,)),
    }.items():
        shapes[f"{layer}self_attn.{name}.weight"] = shape
    shapes |= dict.fromkeys(
        (f"{layer}mlp.gate_proj.weight", f"{layer}mlp.up_proj.weight"), (96, 64)
    )
    shapes[f"{layer}mlp.down_proj.weight"] = (64, 96)
    for name in (f"{layer}input_layernorm", f"{layer}post_attention_layernorm", "model.norm"):
        shapes[f"{name}.weight"] = (64,)
    tensors = {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    folder = one_file(tmp_path / "source", tensors)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


WAYS = [{}, {"use_safetensors": True}, {"use_safetensors": False}, {"dtype": "auto"}]
LOAD = f"""
import sys, transformers
for arguments in {WAYS}:
    try:
        getattr(transformers, sys.argv[1]).from_pretrained(sys.argv[2], **arguments)
    except OSError as error:
        assert "no file named" in str(error), error
    else:
        raise SystemExit(f"loaded with {{arguments}}")
"""


def assert_refused(name, folder):
    # In a process of its own: other tests may have imported binq.torch, which makes it load.
    command = [sys.executable, "-c", LOAD, name, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", CLASSES)
def test_the_source_loads(source, name):
    model = getattr(transformers, name).from_pretrained(source)
    embeddings = model.get_input_embeddings().weight.detach().numpy()
    with Checkpoint(source) as opened:
        np.testing.assert_array_equal(embeddings, opened.read("model.embed_tokens.weight"))


@pytest.mark.parametrize("settings", [{}, {"max_shard_bytes": 9000}])
@pytest.mark.parametrize("name", CLASSES)
def test_no_class_loads_packed_weights(source, tmp_path, name, settings):
    target = tmp_path / "target"
    binq.quantize_checkpoint(source, target, **settings)
    config = json.loads((target / "config.json").read_text())
    assert config["architectures"] == CONFIG["architectures"]
    assert_refused(name, target)


def test_nor_where_the_folder_had_names_of_plain_weights_before(source, tmp_path):
    """What is written over the source's own place has no weights of it left."""
    target = tmp_path / "target"
    shutil.copytree(source, target)
    binq.quantize_checkpoint(source, target, overwrite=True)
    assert_refused("AutoModelForCausalLM", target)
