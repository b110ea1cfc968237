"""GGUF files against transformers' own reader of them: names, order of rows, norms."""

import numpy as np
import pytest

from binq.files.checkpoint import Checkpoint
from binq.models import logical_tensors

pytestmark = pytest.mark.interop
gguf = pytest.importorskip("gguf")
transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

WIDTH, HEADS, KV, HIDDEN = 64, 4, 2, 128


def tensors_of(kind):
    rng = np.random.default_rng(0)

    def floats(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    tensors = {"token_embd.weight": floats(96, WIDTH), "output_norm.weight": floats(WIDTH)}
    norms = ["attn_norm", "ffn_norm"]
    if kind != "llama":
        norms += ["post_attention_norm", "post_ffw_norm"]
    for block in ("blk.0.", "blk.1."):
        tensors |= {f"{block}{name}.weight": floats(WIDTH) for name in norms}
        shapes = {
            "attn_q": (WIDTH, WIDTH), "attn_k": (WIDTH // 2, WIDTH), "attn_v": (WIDTH // 2, WIDTH),
            "attn_output": (WIDTH, WIDTH), "ffn_gate": (HIDDEN, WIDTH), "ffn_up": (HIDDEN, WIDTH),
            "ffn_down": (WIDTH, HIDDEN),
        }  # fmt: skip
        if kind == "gemma3":
            shapes |= {"attn_q_norm": (WIDTH // HEADS,), "attn_k_norm": (WIDTH // HEADS,)}
        tensors |= {f"{block}{name}.weight": floats(*shape) for name, shape in shapes.items()}
    return tensors


def written(folder, kind):
    writer = gguf.GGUFWriter(str(folder / "m.gguf"), kind)
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(2)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV)
    writer.add_key_length(WIDTH // HEADS)
    writer.add_value_length(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(96)
    for name, values in tensors_of(kind).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return folder / "m.gguf"


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gemma3"])
def test_names_and_values_are_those_that_transformers_reads(tmp_path, kind):
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    path = written(tmp_path, kind)
    config = transformers.AutoConfig.from_pretrained(str(tmp_path), gguf_file=path.name)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    expected = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=model)["tensors"]
    with Checkpoint(path) as source:
        found = {tensor.name: tensor.read(source) for tensor in logical_tensors(source)}
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values.float().numpy(), name)
