"""Folders of GGUF files: configuration, tokenizer and template of the metadata lie in them."""

import json
import struct

import numpy as np
import pytest
from checkpoints.fixtures import F32, Written, floats, gguf_file, gguf_string, gguf_tensor

import binq

WIDTH, VOCABULARY = 256, 40
TOKENS = [*"abcdefghijklmnopqrstuvwxyz", "ab", "Ġ", "<|end|>"]
TOKENS += [f"[PAD{n}]" for n in range(len(TOKENS), VOCABULARY)]
KINDS = [1] * 28 + [3] + [5] * (VOCABULARY - 29)
METADATA = {
    "general.architecture": "qwen3", "qwen3.block_count": 1, "qwen3.context_length": 512,
    "qwen3.embedding_length": WIDTH, "qwen3.feed_forward_length": 512,
    "qwen3.attention.head_count": 4, "qwen3.attention.head_count_kv": 2,
    "qwen3.attention.layer_norm_rms_epsilon": 1e-6, "qwen3.rope.freq_base": 1e6,
    "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "qwen2", "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.merges": ["a b"], "tokenizer.ggml.eos_token_id": 28,
    "tokenizer.chat_template": "{{ messages[0]['content'] }}",
}  # fmt: skip


def bonsai(folder, kind="Q1_0", **more):
    """Writes a model in the manner of Bonsai; returns its path and the values of its matrices."""
    folder.mkdir(exist_ok=True)
    written = Written(folder)
    matrices = {
        "token_embd": (VOCABULARY, WIDTH), "blk.0.attn_q": (WIDTH, WIDTH),
        "blk.0.attn_k": (128, WIDTH), "blk.0.attn_v": (128, WIDTH),
        "blk.0.attn_output": (WIDTH, WIDTH), "blk.0.ffn_gate": (512, WIDTH),
        "blk.0.ffn_up": (512, WIDTH), "blk.0.ffn_down": (WIDTH, 512),
    }  # fmt: skip
    norms = {"output_norm": WIDTH, "blk.0.attn_norm": WIDTH, "blk.0.ffn_norm": WIDTH,
             "blk.0.attn_q_norm": 64, "blk.0.attn_k_norm": 64}  # fmt: skip
    tensors = {
        f"{name}.weight": gguf_tensor(written, f"{name}.weight", kind, shape)
        for name, shape in matrices.items()
    }
    for name, size in norms.items():
        values = 1 + floats(name, (size,)) / 10
        tensors[f"{name}.weight"] = (0, (size,), values.astype(F32).tobytes())
    raw = gguf_file(METADATA | more, tensors)
    # One key more, whose numbers have a type of their own.
    types = gguf_string("tokenizer.ggml.token_type") + struct.pack("<IIQ", 9, 5, len(KINDS))
    types += struct.pack(f"<{len(KINDS)}i", *KINDS)
    types += gguf_string("room") + struct.pack("<IIQ", 9, 0, 0)
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(METADATA | more) + 2)
    room = -len(types) % 32
    types = types[:-8] + struct.pack("<Q", room) + bytes(room)
    path = folder / "Bonsai.gguf"
    path.write_bytes(head + types + raw[24:])
    return path, written.values


def text(path):
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize(("kind", "format"), [("Q1_0", "binary"), ("TQ2_0", "ternary")])
def test_a_packed_folder_has_all_that_runs_it(tmp_path, kind, format):
    path, values = bonsai(tmp_path / "s", kind)
    report = binq.quantize_checkpoint(path, tmp_path / "t", format, group_size=128)
    assert report.warnings == []
    config = json.loads(text(tmp_path / "t/config.json"))
    assert config["architectures"] == ["Qwen3ForCausalLM"]
    assert config["tie_word_embeddings"] is True
    assert config["rope_theta"] == 1e6
    assert config["quantization_config"]["convention"] == "Hugging Face"
    tokenizer = json.loads(text(tmp_path / "t/tokenizer.json"))
    assert len(tokenizer["model"]["vocab"]) == 29
    assert text(tmp_path / "t/chat_template.jinja") == METADATA["tokenizer.chat_template"]
    assert json.loads(text(tmp_path / "t/generation_config.json")) == {"eos_token_id": 28}
    assert json.loads(text(tmp_path / "t/tokenizer_config.json"))["eos_token"] == "<|end|>"
    with binq.load(tmp_path / "t") as tensors:
        q = tensors["model.layers.0.mlp.down_proj.weight"]
        np.testing.assert_array_equal(q.dequantize(), values["blk.0.ffn_down.weight"])
    again = binq.quantize_checkpoint(path, tmp_path / "t", format, group_size=128, resume=True)
    assert again.warnings == []
    (tmp_path / "t/tokenizer.json").unlink()
    with pytest.raises(FileExistsError, match="files are missing"):
        binq.quantize_checkpoint(path, tmp_path / "t", format, group_size=128, resume=True)


def test_a_plain_folder_too(tmp_path):
    path, _ = bonsai(tmp_path / "s")
    report = binq.dequantize_checkpoint(path, tmp_path / "t", dtype="float32")
    assert report.notes == []
    config = json.loads(text(tmp_path / "t/config.json"))
    assert config["model_type"] == "qwen3"
    assert config["dtype"] == "float32"
    assert {"tokenizer.json", "chat_template.jinja"} < {p.name for p in (tmp_path / "t").iterdir()}


def test_what_is_not_taken_over_is_said(tmp_path):
    path, _ = bonsai(tmp_path / "s", **{"tokenizer.ggml.pre": "mystery", "qwen3.block_count": "1"})
    report = binq.quantize_checkpoint(path, tmp_path / "t", "binary")
    assert report.warnings == [
        "config.json describes no model: qwen3.block_count is '1'",
        "there is no tokenizer.json: texts are split in a way that is not known here: 'mystery'",
    ]
    assert list(json.loads(text(tmp_path / "t/config.json"))) == ["quantization_config"]
    assert (tmp_path / "t/chat_template.jinja").exists()
    assert not (tmp_path / "t/tokenizer.json").exists()


def test_another_family_has_no_configuration_of_its_own(tmp_path):
    path, _ = bonsai(tmp_path / "s")
    binq.quantize_checkpoint(path, tmp_path / "t", "binary", family="generic")
    config = json.loads(text(tmp_path / "t/config.json"))
    assert list(config) == ["quantization_config"]
    assert config["quantization_config"]["convention"] == "llama.cpp"


def test_loading_gives_the_same(tmp_path):
    path, _ = bonsai(tmp_path / "s")
    binq.quantize_checkpoint(path, tmp_path / "t", "binary")
    with binq.load(path) as stored, binq.load(tmp_path / "t") as packed:
        assert stored.config == {k: v for k, v in packed.config.items() if "quant" not in k}
        for name in ("tokenizer.json", "chat_template.jinja", "generation_config.json"):
            assert stored.text(name) == packed.text(name)
        assert stored.text("README.md") is None
        assert stored.text("none.json") is packed.text("none.json") is None
        with pytest.raises(ValueError, match="name must be"):
            packed.text("../s/Bonsai.gguf")
