"""Models of transformers in GGUF as llama.cpp's converter writes them, taken over: equal logits.

The names of tensors are those of the library gguf; what the converter does to values is done here
anew: the order of q and k, the 1 that norms have added, the table of Llama 3's rotary embeddings.
"""

import json

import numpy as np
import pytest

import binq

pytestmark = pytest.mark.interop
gguf = pytest.importorskip("gguf")
transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

VOCABULARY, WIDTH, HEADS, KV, HEAD, HIDDEN, LAYERS = 96, 64, 4, 2, 32, 128, 4
SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": WIDTH, "intermediate_size": HIDDEN,
    "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": KV,
    "head_dim": HEAD, "max_position_embeddings": 512, "rms_norm_eps": 3e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 50000.0},
    "tie_word_embeddings": False,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
}  # fmt: skip
YARN = {
    "rope_type": "yarn", "rope_theta": 1000000.0, "factor": 4.0,
    "original_max_position_embeddings": 128,
}  # fmt: skip
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}
LONG = {
    "rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 0.75,
    "long_factor": [1.05, 1.5, 2.25, 3.0, 7.5, 12.0],
    "short_factor": [1.0, 1.0, 1.1, 1.2, 1.3, 2.0],
}  # fmt: skip
PHI = {"head_dim": WIDTH // HEADS, "original_max_position_embeddings": 8, "pad_token_id": 1}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
TWO_BASES = {
    "full_attention": {"rope_type": "linear", "rope_theta": 1000000.0, "factor": 8.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
}
LINEAR_ATTENTION = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16,
    "linear_value_head_dim": 32, "linear_conv_kernel_dim": 4,
    "rope_parameters": {
        "rope_type": "default", "rope_theta": 50000.0, "partial_rotary_factor": 0.5,
        "mrope_section": [3, 3, 2], "mrope_interleaved": True,
    },
}  # fmt: skip

# name -> architecture of GGUF, class of transformers, its configuration beside the sizes
MODELS = {
    "llama": ("llama", "Llama", {}),
    "llama tied, biased": ("llama", "Llama", {"tie_word_embeddings": True, "attention_bias": True}),
    "llama 3": ("llama", "Llama", {"rope_parameters": LLAMA3}),
    "llama linear": ("llama", "Llama", {"rope_parameters": LINEAR}),
    "mixtral": ("llama", "Mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen2": ("qwen2", "Qwen2", {"head_dim": WIDTH // HEADS}),
    "qwen3": ("qwen3", "Qwen3", {}),
    "qwen3 yarn": ("qwen3", "Qwen3", {"rope_parameters": YARN}),
    "qwen2moe": (
        "qwen2moe",
        "Qwen2Moe",
        EXPERTS | {"shared_expert_intermediate_size": 96, "head_dim": WIDTH // HEADS},
    ),
    "qwen3moe": ("qwen3moe", "Qwen3Moe", EXPERTS | {"norm_topk_prob": True}),
    "gemma": ("gemma", "Gemma", {"tie_word_embeddings": True}),
    "gemma2": (
        "gemma2",
        "Gemma2",
        {"tie_word_embeddings": True, "query_pre_attn_scalar": HEAD, "sliding_window": 8},
    ),
    "gemma3": (
        "gemma3",
        "Gemma3",
        {
            "tie_word_embeddings": True, "query_pre_attn_scalar": HEAD, "sliding_window": 8,
            "rope_parameters": TWO_BASES, "num_hidden_layers": 6,
        },
    ),
    "phi3": ("phi3", "Phi3", PHI | {"sliding_window": 7}),
    "phi3 partial": (
        "phi3",
        "Phi3",
        PHI | {"rope_parameters": SIZES["rope_parameters"] | {"partial_rotary_factor": 0.5}},
    ),
    "phi3 long": ("phi3", "Phi3", PHI | {"rope_parameters": LONG}),  # longer than the first length
    "phi3 short": (
        "phi3",
        "Phi3",
        PHI | {"rope_parameters": LONG, "original_max_position_embeddings": 64},
    ),
    "granite": (
        "granite",
        "Granite",
        {
            "head_dim": None, "attention_multiplier": 0.2, "embedding_multiplier": 3.0,
            "residual_multiplier": 0.5, "logits_scaling": 4.0,
        },
    ),
    "smollm3": ("smollm3", "SmolLM3", {"head_dim": WIDTH // HEADS, "pad_token_id": 1}),
    "qwen35": ("qwen35", "Qwen3_5", LINEAR_ATTENTION),
    "qwen35moe": (
        "qwen35moe",
        "Qwen3_5Moe",
        LINEAR_ATTENTION | EXPERTS | {"shared_expert_intermediate_size": 96},
    ),
}  # fmt: skip


def model_of(kind):
    architecture, name, more = MODELS[kind]
    config_class = (
        f"{name}TextConfig" if name.startswith(("Gemma3", "Qwen3_5")) else f"{name}Config"
    )
    sizes = {key: value for key, value in (SIZES | more).items() if value is not None}
    config = getattr(transformers, config_class)(**sizes)
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    with torch.no_grad():
        for tensor in model.parameters():
            tensor += 0.02 * torch.randn_like(tensor)
    return architecture, model


def by_turns(values, heads):
    """Returns rows of q or k in the order of llama.cpp's rotary embedding."""
    halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return halves.swapaxes(1, 2).reshape(values.shape)


def tensors_of(architecture, model):
    """Returns the tensors of a GGUF file by name."""
    config = model.config
    names = gguf.get_tensor_name_map(
        gguf.MODEL_ARCH[{"gemma": "GEMMA"}.get(architecture, architecture.upper())],
        config.num_hidden_layers,
    )
    rows = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    found = {}

    def add(name, values):
        found[names.get_name(name, try_suffixes=(".weight", ".bias"))] = values

    for name, tensor in model.state_dict().items():
        values = tensor.detach().float().numpy()
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        module = name.rsplit(".", 2)[-2]
        if architecture in ("llama", "granite", "smollm3") and module in rows:
            values = by_turns(values, rows[module])
        elif architecture.startswith(("gemma", "qwen35")) and "norm" in module:
            values = values + np.float32("linear_attn" not in name)
        if "linear_attn" in name:
            name, values = linear_attention(config, name, values)
        if name.endswith("experts.gate_up_proj"):
            gate, up = np.split(values, 2, axis=1)
            block = "block_sparse_moe" if "block_sparse_moe" in name else "mlp"
            layer = name[: name.index(block)] + "mlp.experts."
            add(f"{layer}gate_proj.weight", gate)
            add(f"{layer}up_proj.weight", up)
        elif name.endswith("experts.down_proj"):
            add(name.replace("block_sparse_moe", "mlp") + ".weight", values)
        else:
            add(name, values)
    rope = config.rope_parameters
    if rope.get("rope_type") == "llama3":
        found["rope_freqs.weight"] = llama3_table(rope, config.head_dim)
    elif rope.get("rope_type") == "longrope":
        for length in ("long", "short"):
            found[f"rope_factors_{length}.weight"] = np.array(rope[f"{length}_factor"])
    return {name: np.ascontiguousarray(values, np.float32) for name, values in found.items()}


def linear_attention(config, name, values):
    """Returns a tensor of Qwen 3.5 with the first value head of each key head before the second."""
    keys, heads = config.linear_num_key_heads, config.linear_num_value_heads
    width, first = config.linear_value_head_dim, 2 * keys * config.linear_key_head_dim
    leaf = name.partition("linear_attn.")[2]

    def turned(rows):
        by_key = rows.reshape(keys, heads // keys, -1, *rows.shape[1:])
        return by_key.swapaxes(0, 1).reshape(rows.shape)

    if leaf in ("in_proj_qkv.weight", "conv1d.weight"):
        values = values.reshape(values.shape[0], -1)
        values = np.concatenate([values[:first], turned(values[first:])])
    elif leaf in ("in_proj_z.weight", "in_proj_a.weight", "in_proj_b.weight"):
        values = turned(values)
    elif leaf == "A_log":
        values = -np.exp(turned(values))
    elif leaf == "dt_bias":
        name, values = name.replace("dt_bias", "dt_proj.bias"), turned(values)
    elif leaf == "out_proj.weight":
        values = turned_columns(values, turned)
    assert width * heads == config.hidden_size * 2
    return name, values


def turned_columns(values, turned):
    return turned(values.T).T


def llama3_table(rope, size):
    """Returns what llama.cpp's converter writes: waves are short, long, or between."""
    factors = []
    for frequency in 1.0 / rope["rope_theta"] ** (np.arange(0, size, 2) / size):
        wave = 2 * np.pi / frequency
        original = rope["original_max_position_embeddings"]
        if wave < original / rope["high_freq_factor"]:
            factors.append(1.0)
        elif wave > original / rope["low_freq_factor"]:
            factors.append(rope["factor"])
        else:
            between = rope["high_freq_factor"] - rope["low_freq_factor"]
            smooth = (original / wave - rope["low_freq_factor"]) / between
            factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(factors)


def written(path, kind):
    architecture, model = model_of(kind)
    config = model.config
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    if hasattr(config, "intermediate_size"):
        writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    size = getattr(config, "head_dim", None) or WIDTH // HEADS
    if size != WIDTH // HEADS:
        writer.add_key_length(size)
        writer.add_value_length(size)
    elif architecture.startswith("gemma"):
        raise ValueError("Gemma's files always have key_length")
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    rope = config.rope_parameters
    rope = rope.get("full_attention", rope)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_rope_dimension_count(int(size * rope.get("partial_rotary_factor", 1)))
    if architecture.startswith("qwen35"):
        writer.add_rope_dimension_sections([*rope["mrope_section"], 0])
        writer.add_ssm_conv_kernel(config.linear_conv_kernel_dim)
        writer.add_ssm_state_size(config.linear_key_head_dim)
        writer.add_ssm_group_count(config.linear_num_key_heads)
        writer.add_ssm_time_step_rank(config.linear_num_value_heads)
        writer.add_ssm_inner_size(config.linear_value_head_dim * config.linear_num_value_heads)
        writer.add_full_attention_interval(4)
    if architecture == "phi3":
        original = config.original_max_position_embeddings
        writer.add_rope_scaling_orig_ctx_len(original)
        writer.add_sliding_window(config.sliding_window or 0)
        if rope["rope_type"] == "longrope":
            scale = np.log(config.max_position_embeddings / original) / np.log(original)
            writer.add_rope_scaling_attn_factors(float(np.sqrt(1 + scale)))
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    elif rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    if MODELS[kind][1] == "Mixtral":
        writer.add_expert_count(config.num_local_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
    elif "num_experts" in MODELS[kind][2]:
        writer.add_expert_count(config.num_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
        if architecture in ("qwen2moe", "qwen35moe"):
            shared = config.shared_expert_intermediate_size
            writer.add_expert_shared_feed_forward_length(shared)
    if architecture == "granite":
        writer.add_attention_scale(config.attention_multiplier)
        writer.add_embedding_scale(config.embedding_multiplier)
        writer.add_residual_scale(config.residual_multiplier)
        writer.add_logit_scale(config.logits_scaling)
    if architecture in ("gemma2", "gemma3"):
        writer.add_sliding_window(config.sliding_window)
    if architecture == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    for name, values in tensors_of(architecture, model).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def logits(model):
    ids = torch.tensor([[3, 14, 15, 92, 65, 35, 89, 79, 32, 38, 46, 26, 43, 38, 32, 79]])
    with torch.no_grad():
        return model(ids).logits.numpy()


@pytest.mark.parametrize("kind", MODELS)
def test_model_computes_what_it_did(tmp_path, kind):
    model = written(tmp_path / "m.gguf", kind)
    report = binq.dequantize_checkpoint(tmp_path / "m.gguf", tmp_path / "plain", dtype="float32")
    assert [note for note in report.notes if "config.json" in note] == []
    loaded, told = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "plain", dtype=torch.float32, output_loading_info=True
    )
    assert type(loaded) is type(model)
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    np.testing.assert_allclose(logits(loaded), logits(model), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", MODELS)
def test_packed_model_runs(tmp_path, kind):
    import binq.torch

    written(tmp_path / "m.gguf", kind)
    binq.quantize_checkpoint(tmp_path / "m.gguf", tmp_path / "packed", "int4", group_size=32)
    loaded = binq.torch.load(tmp_path / "packed", activations="float32")
    binq.dequantize_checkpoint(tmp_path / "packed", tmp_path / "plain", dtype="float32")
    plain = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "plain", dtype=torch.float32
    )
    np.testing.assert_allclose(logits(loaded), logits(plain), rtol=0, atol=1e-5)
    config = json.loads((tmp_path / "packed" / "config.json").read_text())
    assert config["quantization_config"]["convention"] == "Hugging Face"
