"""A folder far larger than memory: it loads in seconds, and only chosen experts are read."""

import json
import struct
import subprocess
import sys
from math import prod

import numpy as np
import pytest

from binq.array.packing import Packing
from binq.files import metadata as binq_metadata
from binq.files.checkpoint import INDEX

pytestmark = [pytest.mark.interop, pytest.mark.slow]
pytest.importorskip("torch", minversion="2.6")
pytest.importorskip("transformers", minversion="5.23")
HIDDEN, INTER, EXPERTS, LAYERS, VOCAB = 4096, 1536, 512, 12, 1000
CONFIG = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "hidden_size": HIDDEN,
    "intermediate_size": INTER,
    "moe_intermediate_size": INTER,
    "num_experts": EXPERTS,
    "num_experts_per_tok": 8,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "vocab_size": VOCAB,
    "dtype": "bfloat16",
    "quantization_config": {"quant_method": "binq"},
}
# Fresh: the peak of this process is that of other tests.
RUN = """
import resource, sys, time
import binq.torch, torch
start = time.perf_counter()
model = binq.torch.load(sys.argv[1])
loaded = time.perf_counter() - start
with torch.no_grad():
    logits = model(input_ids=torch.arange(6)[None]).logits
print(loaded, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, bool(logits.isfinite().all()))
"""


def write_sparse(folder):
    """Writes a folder whose weights are holes in a file, and returns their size in bytes."""
    packed, kept = {}, {"model.norm.weight": (HIDDEN,)}
    packed["model.embed_tokens.weight"] = packed["lm_head.weight"] = (VOCAB, HIDDEN)
    for n in range(LAYERS):
        layer = f"model.layers.{n}."
        for name, rows in {"q": 4096, "k": 512, "v": 512}.items():
            packed[f"{layer}self_attn.{name}_proj.weight"] = (rows, HIDDEN)
        packed[f"{layer}self_attn.o_proj.weight"] = (HIDDEN, 4096)
        for e in range(EXPERTS):
            for name in ("gate", "up"):
                packed[f"{layer}mlp.experts.{e}.{name}_proj.weight"] = (INTER, HIDDEN)
            packed[f"{layer}mlp.experts.{e}.down_proj.weight"] = (HIDDEN, INTER)
        kept[f"{layer}mlp.gate.weight"] = (EXPERTS, HIDDEN)
        for name in ("self_attn.q_norm", "self_attn.k_norm"):
            kept[f"{layer}{name}.weight"] = (128,)
        for name in ("input_layernorm", "post_attention_layernorm"):
            kept[f"{layer}{name}.weight"] = (HIDDEN,)
    packing = Packing("int4", 128)
    header, at = {}, 0
    types = {"uint8": "U8", "float16": "F16"}
    for name, shape in packed.items():
        for part in packing.parts(shape):
            end = at + prod(part.shape) * part.dtype.itemsize
            stored = {"dtype": types[part.dtype.name], "shape": part.shape}
            header[f"{name}.{part.name}"] = stored | {"data_offsets": [at, end]}
            at = end
    for name, shape in kept.items():
        end = at + 2 * prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, end]}
        at = end
    described = {n: binq_metadata.Description(packing, s) for n, s in packed.items()}
    header["__metadata__"] = {"binq": binq_metadata.dump(described)}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # as writers do: what follows is aligned
    name = "binq-00001-of-00001.safetensors"
    with (folder / name).open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + at)
    del header["__metadata__"]
    index = {"metadata": {"total_size": at}, "weight_map": dict.fromkeys(header, name)}
    (folder / INDEX).write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return at


def test_sixty_gigabytes(tmp_path):
    size = write_sparse(tmp_path)
    assert size > 58e9
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RUN, str(tmp_path)], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    seconds, peak, finite = run.stdout.split()[-3:]
    assert finite == "True"
    assert float(seconds) < 60
    assert int(peak) * 1024 < 4 * np.int64(2) ** 30
