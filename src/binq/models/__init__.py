"""The families of models, one file each, all of one shape: a ``FAMILY``.

:func:`logical_tensors` is the way in: it returns what a checkpoint holds, whatever its storage,
and what the family's policy does with it.
"""

from binq.errors import FormatError, UnsupportedFormatError
from binq.files.checkpoint import Checkpoint
from binq.models import (
    bitnet,
    deepseek,
    dense,
    gemma4,
    gguf,
    gpt_oss,
    llama4,
    qwen35,
)
from binq.models.family import UNKNOWN, Family, judge, text_config
from binq.models.tensor import LogicalTensor
from binq.storage import collect_storage
from binq.storage.base import Exact, Storage

__all__ = ["FAMILIES", "UNKNOWN", "Family", "find_family", "logical_tensors"]

FAMILIES: dict[str, Family] = {
    model_type: module.FAMILY
    for module in (bitnet, deepseek, dense, gemma4, gpt_oss, llama4, qwen35)
    for model_type in module.FAMILY.model_types
}
# Already in one or two bits a weight: what the model was trained in.
_LOW_BIT = ("binary", "ternary")
_LOSSLESS = "already stored in {}: kept exactly so"


def find_family(source: Checkpoint) -> Family:
    """Returns the family of a checkpoint. Raises UnsupportedFormatError naming an unknown one."""
    if source.is_gguf:
        kind = source.config.get("general.architecture")
        if kind in gguf.FAMILY.model_types:
            return gguf.FAMILY
        raise UnsupportedFormatError(f"{source.path}: GGUF architecture {kind!r}")
    kind = source.config.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        if not source.config:
            raise UnsupportedFormatError(
                f"{source.path}: no config.json beside the weights says what model it is"
            )
        known = ", ".join(sorted(FAMILIES))
        raise UnsupportedFormatError(f"{source.path}: model_type {kind!r}; known are {known}")
    return FAMILIES[kind]


def logical_tensors(source: Checkpoint) -> list[LogicalTensor]:
    """Returns every tensor of a checkpoint with its role and the family's policy, in file order.

    Embeddings and output heads that are stored in one or two bits (Bonsai) are to be packed where
    that is lossless. Reads the headers of the files and little else.

    Raises UnsupportedFormatError, with its name, for a model, a quantization method or a packing
    that is not known: nothing is guessed.
    """
    family = find_family(source)
    rules = family.rules(source.config)
    tensors = []
    for name, storage in collect_storage(source, family.is_input_major).items():
        verdict = judge(rules, name, storage.shape)
        if verdict.role == "expert" and storage.scheme in ("plain", "transposed"):
            _check_orientation(source, name, storage)
        if verdict.role in ("embedding", "head"):
            exact = _low_bit(source, storage)
            if exact is not None:
                reason = _LOSSLESS.format(exact.packing.format)
                tensors.append(LogicalTensor(name, storage, verdict.role, True, reason))
                continue
        tensors.append(LogicalTensor(name, storage, *verdict))
    return tensors


def _check_orientation(source: Checkpoint, name: str, storage: Storage) -> None:
    """Raises FormatError for a stack of experts that does not lie as its family has it.

    A matrix tells by the width of the model, which the gates read and the last product writes.
    """
    width = text_config(source.config).get("hidden_size")
    if type(width) is not int or len(storage.shape) != 3:
        return
    out_features, in_features = storage.shape[-2:]
    down = "down_proj" in name
    if width != (out_features if down else in_features):
        raise FormatError(
            f"{source.path}: {name!r} has {out_features} outputs and {in_features} inputs, "
            f"expected {width} {'outputs' if down else 'inputs'}, the hidden_size of config.json"
        )


def _low_bit(source: Checkpoint, storage: Storage) -> Exact | None:
    if len(storage.shape) != 2:
        return None
    exact = storage.exact_format(source)
    return exact if exact is not None and exact.packing.format in _LOW_BIT else None
