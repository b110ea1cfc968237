"""PrismML's packs of Bonsai 2 for MLX: ternary weights of Qwen 3.5 in a rotated basis.

``modules`` of config.json lists the packed modules and the block of each one's Walsh-Hadamard
transform; its signs lie beside the weights. Source: mlx-lm 0.32, models/prism_hadamard_qwen35.py;
the contract in hadamard.json, which mlx-lm does not read, is that of PrismML's GGUF files.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from binq.array.rotation import Rotation
from binq.errors import FormatError, UnsupportedFormatError
from binq.files.checkpoint import Checkpoint
from binq.models.tensor import LogicalTensor
from binq.storage.base import Storage
from binq.storage.rotated import Rotated

MODEL_TYPE = "prism_hadamard_qwen35"
SIGNS = "hadamard.json"
# What of the configuration is read here, and speaks of a rotation.
UNDERSTOOD = ("model_type", "hadamard_config")
# Of a pack without and with a vision tower; the language model's tensors are below _TEXT, or not.
_NAMESPACES = {1: "mlx-lm-text", 2: "mlx-vlm-qwen3_5"}
_BLOCKS = (0, 512, 1024, 2048, 4096, 8192)
_TEXT, _VISION = "language_model.", "vision_tower."
_FIXED = {
    "base_model_type": "qwen3_5",
    "gdn_activation_layout": "grouped",
    "quantization": {"bits": 2, "group_size": 128, "mode": "affine"},
}
_MODULE = {"path": str, "block": int, "embedding": bool, "dtype": str}
_OWN = (
    "schema_version", "requires_runtime", "hadamard_config", "tensor_namespace", "modules",
    "components", "base_model_type", "gdn_activation_layout",
)  # fmt: skip


class Basis(NamedTuple):
    """The basis of one weight, and the tensor that has its signs."""

    rotation: Rotation
    signs: str


def is_pack(source: Checkpoint) -> bool:
    """Returns whether a checkpoint is such a pack."""
    return not source.is_gguf and source.config.get("model_type") == MODEL_TYPE


def rotations_of(source: Checkpoint) -> Mapping[str, Basis]:
    """Returns the basis of each weight that has one, by the name it is stored under.

    Raises UnsupportedFormatError, naming the key, for a pack of another contract, FormatError for
    one that does not hold what it says.
    """
    if not is_pack(source):
        return {}
    return source.once("rotations of MLX", lambda: _read(source))


def rotated(storage: Storage, found: Basis) -> Storage:
    """Returns a weight as it is meant."""
    return Rotated(storage, found.rotation, (found.signs,))


def config_of(source: Checkpoint) -> dict[str, Any]:
    """Returns the configuration of the model that a pack is of; any other's as it is."""
    if not is_pack(source):
        return source.config
    config = {key: value for key, value in source.config.items() if key not in _OWN}
    if _has_vision(source):
        named = {"model_type": "qwen3_5", "architectures": ["Qwen3_5ForConditionalGeneration"]}
        return config | named
    text = config.pop("text_config", None)
    named = {"model_type": "qwen3_5_text", "architectures": ["Qwen3_5ForCausalLM"]}
    return config | (dict(text) if isinstance(text, Mapping) else {}) | named


def named(source: Checkpoint, tensors: list[LogicalTensor]) -> list[LogicalTensor]:
    """Returns the tensors of a pack under Hugging Face's names, any other's as they are."""
    if not is_pack(source):
        return tensors
    layers = "model.language_model." if _has_vision(source) else "model."
    return [replace(tensor, name=_name(tensor.name, layers)) for tensor in tensors]


def _name(name: str, layers: str) -> str:
    name = name.removeprefix(_TEXT)
    if name.startswith(_VISION):
        return f"model.visual.{name.removeprefix(_VISION)}"
    return re.sub(r"^model\.", layers, name)


def _has_vision(source: Checkpoint) -> bool:
    return any(name.startswith(_VISION) for name in source)


def _read(source: Checkpoint) -> dict[str, Basis]:
    config = source.config
    schema, space = config.get("schema_version"), config.get("tensor_namespace")
    if type(schema) is not int or _NAMESPACES.get(schema) != space or space is None:
        raise _refused(source, "schema_version", schema)
    for key, wanted in _FIXED.items():
        if config.get(key, wanted) != wanted:
            raise _refused(source, key, config[key])
    modules = config.get("modules")
    if not isinstance(modules, list) or not modules:
        raise _refused(source, "modules", modules)
    found: dict[str, Basis] = {}
    seen = set()
    for module in modules:
        weight = _module(source, module)
        if weight in seen:
            raise FormatError(f"{source.path}: modules names {module['path']!r} twice")
        seen.add(weight)
        if module["block"]:
            found[weight] = _rotation(source, weight, module["block"])
    strange = [name for name in source if name.endswith(".signs")]
    strange = sorted({*strange} - {each.signs for each in found.values()})
    if strange:
        raise FormatError(f"{source.path}: {strange[0]!r} belongs to no rotated module")
    return found


def _module(source: Checkpoint, module: Any) -> str:
    """Returns the name of the weight of a packed module, as it is stored."""
    if not isinstance(module, Mapping) or any(
        type(module.get(key)) is not kind for key, kind in _MODULE.items()
    ):
        raise _refused(source, "modules", module)
    if module["block"] not in _BLOCKS or module["dtype"] != "float16":
        raise _refused(source, "modules", module)
    names = [f"{prefix}{module['path']}.weight" for prefix in (_TEXT, "")]
    for name in names:
        if name in source:
            return name
    raise FormatError(
        f"{source.path}: modules names {module['path']!r}, and there is no {names[0]}"
    )


def _rotation(source: Checkpoint, weight: str, block: int) -> Basis:
    name = f"{weight.removesuffix('.weight')}.signs"
    if name not in source or source.info(name).dtype != "F32":
        raise FormatError(f"{source.path}: {weight!r} has no signs {name!r} of float32")
    signs = source.read(name)
    words = source.info(weight).shape[-1:]
    if signs.shape != tuple(16 * count for count in words):
        raise FormatError(
            f"{source.path}: {name!r} has shape {signs.shape}, no {words} words' signs"
        )
    try:
        return Basis(Rotation.of(block, np.asarray(signs)), name)
    except ValueError as error:
        raise FormatError(f"{source.path}: {name!r}: {error}") from None


def _refused(source: Checkpoint, key: str, value: object) -> UnsupportedFormatError:
    return UnsupportedFormatError(
        f"{source.path}: {MODEL_TYPE} with {key} = {repr(value)[:80]} is not supported: take the "
        "model's GGUF file"
    )
