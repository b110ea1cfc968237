"""config.json from the metadata of GGUF files: fields, and what is not known well enough."""

import numpy as np
import pytest
from checkpoints.fixtures import F32, gguf_file

from binq.files.checkpoint import Checkpoint
from binq.models.gguf_config import taken_over

SIZES = {
    "context_length": 512, "embedding_length": 64, "block_count": 2, "feed_forward_length": 128,
    "attention.head_count": 4, "attention.head_count_kv": 2,
    "attention.layer_norm_rms_epsilon": 1e-5, "rope.freq_base": 10000.0,
}  # fmt: skip


def config_of(path, kind="llama", tensors=(), without=(), **more):
    metadata = {"general.architecture": kind}
    keys = {key: value for key, value in SIZES.items() if key not in without}
    keys |= {key.replace("__", "."): value for key, value in more.items()}
    for key, value in keys.items():
        metadata[key if key.startswith("tokenizer.") else f"{kind}.{key}"] = value
    stored = {"token_embd.weight": np.zeros((96, 64), F32)} | dict(tensors)
    entries = {name: (0, values.shape, values.tobytes()) for name, values in stored.items()}
    path = path / "m.gguf"
    path.write_bytes(gguf_file(metadata, entries))
    with Checkpoint(path) as source:
        return taken_over(source)


def reason(*args, **more):
    config, why = config_of(*args, **more)
    assert config == {}
    return why


def test_fields_have_the_names_of_hugging_face(tmp_path):
    config, why = config_of(tmp_path, tokenizer__ggml__eos_token_id=7)
    assert why == ""
    assert config == {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "float32",
        "vocab_size": 96, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "hidden_act": "silu",
        "rms_norm_eps": 1e-5, "max_position_embeddings": 512, "tie_word_embeddings": True,
        "attention_dropout": 0.0, "use_cache": True, "rope_theta": 10000.0, "rope_scaling": None,
        "attention_bias": False, "mlp_bias": False, "bos_token_id": None, "eos_token_id": 7,
        "pad_token_id": None,
    }  # fmt: skip


def test_tensors_tell_head_and_biases(tmp_path):
    tensors = {
        "output.weight": np.zeros((96, 64), F32),
        "blk.0.attn_q.bias": np.zeros(64, F32),
    }
    config, _ = config_of(tmp_path, tensors=tensors)
    assert config["tie_word_embeddings"] is False
    assert config["attention_bias"] is True


def test_numbers_of_each_layer_that_are_one(tmp_path):
    config, _ = config_of(tmp_path, feed_forward_length=[128, 128])
    assert config["intermediate_size"] == 128
    assert "differs from layer to layer" in reason(tmp_path, feed_forward_length=[128, 64])


def test_layers_that_draft_are_not_counted(tmp_path):
    tensors = {"blk.1.nextn.eh_proj.weight": np.zeros((64, 128), F32)}
    more = {"ssm__time_step_rank": 4, "ssm__inner_size": 128, "ssm__conv_kernel": 4,
            "ssm__state_size": 16, "ssm__group_count": 2, "nextn_predict_layers": 1,
            "rope__dimension_sections": [3, 3, 2, 0], "rope__dimension_count": 8}  # fmt: skip
    config, why = config_of(tmp_path, "qwen35", tensors, **more)
    assert why == ""
    assert config["num_hidden_layers"] == 1
    assert config["rope_parameters"] == {
        "rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5,
        "mrope_interleaved": True, "mrope_section": [3, 3, 2],
    }  # fmt: skip


@pytest.mark.parametrize("key", SIZES)
def test_what_is_missing_is_named_or_has_a_default(tmp_path, key):
    config, why = config_of(tmp_path, without=(key,))
    if key in ("rope.freq_base", "attention.head_count_kv"):
        assert config
        assert not why
    else:
        assert config == {}
        assert key in why


