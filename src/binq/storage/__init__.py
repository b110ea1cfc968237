"""The ways in which weights are stored, one file each, all of one shape.

A scheme has ``collect(source, config, names)``, which returns the weights that it understands by
name, as :class:`binq.checkpoint.tensors.Storage`. ``config`` is its part of ``config.json``. The
configuration says which scheme a checkpoint has; one that is not known here is refused by name.
"""

from collections.abc import Callable, Mapping, Set
from typing import Any

from binq.errors import FormatError, UnsupportedFormatError
from binq.files.checkpoint import Checkpoint
from binq.storage import (
    awq,
    bitnet,
    compressed_tensors,
    fp8,
    gguf_blocks,
    gptq,
    mlx,
    modelopt,
    mxfp4,
)
from binq.storage.base import Storage
from binq.storage.fp8 import Float8
from binq.storage.plain import FLOATS, Plain, Transposed

__all__ = ["METHODS", "collect_storage"]

_Collect = Callable[[Checkpoint, Mapping[str, Any], Set[str]], dict[str, Storage]]

# quant_method of config.json -> scheme.
METHODS: dict[str, _Collect] = {
    method: module.collect
    for module in (awq, bitnet, compressed_tensors, fp8, gptq, modelopt, mxfp4)
    for method in module.METHODS
}
# Integers that nobody would store as they are: packed weights.
_PACKED_DTYPES = ("U8", "I8", "U32", "I32")
_FLOAT8_DTYPES = ("F8_E4M3", "F8_E5M2", "F8_E8M0", "F4", "F6_E2M3", "F6_E3M2")


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
        if dense or info.dtype in _FLOAT8_DTYPES:
            raise UnsupportedFormatError(
                f"{source.path}: {name!r} is {info.dtype} {info.shape}, which the configuration "
                "does not explain"
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
            raise FormatError(f"{source.path}: {key} of config.json is no object")
    if config is not None and "quant_method" in config:
        method = config["quant_method"]
        if not isinstance(method, str) or method not in METHODS:
            raise UnsupportedFormatError(f"{source.path}: quantization method {method!r}")
        return METHODS[method](source, config, names)
    # MLX names no method, and writes its settings twice.
    if affine and config and affine != config:
        raise FormatError(
            f"{source.path}: quantization and quantization_config of config.json differ"
        )
    affine = affine or config
    if affine is None:
        return {}
    if "bits" not in affine or "group_size" not in affine:
        raise UnsupportedFormatError(
            f"{source.path}: a quantization_config without quant_method: {sorted(affine)}"
        )
    return mlx.collect(source, affine, names)
