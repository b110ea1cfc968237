"""Turns tensors that MLX stores in a form of its own back to the form that their names stand for.

mlx-lm adds 1 to the norms of Qwen 3.5 and Qwen 3 Next, whose layers multiply by ``1 + w``, and MLX
stores convolutions as ``(out, k, ..., in)`` where torch has ``(out, in, k, ...)``. Source: the
``sanitize`` functions of mlx-lm.
"""

import re
from collections.abc import Mapping
from dataclasses import replace

from binq.errors import FormatError, UnsupportedFormatError
from binq.files.checkpoint import Checkpoint
from binq.models.family import text_config
from binq.models.tensor import LogicalTensor
from binq.storage.moved import Moved
from binq.storage.turned import Undone

_PLUS_ONE = re.compile(r"qwen3_5.*|qwen3_next")
# Values of these change in ways that are not undone here.
_OTHERWISE = ("falcon_h1", "step3p5")
_NORM = re.compile(
    r"\.(input_layernorm|post_attention_layernorm|q_norm|k_norm)\.weight$"
    r"|(^|\.)(model|language_model)\.norm\.weight$"
)
_LINEAR_ATTENTION = re.compile(r"\.linear_attn\.conv1d\.weight$")
_CONV = re.compile(r"(conv\w*|patch_embed\w*)(\.proj|\.projection)?\.weight$")
# Kernels of one axis are at most this wide.
_WIDEST = 16
_ELSEWHERE = re.compile(r"(^|\.)(visual|vision_tower|mtp)\.")
_NORM_REASON = "MLX has 1 added, which was taken off"
_CONV_REASON = "MLX has its channels last, which was undone"


def turn_back(source: Checkpoint, tensors: list[LogicalTensor]) -> list[LogicalTensor]:
    """Returns the tensors of a checkpoint as their names stand for, where MLX has made it.

    All others are as they were. Raises FormatError for a checkpoint of which some tensors are in
    MLX's form and some are not, and UnsupportedFormatError where it cannot be told.
    """
    convs = [t for t in tensors if _LINEAR_ATTENTION.search(t.name) and _is_depthwise(t)]
    kinds = {_channels_last(source, t) for t in convs}
    if len(kinds) > 1:
        raise FormatError(f"{source.path}: some convolutions are in MLX's form, some are not")
    if True not in kinds and not _says_mlx(source):
        return tensors
    kind = str(text_config(source.config).get("model_type") or source.config.get("model_type"))
    if kind in _OTHERWISE:
        raise UnsupportedFormatError(
            f"{source.path}: MLX stores weights of model_type {kind!r} in a form of its own that "
            "is not undone here: use the checkpoint that it was made from"
        )
    added = _has_one_added(source, kind, kinds, tensors)
    return [_turn(source, tensor, added) for tensor in tensors]


def _is_depthwise(tensor: LogicalTensor) -> bool:
    """Returns whether a tensor is a convolution of each channel by itself, of a width above 1."""
    return tensor.has_floats and len(tensor.shape) == 3 and sorted(tensor.shape[1:])[0] == 1


def _says_mlx(source: Checkpoint) -> bool:
    """Returns whether the settings or a file say that MLX has made a checkpoint."""
    settings = source.config.get("quantization")
    packed = isinstance(settings, Mapping) and "quant_method" not in settings
    return not source.is_gguf and (packed or source.metadata.get("format") == "mlx")


def _has_one_added(
    source: Checkpoint, kind: str, kinds: set[bool], tensors: list[LogicalTensor]
) -> bool:
    """Returns whether norms have 1 added: mlx-lm adds it where it also turns the convolutions."""
    norms = [t.name for t in tensors if _is_norm(t)]
    if not _PLUS_ONE.fullmatch(kind) or not norms:
        return False
    drafts = [t.name for t in tensors if re.search(r"(^|\.)mtp\.", t.name)]
    if not kinds or (True in kinds and drafts):
        # mlx-lm drops the drafting module; its older versions added 1 again where there was one.
        what = f"{drafts[0]!r} is there" if drafts else "no conv1d is there"
        raise UnsupportedFormatError(
            f"{source.path}: MLX may have added 1 to the norms, such as {norms[0]!r}, or not, and "
            f"{what}: use the checkpoint that it was made from"
        )
    return True in kinds


def _is_norm(tensor: LogicalTensor) -> bool:
    found = _NORM.search(tensor.name) and not _ELSEWHERE.search(tensor.name)
    return bool(found) and tensor.has_floats and len(tensor.shape) == 1


def _turn(source: Checkpoint, tensor: LogicalTensor, added: bool) -> LogicalTensor:
    reason = f"{tensor.reason}; " if tensor.reason else ""
    if added and _is_norm(tensor):
        storage = Undone(tensor.storage, "minus 1", tensor.shape)
        return replace(tensor, storage=storage, reason=reason + _NORM_REASON)
    conv = _CONV.search(tensor.name) and tensor.has_floats and len(tensor.shape) > 2
    if conv and _channels_last(source, tensor):
        (name,) = tensor.stored
        moved = Moved(name, source.info(name).shape, tensor.dtype)
        return replace(tensor, storage=moved, reason=reason + _CONV_REASON)
    return tensor


def _channels_last(source: Checkpoint, tensor: LogicalTensor) -> bool:
    """Returns whether a convolution is stored as MLX has it.

    Those of one axis take each channel by itself; kernels of two and three axes end in a square.
    Raises UnsupportedFormatError where both ways fit, or neither.
    """
    shape = source.info(tensor.stored[0]).shape
    if len(shape) == 3:
        if shape[1:] == (1, 1):
            return False
        first = shape[1] == 1 and shape[2] <= _WIDEST
        last = shape[2] == 1 and shape[1] <= _WIDEST
    else:
        first, last = shape[-1] == shape[-2], shape[-2] == shape[-3]
    if first == last:
        raise UnsupportedFormatError(
            f"{source.path}: {tensor.name!r} of shape {shape} may be in MLX's form or not: use the "
            "checkpoint that it was made from"
        )
    return last
