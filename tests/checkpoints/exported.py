"""What the tests of exports share: a small Qwen 3, and how two folders are compared."""

import numpy as np

import binq

SIZES = {
    "self_attn.q_proj": (128, 256),
    "self_attn.k_proj": (64, 256),
    "self_attn.v_proj": (64, 256),
    "self_attn.o_proj": (256, 128),
    "mlp.gate_proj": (512, 256),
    "mlp.up_proj": (512, 256),
    "mlp.down_proj": (256, 512),
}
CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "dtype": "float32",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 96,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}


def same_weights(one, other):
    """Returns whether two folders hold the same numbers under the same names."""
    with binq.load(one) as first, binq.load(other) as second:
        assert set(first) == set(second)
        return all(np.array_equal(np.asarray(first[n]), np.asarray(second[n])) for n in first)
