"""Small models of transformers, random, in folders as their owners store them."""

import torch
import transformers

LAYERS = 2
VOCAB = 200
HIDDEN = 64
_SIZES = {
    "hidden_size": HIDDEN,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": VOCAB,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_ROUTED = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
FAMILIES = {
    "qwen3": ("Qwen3Config", {}),
    "qwen3_tied": ("Qwen3Config", {"tie_word_embeddings": True}),
    "qwen2": ("Qwen2Config", {}),
    "llama": ("LlamaConfig", {}),
    "mistral": ("MistralConfig", {"sliding_window": 8}),
    "bitnet": ("BitNetConfig", {"tie_word_embeddings": True, "head_dim": 16}),
    "qwen3_moe": ("Qwen3MoeConfig", _ROUTED),
    "mixtral": ("MixtralConfig", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "gpt_oss": (
        "GptOssConfig",
        {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8},
    ),
    "llama4": (
        "Llama4TextConfig",
        {
            "num_local_experts": 4,
            "num_experts_per_tok": 1,
            "intermediate_size_mlp": 96,
            "moe_layers": [0, 1],
        },
    ),
    "deepseek_v3": (
        "DeepseekV3Config",
        {
            "n_routed_experts": 8,
            "num_experts_per_tok": 2,
            "n_group": 2,
            "topk_group": 1,
            "n_shared_experts": 1,
            "first_k_dense_replace": 1,
            "moe_intermediate_size": 32,
            "q_lora_rank": 64,
            "kv_lora_rank": 32,
            "qk_rope_head_dim": 16,
            "qk_nope_head_dim": 16,
            "v_head_dim": 16,
            "num_key_value_heads": 4,
            "head_dim": 16,
        },
    ),
    "gemma4": (
        "Gemma4TextConfig",
        {
            "tie_word_embeddings": True,
            "enable_moe_block": True,
            "num_experts": 4,
            "top_k_experts": 2,
            "moe_intermediate_size": 64,
            "hidden_size_per_layer_input": 0,
            "global_head_dim": 64,
            "layer_types": ["sliding_attention", "full_attention"],
            "sliding_window": 8,
        },
    ),
    "qwen3_5": (
        "Qwen3_5TextConfig",
        {
            "layer_types": ["linear_attention", "full_attention"],
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 16,
            "linear_value_head_dim": 16,
        },
    ),
}
TOKENS = torch.tensor([[1, 17, 3, 99, 150, 42, 8, 77, 5, 120, 64, 31]])


def make(family, seed=0, **changes):
    """Returns a random float32 model of a family."""
    name, fields = FAMILIES[family]
    config = getattr(transformers, name)(**(_SIZES | fields | changes))
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:  # as large as those of a trained model
                parameter.normal_(0, parameter.shape[-1] ** -0.5)
    return model.eval()


def folder(family, path, **changes):
    """Writes a random model and returns the folder."""
    make(family, **changes).save_pretrained(path)
    return path
