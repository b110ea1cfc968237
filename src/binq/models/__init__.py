"""The families of models, one file each, all of one shape: a ``FAMILY``.

:func:`logical_tensors` is the way in: it returns what a checkpoint holds, whatever its storage,
and what the family's policy does with it. :func:`register` adds a family.
"""

from collections.abc import Mapping

import numpy as np

from binq.array.rotation import Rotation
from binq.errors import FormatError
from binq.files.checkpoint import Checkpoint
from binq.models import (
    generic,
    gguf,
    gguf_config,
    gguf_names,
    gguf_rotation,
    mlx_form,
    mlx_rotation,
    table,
)
from binq.models.basis import check_basis
from binq.models.family import UNKNOWN, Family, Rule, judge, text_config
from binq.models.table import FAMILIES, register
from binq.models.tensor import LogicalTensor
from binq.storage import collect_storage
from binq.storage.base import Exact, Storage

__all__ = [
    "FAMILIES",
    "UNKNOWN",
    "Family",
    "Rule",
    "find_family",
    "is_tied",
    "logical_tensors",
    "register",
    "what_is_unknown",
]

# What compressed-tensors says of the basis, which its scheme reads.
_TRANSFORMS = "quantization_config.transform_config"
# Already in so many bits a weight: what the model was trained in.
_LOW_BITS = 2
_LOSSLESS = "already stored in {}: kept exactly so"


def find_family(source: Checkpoint, name: str | None = None) -> Family:
    """Returns the family of a checkpoint: that which ``name`` names, or else its configuration.

    A model that no family covers gets the generic one. Raises ValueError for a name that there is
    not.
    """
    if name is not None:
        return table.by_name(name)
    if source.is_gguf:
        return gguf.FAMILY
    return table.by_model_type(source.config.get("model_type")) or generic.FAMILY


def what_is_unknown(source: Checkpoint, name: str | None = None) -> str:
    """Returns a sentence on a model that no family covers, and "" where one does or is named."""
    if name is not None:
        return ""
    if source.is_gguf:
        kind = source.config.get("general.architecture")
        if kind in gguf.FAMILY.model_types:
            return ""
        what = f"GGUF architecture {kind!r} is not one whose tensors were checked"
    elif find_family(source) is not generic.FAMILY:
        return ""
    elif "model_type" in source.config:
        what = f"model_type {source.config['model_type']!r} is not known"
    else:
        what = "no config.json with a model_type says what model this is"
    return (
        f"{what}: matrices named *.weight were taken for linear layers, but embeddings, heads and "
        "norms, told by their names. Check the list; --rule and --family say otherwise"
    )


def is_tied(source: Checkpoint) -> bool:
    """Returns whether the configuration says that the output head is the embeddings."""
    configs = (source.config, text_config(source.config))
    return any(config.get("tie_word_embeddings") is True for config in configs)


def logical_tensors(
    source: Checkpoint, family: str | None = None, *, look: bool = True
) -> list[LogicalTensor]:
    """Returns every tensor of a checkpoint with its role and the family's policy, in file order.

    Embeddings and output heads that are stored in one or two bits (Bonsai) are to be packed where
    that is lossless. Reads the headers of the files and little else.

    - family: the name of a family, for a model whose configuration does not tell it
    - look: False reads the headers alone; embeddings and heads in one or two bits are then not
      told from others

    Tensors of GGUF files whose convention is known have Hugging Face's names and values, those that
    MLX stores in a form of its own Hugging Face's form. Tables that the configuration has the
    numbers of are left out.

    Raises UnsupportedFormatError, with its name, for a quantization method or a packing that is
    not known, and for weights in a rotated basis: nothing is guessed.
    """
    rotations = gguf_rotation.rotations_of(source)
    check_basis(source, *_understood(source))
    found = find_family(source, family)
    tensors = _tensors_of(source, found, look, rotations)
    if found is gguf.FAMILY:
        return gguf_config.without_tables(source, gguf_names.translate(source, tensors))
    return mlx_rotation.named(source, mlx_form.turn_back(source, tensors))


def _understood(source: Checkpoint) -> tuple[str, ...]:
    """Returns what keys that speak of a rotation begin with, where another module reads them."""
    if source.is_gguf:
        return (gguf_rotation.PREFIX,)
    own = mlx_rotation.UNDERSTOOD if mlx_rotation.is_pack(source) else ()
    return (_TRANSFORMS, *own)


def _tensors_of(
    source: Checkpoint, family: Family, look: bool, rotations: Mapping[str, Rotation]
) -> list[LogicalTensor]:
    rules = family.rules_for(source.config)
    bases = mlx_rotation.rotations_of(source)
    signs = {basis.signs for basis in bases.values()}
    tensors = []
    for name, storage in collect_storage(source, family.is_input_major).items():
        if name in signs:
            continue
        verdict = judge(rules, name, storage.shape)
        if name in bases:
            storage = mlx_rotation.rotated(storage, bases[name])
        if name in rotations:
            storage = gguf_rotation.rotated(source, name, storage, rotations[name], verdict.role)
        if storage.scheme in ("plain", "transposed"):
            _check_orientation(source, verdict.role, name, storage)
        if look and verdict.role in ("embedding", "head"):
            exact = _low_bit(source, storage)
            if exact is not None:
                reason = _LOSSLESS.format(exact.packing.format)
                tensors.append(LogicalTensor(name, storage, verdict.role, True, reason))
                continue
        tensors.append(LogicalTensor(name, storage, *verdict))
    return tensors


def _check_orientation(source: Checkpoint, role: str, name: str, storage: Storage) -> None:
    """Raises FormatError for experts, or input-major matrices, that do not lie as expected.

    A matrix tells by the width of the model, which the first product reads and the last writes.
    """
    config = text_config(source.config)
    key = "hidden_size" if "hidden_size" in config else "n_embd"
    width = config.get(key)
    stack = role == "expert" and len(storage.shape) == 3
    turned = storage.scheme == "transposed" and len(storage.shape) == 2
    if type(width) is not int or not (stack or turned):
        return
    out_features, in_features = storage.shape[-2:]
    last = "down_proj" in name or "c_proj" in name
    if width != (out_features if last else in_features):
        raise FormatError(
            f"{source.path}: {name!r} has {out_features} outputs and {in_features} inputs, "
            f"expected {width} {'outputs' if last else 'inputs'}, the {key} of config.json"
        )


def _low_bit(source: Checkpoint, storage: Storage) -> Exact | None:
    if len(storage.shape) != 2:
        return None
    with np.errstate(all="ignore"):
        exact = source.once(storage, lambda: storage.exact_format(source))
    return exact if exact is not None and exact.packing.bits <= _LOW_BITS else None
