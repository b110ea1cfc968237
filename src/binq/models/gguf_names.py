"""Turns GGUF tensors back to what Hugging Face has: names, order of rows, norms.

llama.cpp stores some models otherwise than they were published: the rows of q and k in the order
of its rotary embedding, norms with 1 added. Where that is undone here, tensors get the names whose
convention they then follow; all other files keep llama.cpp's names and its convention.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binq.errors import FormatError, UnsupportedFormatError
from binq.files.checkpoint import Checkpoint
from binq.models import gguf_linear_attention
from binq.models.tensor import LogicalTensor
from binq.storage.base import Storage
from binq.storage.turned import Order, Turned, Undone

HUGGING_FACE, LLAMA_CPP = "Hugging Face", "llama.cpp"

_MODEL = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_LAYER = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_EXPERTS = {
    "ffn_gate_inp": "block_sparse_moe.gate",
    "ffn_gate_exps": "block_sparse_moe.switch_mlp.gate_proj",
    "ffn_up_exps": "block_sparse_moe.switch_mlp.up_proj",
    "ffn_down_exps": "block_sparse_moe.switch_mlp.down_proj",
}
_FOUR_NORMS = {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_MIXTURE = {
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_exps": "mlp.switch_mlp.gate_proj",
    "ffn_up_exps": "mlp.switch_mlp.up_proj",
    "ffn_gate_up_exps": "mlp.switch_mlp.gate_up_proj",
    "ffn_down_exps": "mlp.switch_mlp.down_proj",
    "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
    "ffn_gate_shexp": "mlp.shared_expert.gate_proj",
    "ffn_up_shexp": "mlp.shared_expert.up_proj",
    "ffn_down_shexp": "mlp.shared_expert.down_proj",
}
# Query, key and value are one matrix, gate and up another.
_FUSED = {"attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj"}
_AFTER = {"post_attention_norm": "post_attention_layernorm"}
_BLOCK = re.compile(r"blk\.(0|[1-9]\d{0,3})\.(.+)")


@dataclass(frozen=True)
class _Convention:
    """How an architecture's file differs from what Hugging Face has.

    - layer: the names of a layer's tensors, without number and ending
    - rotary: whether the rows of q and k are in the order of llama.cpp's rotary embedding
    - norms: whether norms have 1 added
    - linear_attention: whether there is linear attention, as Qwen 3.5 has it
    """

    layer: Mapping[str, str]
    rotary: bool = False
    norms: bool = False
    linear_attention: bool = False


_LLAMA = _Convention(_LAYER | _EXPERTS, rotary=True)
_CONVENTIONS = {
    "llama": _LLAMA,
    "granite": _LLAMA,
    "smollm3": _LLAMA,
    "arcee": _LLAMA,
    "gemma": _Convention(_LAYER, norms=True),
    "gemma2": _Convention(_LAYER | _FOUR_NORMS, norms=True),
    "gemma3": _Convention(_LAYER | _FOUR_NORMS, norms=True),
    "phi3": _Convention(_LAYER | _FUSED),
    "qwen2": _Convention(_LAYER),
    "qwen3": _Convention(_LAYER),
    "qwen2moe": _Convention(_LAYER | _MIXTURE),
    "qwen3moe": _Convention(_LAYER | _MIXTURE),
    "qwen35": _Convention(_LAYER | _AFTER, norms=True, linear_attention=True),
    "qwen35moe": _Convention(_LAYER | _AFTER | _MIXTURE, norms=True, linear_attention=True),
}
# Only the names differ.
_SAME = (
    "cohere2", "command-r", "exaone4", "hunyuan-dense", "olmo2", "olmoe", "qwen2vl", "qwen3vl",
    "qwen3vlmoe", "seed_oss", "stablelm",
)  # fmt: skip


def convention(source: Checkpoint) -> str:
    """Returns whose names and values a GGUF file's tensors have when they were read."""
    return HUGGING_FACE if _architecture(source) in _CONVENTIONS else LLAMA_CPP


def what_differs(source: Checkpoint) -> str:
    """Returns a sentence on values that stay as llama.cpp stores them, and "" for none."""
    kind = _architecture(source)
    if kind in _SAME or kind in _CONVENTIONS:
        return ""
    return (
        f"GGUF architecture {kind!r}: names and values of the output are llama.cpp's, which may "
        "differ from Hugging Face's in the order of rows, in norms and in gates"
    )


def translate(source: Checkpoint, tensors: list[LogicalTensor]) -> list[LogicalTensor]:
    """Returns the tensors of a GGUF file with the names and values that Hugging Face has.

    Those of an architecture for which that is not known, and single tensors that Hugging Face does
    not have, are as they were. Raises FormatError where the metadata do not say how q and k lie.
    """
    rules = _CONVENTIONS.get(_architecture(source))
    if rules is None:
        return tensors
    return [_said(tensor, _translate(source, rules, tensor)) for tensor in tensors]