@pytest.mark.parametrize(
    ("more", "part"),
    [
        ({"kind": "mystery"}, "architecture 'mystery'"),
        ({"embedding_length": 32}, "shape (96, 64)"),
        ({"rope__dimension_count": 8}, "only 8 of 16 numbers"),
        ({"rope__scaling__type": "longrope"}, "type 'longrope'"),
        ({"rope__scale_linear": 4.0}, "rope.scale_linear"),
        ({"attention__value_length": 8}, "different widths"),
        ({"attention__layer_norm_rms_epsilon": "small"}, "'small'"),
        ({"block_count": 1.5}, "block_count"),
        ({"tensors": {"blk.0.strange.weight": np.zeros(64, F32)}}, "'blk.0.strange.weight'"),
        ({"tensors": {"rope_freqs.weight": np.full(8, 2, F32)}}, "not a table of Llama 3"),
        ({"tensors": {"rope_freqs.weight": np.full(4, 1, F32)}}, "has shape (4,)"),
        ({"kind": "gemma2", "attention__scale": 0.1}, "attention.scale"),
    ],
)
def test_what_is_not_known_is_not_guessed(tmp_path, more, part):
    assert part in reason(tmp_path, **more)


@pytest.mark.parametrize(("factor", "original"), [(8.0, 8192), (32.0, 8192), (4.0, 1000)])
def test_scaling_of_llama_3_is_told_by_its_table(tmp_path, factor, original):
    frequencies = 500000.0 ** -(np.arange(0, 16, 2) / 16)
    waves = 2 * np.pi / frequencies
    smooth = (original / waves - 1) / 3
    between = 1 / ((1 - smooth) / factor + smooth)
    table = np.where(waves < original / 4, 1.0, np.where(waves > original, factor, between))
    tensors = {"rope_freqs.weight": table.astype(F32)}
    config, why = config_of(tmp_path, tensors=tensors, rope__freq_base=500000.0)
    assert why == ""
    assert config["rope_scaling"] == {
        "rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": original,
    }  # fmt: skip


TABLES = {
    "rope_factors_long.weight": np.array([1.05, 2.5, 7.1], F32),
    "rope_factors_short.weight": np.array([1.0, 1.1, 1.3], F32),
}
PHI = {
    "rope__scaling__original_context_length": 64,
    "rope__scaling__attn_factor": float(np.sqrt(1 + np.log(8) / np.log(64))),
    "rope__dimension_count": 6,
}


def test_longrope(tmp_path):
    config, why = config_of(tmp_path, "phi3", TABLES, **PHI, attention__sliding_window=0)
    assert why == ""
    assert config["rope_scaling"] == {
        "type": "longrope", "long_factor": [1.05, 2.5, 7.1], "short_factor": [1.0, 1.1, 1.3]
    }  # fmt: skip
    assert config["partial_rotary_factor"] == 6 / 16
    assert config["original_max_position_embeddings"] == 64
    assert config["sliding_window"] is None
    config, _ = config_of(tmp_path, "phi3", **PHI, attention__sliding_window=32)
    assert config["rope_scaling"] is None
    assert config["sliding_window"] == 32


@pytest.mark.parametrize(
    ("tables", "more", "part"),
    [
        (list(TABLES)[:1], {}, "rope_factors_long.weight alone"),
        (list(TABLES)[1:], {}, "rope_factors_short.weight alone"),
        (list(TABLES), {"rope__dimension_count": 8}, "has shape (3,), 8 numbers are turned"),
        (list(TABLES), {"rope__scaling__attn_factor": 1.5}, "attn_factor is 1.5, LongRoPE has 1.2"),
        ([], {"rope__scaling__original_context_length": None}, "original_context_length is None"),
        ([], {"rope__dimension_count": 18}, "only 18 of 16"),
    ],
)
def test_what_is_not_longrope(tmp_path, tables, more, part):
    said = {key: value for key, value in (PHI | more).items() if value is not None}
    chosen = {name: TABLES[name] for name in tables}
    assert part in reason(tmp_path, "phi3", chosen, **said)


def test_yarn(tmp_path):
    more = {"rope__scaling__type": "yarn", "rope__scaling__factor": 4.0,
            "rope__scaling__original_context_length": 128}  # fmt: skip
    config, _ = config_of(tmp_path, "qwen3", **more)
    assert config["rope_scaling"] == {
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128,
    }  # fmt: skip
    assert "attn_factor" in reason(tmp_path, "qwen3", rope__scaling__attn_factor=2.0, **more)
