"""Writes packed weights as MLX has them, ``scales * code + biases``, without loss.

Scales and biases are float32: a bias is several scales, for which float16 has no room. MLX has
groups of 32, 64 and 128; others become several of these. Source: mlx.core.quantize.
"""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from binq.array.array import QuantizedArray
from binq.errors import UnsupportedFormatError
from binq.formats.zeros import CODE, OFFSET
from binq.storage.base import few_bits, to_float32
from binq.storage.bits import pack
from binq.storage.groups import smaller_group, spread
from binq.storage.nibbles import MXFP4, MXFP4_GROUP, mxfp4_scales, stored_nibbles

_SIZES = (32, 64, 128)
# What is added to the codes of a format so that the lowest is 0, and the bits that hold the sums.
_LOWEST = {"ternary": (1, 2), "int2": (2, 2), "int3": (4, 3), "int4": (8, 4), "int8": (128, 8)}
_SUFFIX = ".weight"
_STACK = re.compile(r"\.(switch_mlp|switch_glu|experts)\.")  # where mlx-lm has stacks of experts


def write(name: str, weights: QuantizedArray) -> dict[str, NDArray[Any]]:
    """Returns ``X.weight``, ``X.scales`` and, but for mxfp4, ``X.biases``.

    Raises UnsupportedFormatError for what MLX cannot hold: levels that are no integers, rows that
    are not whole groups, and offsets or float32 scales whose sums float32 would round.
    """
    group = _group(name, weights)
    if weights.format == MXFP4:
        nibbles = pack(stored_nibbles(weights), 4).view(np.uint32)
        return {name: nibbles, f"{_module(name)}.scales": mxfp4_scales(name, weights)}
    codes, bits, scales, biases = _affine(name, weights)
    columns, own = weights.shape[-1], weights.group_size
    return {
        name: pack(codes, bits).view(np.uint32),
        f"{_module(name)}.scales": np.ascontiguousarray(spread(scales, own, columns, group)),
        f"{_module(name)}.biases": np.ascontiguousarray(spread(biases, own, columns, group)),
    }


def check(name: str, weights: QuantizedArray) -> None:
    """Raises UnsupportedFormatError for weights that MLX cannot hold."""
    _group(name, weights)
    if weights.format == MXFP4:
        mxfp4_scales(name, weights)
    else:
        _levels(name, weights)


def settings(weights: Mapping[str, QuantizedArray]) -> dict[str, Any]:
    """Returns the block ``quantization`` of a model with these weights.

    What most modules have stands at its top, what others have under their names.
    """
    kinds = {_module(name): _kind(name, q) for name, q in weights.items()}
    (most, _), *_ = Counter(kinds.values()).most_common(1)
    found: dict[str, Any] = most._asdict()
    for module, kind in kinds.items():
        if kind != most:
            found[module] = kind._asdict()
    return found


class _Kind(NamedTuple):
    """What MLX's settings say of a module."""

    group_size: int
    bits: int
    mode: str


def _kind(name: str, weights: QuantizedArray) -> _Kind:
    if weights.format == MXFP4:
        return _Kind(_group(name, weights), 4, "mxfp4")
    return _Kind(_group(name, weights), _bits(weights), "affine")


def _module(name: str) -> str:
    return name.removesuffix(_SUFFIX)


def _bits(weights: QuantizedArray) -> int:
    return 1 if weights.format == "binary" else _LOWEST[weights.format][1]


def _group(name: str, weights: QuantizedArray) -> int:
    """Returns the size of the groups that MLX has of some weights."""
    what = ""
    columns = weights.shape[-1]
    mxfp4 = weights.format == MXFP4
    group = smaller_group(weights.group_size, columns, (MXFP4_GROUP,) if mxfp4 else _SIZES)
    if not name.endswith(_SUFFIX):
        what = "a weight whose name does not end in .weight"
    elif len(weights.shape) > 2 and not _STACK.search(name):
        what = "a stack of matrices under this name"
    elif weights.rotation is not None:
        what = "weights in a rotated basis"
    elif not mxfp4 and weights.format != "binary" and weights.format not in _LOWEST:
        what = f"weights of format {weights.format!r}"
    elif group is None or 0 in weights.shape:
        what = f"rows of {columns} in whole groups of 32"
    if what or group is None:
        raise UnsupportedFormatError(f"{name}: MLX cannot hold {what}")
    return group


def _affine(
    name: str, weights: QuantizedArray
) -> tuple[NDArray[np.uint8], int, NDArray[np.float32], NDArray[np.float32]]:
    """Returns codes from 0 on, their bits, scales and biases."""
    scales, biases = _levels(name, weights)
    codes = weights.codes()
    if weights.format == "binary":
        return (codes > 0).astype(np.uint8), 1, scales, biases
    low, bits = _LOWEST[weights.format]
    if weights._data.packing.symmetric:
        codes = codes.astype(np.int16) + np.int16(low)
    return codes.astype(np.uint8), bits, scales, biases


def _levels(name: str, weights: QuantizedArray) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Returns MLX's scales and biases, with which all levels are the very numbers."""
    scales = to_float32(weights.group_scales())
    zeros, zero = weights.group_zero_points(), weights._data.packing.zero
    offsets = to_float32(zeros) if zeros is not None and zero == OFFSET else None
    if weights.format == "binary":
        low, high = -scales, scales
        if offsets is not None:
            low, high = low + offsets, high + offsets
        steps = np.float32(2) * scales
        if not np.array_equal(low + steps, high):
            raise UnsupportedFormatError(f"{name}: MLX would round a level of some group")
        return steps, low
    if not few_bits(scales):
        raise UnsupportedFormatError(
            f"{name}: MLX would round products of codes and float32 scales of more than 16 bits"
        )
    if offsets is not None:
        return scales, offsets
    if zeros is not None and zero == CODE:
        return scales, -scales * zeros.astype(np.float32)
    return scales, -scales * np.float32(_LOWEST[weights.format][0])
