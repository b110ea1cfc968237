"""The ways in which weights are stored, one file each, all of one shape.

A scheme has ``collect(source, settings, names)``, which returns the weights that it understands by
name, as :class:`binq.storage.base.Storage`. ``settings`` is its part of ``config.json``, which says
which scheme a checkpoint has; one that is not known here is refused by name. Others are registered
(:func:`register`).
"""

from collections.abc import Callable, Mapping, Set
from typing import Any

from binq.errors import FormatError, UnsupportedFormatError
from binq.files.checkpoint import Checkpoint
from binq.storage import (
    auto_round,
    compressed_tensors,
    fp8,
    gemma,
    gguf_blocks,
    mlx,
    modelopt,
    mxfp4,
)
from binq.storage.awq_writer import Awq
from binq.storage.base import Exact, Storage
from binq.storage.bitnet_writer import Bitnet
from binq.storage.coded import CodedStorage
from binq.storage.fp8 import Float8
from binq.storage.gptq_writer import Gptq
from binq.storage.plain import FLOATS, Plain, Transposed
from binq.storage.scheme import Reader, Scheme, get, register, unregister
from binq.storage.small_floats import FLOAT8

__all__ = [
    "CodedStorage",
    "Exact",
    "Scheme",
    "Storage",
    "collect_storage",
    "get",
    "register",
    "unregister",
]

for _module in (auto_round, fp8, gemma, modelopt, mxfp4):
    for _name in _module.METHODS:
        register(Reader(_name, _module.collect))
for _scheme in (Awq(), Bitnet(), compressed_tensors.CompressedTensors(), Gptq(), mlx.Mlx()):
    register(_scheme)

# Integers that nobody would store as they are: packed weights.
_PACKED_DTYPES = ("U8", "I8", "U32", "I32")
_SMALL_FLOATS = (*FLOAT8, "F8_E8M0", "F4", "F6_E2M3", "F6_E3M2")


def collect_storage(source: Checkpoint, input_major: Callable[[str], bool]) -> dict[str, Storage]:
    """Returns every weight of a checkpoint by name, in the order of the stored tensors.

    ``input_major`` says which plain stacks are stored transposed. Raises UnsupportedFormatError,
    with its name, for a scheme that is not known, and for a packed or float8 tensor that the
    configuration does not explain.
    """
    names = frozenset(source.names)
    packed = _packed(source, names)
    consumed = {stored for storage in packed.values() for stored in storage.stored}
    found = {}
    for name, storage in packed.items():
        if isinstance(storage, Float8) and len(storage.shape) == 3 and input_major(name):
            raise UnsupportedFormatError(
                f"{source.path}: {name!r}: plain experts of this family are stored input-major; of "
                "float8 ones that is not known"
            )
        if name in names and name not in consumed:
            raise FormatError(f"{source.path}: {name!r} is stored both plain and packed")
        found[storage.stored[0]] = (name, storage)
    for name in sorted(names - consumed):
        weight = name.removesuffix("_scale_inv")
        if weight != name and weight in names and source.info(weight).dtype in FLOATS:
            raise FormatError(
                f"{source.path}: {name!r} would scale {weight!r}, which is plain "
                f"{source.info(weight).dtype}"
            )
        info = source.info(name)
        dense = info.dtype in _PACKED_DTYPES and len(info.shape) >= 2
        if dense or info.dtype in _SMALL_FLOATS:
            raise UnsupportedFormatError(
                f"{source.path}: {name!r} is {info.dtype} {info.shape}, which the configuration "
                f"does not explain{_said(source)}"
            )
        turned = len(info.shape) in (2, 3) and input_major(name)
        kind = Transposed if turned else Plain
        found[name] = (name, kind(name, info.shape, info.dtype))
    return dict(found[stored] for stored in source.names if stored in found)


def _packed(source: Checkpoint, names: Set[str]) -> dict[str, Storage]:
    if source.is_gguf:
        return gguf_blocks.collect(source, source.config, names)
    config = source.config.get("quantization_config") or source.config.get("compression_config")
    affine = source.config.get("quantization")
    for key, value in (("quantization_config", config), ("quantization", affine)):
        if value is not None and not isinstance(value, Mapping):
            raise FormatError(f"{source.path}: {key} of config.json is not an object")
    if config is not None and "quant_method" in config:
        try:
            scheme = get(config["quant_method"])
        except UnsupportedFormatError as error:
            raise UnsupportedFormatError(f"{source.path}: {error}") from None
        found = scheme.collect(source, config, names)
        # MLX packs what it can of other models, such as the embeddings of BitNet.
        names = mlx.parts(source, names - {n for storage in found.values() for n in storage.stored})
        return {**found, **_affine(source, affine or config, names)}
    # MLX names no method, and writes its settings twice.
    if affine and config and affine != config:
        raise FormatError(
            f"{source.path}: quantization and quantization_config of config.json differ"
        )
    return _affine(source, affine or config or {}, names)


def _affine(source: Checkpoint, settings: Mapping[str, Any], names: Set[str]) -> dict[str, Storage]:
    """Returns what MLX has packed, where the settings are its."""
    if "bits" not in settings or "group_size" not in settings:
        return {}
    return mlx.collect(source, settings, names)


def _said(source: Checkpoint) -> str:
    """Returns what settings say that name no method, for an error."""
    for key in ("quantization_config", "quantization"):
        settings = source.config.get(key)
        if isinstance(settings, Mapping) and "quant_method" not in settings:
            return f": its {key} without quant_method has {sorted(map(str, settings))}"
    return ""
