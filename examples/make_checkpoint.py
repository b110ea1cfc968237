"""Writes a small checkpoint as model hubs have them: sharded, BF16, the layout of Qwen 3.

python examples/make_checkpoint.py FOLDER
"""

import argparse
import json
from pathlib import Path

import ml_dtypes
import numpy as np

import binq

HIDDEN, INTER, LAYERS, HEADS, KV_HEADS, HEAD_DIM, VOCAB = 512, 1536, 4, 8, 2, 64, 2003
CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": HIDDEN,
    "intermediate_size": INTER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD_DIM,
    "vocab_size": VOCAB,
    "tie_word_embeddings": False,
    "dtype": "bfloat16",
}


def shapes():
    """Yields name and shape of every tensor of the model."""
    yield "model.embed_tokens.weight", (VOCAB, HIDDEN)
    for i in range(LAYERS):
        layer = f"model.layers.{i}"
        yield f"{layer}.input_layernorm.weight", (HIDDEN,)
        yield f"{layer}.self_attn.q_proj.weight", (HEADS * HEAD_DIM, HIDDEN)
        yield f"{layer}.self_attn.k_proj.weight", (KV_HEADS * HEAD_DIM, HIDDEN)
        yield f"{layer}.self_attn.v_proj.weight", (KV_HEADS * HEAD_DIM, HIDDEN)
        yield f"{layer}.self_attn.o_proj.weight", (HIDDEN, HEADS * HEAD_DIM)
        yield f"{layer}.self_attn.q_norm.weight", (HEAD_DIM,)
        yield f"{layer}.self_attn.k_norm.weight", (HEAD_DIM,)
        yield f"{layer}.post_attention_layernorm.weight", (HIDDEN,)
        yield f"{layer}.mlp.gate_proj.weight", (INTER, HIDDEN)
        yield f"{layer}.mlp.up_proj.weight", (INTER, HIDDEN)
        yield f"{layer}.mlp.down_proj.weight", (HIDDEN, INTER)
    yield "model.norm.weight", (HIDDEN,)
    yield "lm_head.weight", (VOCAB, HIDDEN)


def write(folder: Path) -> None:
    """Writes the checkpoint in two shards with index, config and a small tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    tensors = {}
    for name, shape in shapes():
        w = rng.standard_t(6, shape) / np.sqrt(shape[-1]) if len(shape) > 1 else np.ones(shape)
        tensors[name] = w.astype(ml_dtypes.bfloat16)
    names = list(tensors)
    weight_map = {}
    for n, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), start=1):
        file = f"model-{n:05d}-of-00002.safetensors"
        binq.save_file({name: tensors[name] for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    total = sum(w.nbytes for w in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=1))
    (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": {}}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    write(parser.parse_args().folder)