def _said(stored: LogicalTensor, tensor: LogicalTensor) -> LogicalTensor:
    """Returns a tensor with what was done to its values among the reasons for keeping it."""
    if tensor.storage is stored.storage or tensor.quantize:
        return tensor
    return replace(tensor, reason=f"{tensor.reason}; llama.cpp's form of it was undone")


def tensor_names(source: Checkpoint) -> list[str]:
    """Returns the names that the tensors of a GGUF file have when they were read.

    Without those of layers that draft tokens.
    """
    rules = _CONVENTIONS.get(_architecture(source))
    if rules is None:
        return list(source)
    layers = _layers(source)
    found = []
    for name in source:
        block = _BLOCK.fullmatch(name)
        if block is None or int(block[1]) < layers:
            found.append(_hugging_face(rules, name, layers) or name)
    return found


def _hugging_face(rules: _Convention, name: str, layers: int) -> str | None:
    """Returns Hugging Face's name of a tensor, None where it has none."""
    what, _, ending = name.rpartition(".")
    if what in _MODEL:
        return f"{_MODEL[what]}.{ending}"
    block = _BLOCK.fullmatch(name)
    if block is None or int(block[1]) >= layers:
        return None
    layer = f"model.layers.{int(block[1])}"
    if rules.linear_attention and block[2] in gguf_linear_attention.NAMES:
        return f"{layer}.{gguf_linear_attention.NAMES[block[2]]}"
    what, _, ending = block[2].rpartition(".")
    if what not in rules.layer or ending not in ("weight", "bias"):
        return None
    return f"{layer}.{rules.layer[what]}.{ending}"


def _translate(source: Checkpoint, rules: _Convention, tensor: LogicalTensor) -> LogicalTensor:
    name = _hugging_face(rules, tensor.name, _layers(source))
    if name is None:
        block = _BLOCK.fullmatch(tensor.name)
        if block and int(block[1]) < _layers(source) and tensor.name.endswith(".scale"):
            raise UnsupportedFormatError(
                f"{source.path}: {tensor.name!r} scales a weight, which is not supported for the "
                f"architecture {_architecture(source)!r}"
            )
        return tensor
    return replace(tensor, name=name, storage=_undone(source, rules, tensor))


def _undone(source: Checkpoint, rules: _Convention, tensor: LogicalTensor) -> Storage:
    """Returns the values that Hugging Face has of a tensor to which it gives a name."""
    block = _BLOCK.fullmatch(tensor.name)
    if block is None:
        return _norm(rules, tensor) if "norm" in tensor.name else tensor.storage
    if rules.linear_attention and block[2] in gguf_linear_attention.NAMES:
        return gguf_linear_attention.turn_back(source, tensor, block[2])
    what = block[2].rpartition(".")[0]
    if what.endswith("norm"):
        return _norm(rules, tensor)
    if rules.rotary and what in ("attn_q", "attn_k"):
        return _rotary(source, tensor, what, int(block[1]))
    if what == "ffn_gate_inp_shexp" and len(tensor.shape) == 1:
        return Undone(tensor.storage, "itself", (1, *tensor.shape))
    return tensor.storage


def _layers(source: Checkpoint) -> int:
    """Returns how many layers the model has, without those behind them that draft tokens."""
    kind = _architecture(source)
    count, drafting = (
        source.config.get(f"{kind}.{name}") for name in ("block_count", "nextn_predict_layers")
    )
    if drafting in (None, 0):
        return 1 << 20
    if type(count) is not int or type(drafting) is not int or not 0 < drafting < count:
        raise FormatError(
            f"{source.path}: {kind}.nextn_predict_layers is {drafting!r} of {count!r} layers"
        )
    return count - drafting


def _norm(rules: _Convention, tensor: LogicalTensor) -> Storage:
    if not rules.norms or not tensor.name.endswith(".weight"):
        return tensor.storage
    return Undone(tensor.storage, "minus 1", tensor.shape)


