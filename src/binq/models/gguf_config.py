"""config.json of Hugging Face, from the metadata of a GGUF file.

Keys of GGUF: the specification in ggml's docs/gguf.md and the constants of its Python package; what
llama.cpp takes for granted of an architecture, its src/models. What the metadata do not say, and
llama.cpp does not fix, is not guessed: there is then no configuration, and a reason.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from binq.files.checkpoint import Checkpoint
from binq.models.gguf_metadata import Metadata, NotKnownError
from binq.models.gguf_names import tensor_names
from binq.models.gguf_rope import ROPE_FREQS, TABLES, llama3_scaling, longrope_scaling, scaling
from binq.models.tensor import LogicalTensor

Config = dict[str, Any]


@dataclass(frozen=True)
class _Architecture:
    """How the models of an architecture are called, and what their configuration has beside sizes.

    - more: further fields, of the metadata
    - activation: its name, and the field that it stands in
    """

    model_type: str
    name: str
    more: Callable[[Metadata], Config] = field(default=lambda found: {})
    activation: tuple[str, str] = ("hidden_act", "silu")


def _llama(found: Metadata) -> Config:
    return {
        "attention_bias": found.has("blk.0.attn_q.bias"),
        "mlp_bias": found.has("blk.0.ffn_up.bias"),
    }


def _mixtral(found: Metadata) -> Config:
    if found.has("blk.0.attn_q.bias"):
        raise NotKnownError("a mixture of the architecture 'llama' has biases of attention")
    return {
        "num_local_experts": found.integer("expert_count"),
        "num_experts_per_tok": found.integer("expert_used_count"),
        "sliding_window": None,
    }


def _experts(found: Metadata) -> Config:
    return {
        "num_experts": found.integer("expert_count"),
        "num_experts_per_tok": found.integer("expert_used_count"),
        "moe_intermediate_size": found.integer("expert_feed_forward_length"),
    }


def _qwen2(found: Metadata) -> Config:
    return {"use_sliding_window": False}


def _qwen3(found: Metadata) -> Config:
    return {"use_sliding_window": False, "attention_bias": found.has("blk.0.attn_q.bias")}


def _mixture(found: Metadata, normalized: bool) -> Config:
    """Returns the experts of a Qwen, which llama.cpp takes to be in every layer."""
    return _experts(found) | {
        "norm_topk_prob": normalized,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "use_sliding_window": False,
    }


def _qwen2_moe(found: Metadata) -> Config:
    shared = found.integer("expert_shared_feed_forward_length")
    return _mixture(found, False) | {"shared_expert_intermediate_size": shared}


def _qwen3_moe(found: Metadata) -> Config:
    return _mixture(found, True) | {"attention_bias": found.has("blk.0.attn_q.bias")}


def _qwen35(found: Metadata) -> Config:
    values = found.integer("ssm.time_step_rank")
    inner = found.integer("ssm.inner_size")
    if not values or inner % values:
        raise NotKnownError(f"ssm.inner_size {inner} is not {values} whole heads")
    interval = found.integer("full_attention_interval", 4)
    layers = _layers(found)
    kinds = ["linear_attention", "full_attention"]
    return {
        "attn_output_gate": True,
        "full_attention_interval": interval,
        "layer_types": [kinds[(n + 1) % interval == 0] for n in range(layers)],
        "linear_conv_kernel_dim": found.integer("ssm.conv_kernel"),
        "linear_key_head_dim": found.integer("ssm.state_size"),
        "linear_num_key_heads": found.integer("ssm.group_count"),
        "linear_num_value_heads": values,
        "linear_value_head_dim": inner // values,
    }


def _qwen35_moe(found: Metadata) -> Config:
    shared = found.integer("expert_shared_feed_forward_length")
    return _qwen35(found) | _experts(found) | {"shared_expert_intermediate_size": shared}


def _gemma(found: Metadata) -> Config:
    return {"attention_bias": False}


def _gemma2(found: Metadata) -> Config:
    return _gemma(found) | {
        "attn_logit_softcapping": found.real("attn_logit_softcapping", 50.0),
        "final_logit_softcapping": found.real("final_logit_softcapping", 30.0),
        "sliding_window": found.integer("attention.sliding_window", 4096),
        "query_pre_attn_scalar": _query_scalar(found, 46),
    }


def _gemma3(found: Metadata) -> Config:
    capping = found.get("final_logit_softcapping")
    pattern = found.integer("attention.sliding_window_pattern", 6)
    kinds = ["sliding_attention", "full_attention"]
    return _gemma(found) | {
        "attn_logit_softcapping": None,
        "final_logit_softcapping": found.real("final_logit_softcapping") if capping else None,
        "sliding_window": found.integer("attention.sliding_window"),
        "layer_types": [kinds[(n + 1) % pattern == 0] for n in range(_layers(found))],
        "query_pre_attn_scalar": _query_scalar(found, 62),
        "rope_local_base_freq": found.real("rope.freq_base_swa", 10000.0),
    }


def _query_scalar(found: Metadata, layers_of_27b: int) -> int:
    """Returns what queries are divided by the root of: llama.cpp tells the 27B by its layers."""
    if found.get("attention.scale") is not None:
        raise NotKnownError(f"{found.architecture}.attention.scale is given")
    if found.integer("block_count") == layers_of_27b:
        return found.integer("embedding_length") // found.integer("attention.head_count")
    return found.integer("attention.key_length")


def _granite(found: Metadata) -> Config:
    return _llama(found) | {
        "attention_multiplier": found.real("attention.scale"),
        "embedding_multiplier": found.real("embedding_scale"),
        "residual_multiplier": found.real("residual_scale"),
        "logits_scaling": found.real("logit_scale"),
    }


def _smollm3(found: Metadata) -> Config:
    layers = _layers(found)
    return {
        "attention_bias": found.has("blk.0.attn_q.bias"),
        "mlp_bias": found.has("blk.0.ffn_up.bias"),
        "use_sliding_window": False,
        # llama.cpp's graph leaves every fourth layer without positions.
        "no_rope_layers": [int((n + 1) % 4 != 0) for n in range(layers)],
    }


def _phi3(found: Metadata) -> Config:
    return {
        "original_max_position_embeddings": found.integer("rope.scaling.original_context_length"),
        "sliding_window": found.integer("attention.sliding_window", 0) or None,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
    }


_GELU = ("hidden_activation", "gelu_pytorch_tanh")
_LLAMA = _Architecture("llama", "LlamaForCausalLM", _llama)
_MIXTRAL = _Architecture("mixtral", "MixtralForCausalLM", _mixtral)
_ARCHITECTURES: Mapping[str, _Architecture] = {
    "llama": _LLAMA,
    "qwen2": _Architecture("qwen2", "Qwen2ForCausalLM", _qwen2),
    "qwen2moe": _Architecture("qwen2_moe", "Qwen2MoeForCausalLM", _qwen2_moe),
    "qwen3": _Architecture("qwen3", "Qwen3ForCausalLM", _qwen3),
    "qwen3moe": _Architecture("qwen3_moe", "Qwen3MoeForCausalLM", _qwen3_moe),
    "qwen35": _Architecture("qwen3_5_text", "Qwen3_5ForCausalLM", _qwen35),
    "qwen35moe": _Architecture("qwen3_5_moe_text", "Qwen3_5MoeForCausalLM", _qwen35_moe),
    "gemma": _Architecture("gemma", "GemmaForCausalLM", _gemma, _GELU),
    "gemma2": _Architecture("gemma2", "Gemma2ForCausalLM", _gemma2, _GELU),
    "gemma3": _Architecture("gemma3_text", "Gemma3ForCausalLM", _gemma3, _GELU),
    "phi3": _Architecture("phi3", "Phi3ForCausalLM", _phi3),
    "granite": _Architecture("granite", "GraniteForCausalLM", _granite),
    "smollm3": _Architecture("smollm3", "SmolLM3ForCausalLM", _smollm3),
}
_SPECIAL = {"bos": "bos", "eos": "eos", "padding": "pad"}


def taken_over(source: Checkpoint) -> tuple[Config, str]:
    """Returns the configuration of a GGUF file's model, and "" or why there is none.

    The configuration is then {}: a model that loads and computes something else is worse than none.
    """
    return source.once("configuration of GGUF", lambda: _taken_over(source))


def without_tables(source: Checkpoint, tensors: list[LogicalTensor]) -> list[LogicalTensor]:
    """Returns the tensors without factors of rotary embeddings that the configuration tells."""
    if not taken_over(source)[0]:
        return tensors
    return [tensor for tensor in tensors if tensor.name not in TABLES]


def _taken_over(source: Checkpoint) -> tuple[Config, str]:
    found = Metadata(source)
    try:
        return _config(found), ""
    except NotKnownError as error:
        return {}, str(error)


def _config(found: Metadata) -> Config:
    kind = found.architecture
    rules = _ARCHITECTURES.get(kind)
    if rules is None:
        raise NotKnownError(f"Hugging Face's name for the architecture {kind!r} is not known here")
    if kind == "llama" and found.get("expert_count"):
        rules = _MIXTRAL
    strange = [name for name in tensor_names(found.source) if name.startswith("blk.")]
    if strange:
        raise NotKnownError(f"Hugging Face's name of the tensor {strange[0]!r} is not known here")
    vocabulary, width = _table(found)
    config: Config = {
        "architectures": [rules.name],
        "model_type": rules.model_type,
        "dtype": "float32",
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": found.integer("feed_forward_length", 0 if "moe" in kind else None),
        "num_hidden_layers": _layers(found),
        **_heads(found, width),
        rules.activation[0]: rules.activation[1],
        "rms_norm_eps": found.real("attention.layer_norm_rms_epsilon"),
        "max_position_embeddings": found.integer("context_length"),
        "tie_word_embeddings": not found.has("output.weight"),
        "attention_dropout": 0.0,
        "use_cache": True,
    }
    config |= _rotation(found, config["head_dim"]) | rules.more(found)
    for theirs, ours in _SPECIAL.items():
        number = found.source.config.get(f"tokenizer.ggml.{theirs}_token_id")
        config[f"{ours}_token_id"] = number if type(number) is int else None
    return config


def _layers(found: Metadata) -> int:
    return found.integer("block_count") - found.integer("nextn_predict_layers", 0)


def _table(found: Metadata) -> tuple[int, int]:
    """Returns vocabulary and width of the model: the shape of its embeddings."""
    width = found.integer("embedding_length")
    if not found.has("token_embd.weight"):
        raise NotKnownError("there is no token_embd.weight")
    shape = found.source.info("token_embd.weight").shape
    if len(shape) != 2 or shape[1] != width:
        raise NotKnownError(f"token_embd.weight has shape {shape}, embedding_length is {width}")
    return shape[0], width


def _heads(found: Metadata, width: int) -> Config:
    heads = found.integer("attention.head_count")
    size = found.integer("attention.key_length", width // heads if heads else 0)
    if not heads or not size or found.integer("attention.value_length", size) != size:
        raise NotKnownError(f"{heads} heads with keys and values of different widths")
    return {
        "num_attention_heads": heads,
        "num_key_value_heads": found.integer("attention.head_count_kv", heads),
        "head_dim": size,
    }


def _rotation(found: Metadata, size: int) -> Config:
    """Returns what is said of rotary embeddings, in the fields that published models have."""
    base = found.real("rope.freq_base", 10000.0)
    turned = found.integer("rope.dimension_count", size)
    scaled = scaling(found)
    if found.has(ROPE_FREQS):
        if scaled is not None:
            raise NotKnownError(f"rotary embeddings are scaled twice, by {ROPE_FREQS} too")
        scaled = llama3_scaling(found.source, base, size)
    if found.architecture == "phi3" and turned and turned % 2 == 0 and turned <= size:
        part = {"partial_rotary_factor": turned / size}
        scaled = scaled or longrope_scaling(found, turned)
        return {"rope_theta": base, "rope_scaling": scaled} | part
    if found.architecture.startswith("qwen35"):
        if scaled is not None:
            raise NotKnownError("scaled rotary embeddings of Qwen 3.5 are not known here")
        sections = found.source.config.get(f"{found.architecture}.rope.dimension_sections")
        if not isinstance(sections, list) or len(sections) < 3:
            raise NotKnownError(f"rope.dimension_sections is {sections!r}")
        said = {
            "rope_type": "default",
            "rope_theta": base,
            "partial_rotary_factor": turned / size,
            "mrope_interleaved": True,
            "mrope_section": sections[:3],
        }
        return {"rope_parameters": said}
    if turned != size:
        raise NotKnownError(f"only {turned} of {size} numbers of a head are turned")
    return {"rope_theta": base, "rope_scaling": scaled}