def _rotary(source: Checkpoint, tensor: LogicalTensor, which: str, layer: int) -> Storage:
    """Returns q or k with the halves of each head one after the other, not interleaved."""
    key = f"{_architecture(source)}.attention.head_count"
    keys = [key] if which == "attn_q" else [f"{key}_kv", key]
    heads = next(filter(None, (_of_layer(source.config.get(key), layer) for key in keys)), None)
    rows = tensor.shape[0] if len(tensor.shape) in (1, 2) else 0
    if heads is None or not rows or rows % (2 * heads):
        raise FormatError(
            f"{source.path}: {tensor.name!r} of shape {tensor.shape} has rows in the order of "
            f"llama.cpp's rotary embedding, of which {keys[0]} = {heads!r} does not tell the heads"
        )
    return Turned(tensor.storage, Order((heads, rows // heads // 2, 2), (1, 2)))


def _of_layer(value: Any, layer: int) -> int | None:
    """Returns a number that is the same for all layers, or the one of a layer."""
    if isinstance(value, list):
        value = value[layer] if layer < len(value) else None
    return value if type(value) is int and 0 < value < 1 << 16 else None


def _architecture(source: Checkpoint) -> str:
    return str(source.config.get("general.architecture"))


_OURS = {ours: theirs for theirs, ours in (_MODEL | _LAYER | _MIXTURE).items()}
_OURS_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)\.weight")
_OURS_EXPERT = re.compile(r"(?:mlp|block_sparse_moe)\.experts\.(\d+)\.(\w+)")
_EXPERT_PARTS = {
    "gate_proj": "ffn_gate_exps", "up_proj": "ffn_up_exps", "down_proj": "ffn_down_exps",
    "w1": "ffn_gate_exps", "w3": "ffn_up_exps", "w2": "ffn_down_exps",
}  # fmt: skip


def llama_cpp_names(name: str) -> list[tuple[str, int]]:
    """Returns the name that llama.cpp gives a Hugging Face weight, and which matrix of it; or [].

    >>> llama_cpp_names("model.layers.3.mlp.experts.5.up_proj.weight")
    [('blk.3.ffn_up_exps.weight', 5)]
    """
    whole = _OURS.get(name.removesuffix(".weight"))
    if whole is not None:
        return [(f"{whole}.weight", 0)]
    layer = _OURS_LAYER.fullmatch(name)
    if layer is None:
        return []
    expert = _OURS_EXPERT.fullmatch(layer[2])
    if expert is not None and expert[2] in _EXPERT_PARTS:
        return [(f"blk.{layer[1]}.{_EXPERT_PARTS[expert[2]]}.weight", int(expert[1]))]
    what = _OURS.get(layer[2])
    return [] if what is None else [(f"blk.{layer[1]}.{what}.weight", 0)]


# Architectures that are written as well as read, by the model_type of config.json.
WRITTEN = {
    "llama": "llama",
    "mistral": "llama",
    "mixtral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen3_moe": "qwen3moe",
}
_ROUTERS = {"mlp.gate": "ffn_gate_inp", "block_sparse_moe.gate": "ffn_gate_inp"}
_WRITTEN_MODEL = {ours: theirs for theirs, ours in _MODEL.items()}
_WRITTEN_LAYER = {ours: theirs for theirs, ours in _LAYER.items()} | _ROUTERS
_PARAMETER = re.compile(r"(model\.layers\.(0|[1-9]\d{0,3})\.)?(.+)\.(weight|bias)")


def written_name(name: str) -> str | None:
    """Returns the name that a GGUF file has of a tensor of a decoder, or None; no expert's.

    >>> written_name("model.layers.3.self_attn.q_proj.bias")
    'blk.3.attn_q.bias'
    """
    found = _PARAMETER.fullmatch(name)
    if found is None:
        return None
    layer, number, what, ending = found.groups()
    ours = (_WRITTEN_MODEL if layer is None else _WRITTEN_LAYER).get(what)
    if ours is None:
        return None
    return f"{ours}.{ending}" if layer is None else f"blk.{number}.{ours}.{ending}"


def written_expert(name: str) -> tuple[str, int] | None:
    """Returns the stack of a GGUF file that holds an expert, and its place there, or None.

    >>> written_expert("model.layers.3.block_sparse_moe.experts.5.w1.weight")
    ('blk.3.ffn_gate_exps.weight', 5)
    """
    if ".experts." not in name:
        return None
    return next(iter(llama_cpp_names(name)), None)


def is_rotary(architecture: str, name: str) -> bool:
    """Returns whether a GGUF file has the rows of a tensor in llama.cpp's order of them."""
    rules = _CONVENTIONS.get(architecture)
    rows = re.fullmatch(r"blk\.\d+\.attn_[qk]\.(weight|bias)", name)
    return rules is not None and rules.rotary and rows is not None


def rotary_rows(rows: int, heads: int) -> NDArray[np.intp]:
    """Returns the row of Hugging Face's q or k that each row of a GGUF file's is.

    The halves of each head are interleaved, which :func:`translate` undoes. Raises ValueError for
    rows that are not whole heads.

    >>> rotary_rows(8, 2).tolist()
    [0, 2, 1, 3, 4, 6, 5, 7]
    """
    if rows % (2 * heads):
        raise ValueError(f"{rows} rows are not {heads} heads of an even size")
    return np.arange(rows).reshape(heads, 2, -1).swapaxes(1, 2).reshape(-1)
