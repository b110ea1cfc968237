"""Packed weights as formats of integers have them: unsigned codes, scales and zeros, by rows.

What GPTQ, AWQ and ONNX Runtime store is ``scale * (code - zero)`` with codes of some bits. Weights
without zero points have the zero in the middle. A scale whose group is several of the other
format's is repeated, which changes no weight.
"""

import re
from collections.abc import Iterator
from math import gcd
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from binq.array.array import QuantizedArray
from binq.array.packing import Packing
from binq.errors import UnsupportedFormatError
from binq.formats.zeros import CODE, OFFSET
from binq.storage.base import fits_float16, to_float32

# Formats whose weights are ``scale * (code - zero point)``, and the bits that hold their codes.
BITS = {"binary": 2, "ternary": 2, "int2": 2, "int3": 3, "int4": 4, "int8": 8}
SUFFIX = ".weight"
HEAD = "lm_head"
SMALLEST_GROUP = 32  # of what readers know
_EMBEDDING = re.compile(r"(^|[._])(embed\w*|word_embeddings|wte)$")
_BLOCK = 1 << 22  # weights that are looked at together


class CodedRows(NamedTuple):
    """Rows ``[start, stop)`` of weights ``scales * (codes - zeros)``, the latter a group.

    codes (rows, in_features) and zeros (rows, groups) are uint8, scales (rows, groups) float32.
    """

    start: int
    stop: int
    codes: NDArray[np.uint8]
    scales: NDArray[np.float32]
    zeros: NDArray[np.uint8]


def coded_rows(
    weights: QuantizedArray, bits: int, group_size: int, multiple: int = 32
) -> Iterator[CodedRows]:
    """Yields a matrix from its first rows to its last, in blocks of a multiple of rows.

    - bits: of the codes; those of the weights at least
    - group_size: that of the other format; the groups of the weights are whole ones of these, but
      for the last
    """
    rows, columns = weights.shape
    half = 1 << (bits - 1)
    own = weights.group_size or max(1, columns)
    places = np.arange(-(-columns // group_size)) * group_size // own
    step = max(1, _BLOCK // max(1, columns) // multiple) * multiple
    for start in range(0, rows, step):
        part = weights[start : start + step]
        codes, zeros = part.codes(), part.group_zero_points()
        scales = to_float32(part.group_scales())
        if weights._data.packing.zero == CODE:
            assert zeros is not None
            check_zeros(zeros, bits)
        else:
            codes = codes.astype(np.int16) + np.int16(half)
            zeros = np.full(scales.shape, half, np.uint8)
        yield CodedRows(
            start,
            start + len(part),
            codes.astype(np.uint8, copy=False),
            scales[:, places],
            zeros[:, places],
        )


def check_zeros(zeros: NDArray[np.uint8], bits: int) -> None:
    """Raises UnsupportedFormatError for zero points that are no codes of so many bits.

    binq writes none, but a file may: int2's and int3's are stored in 4 bits.
    """
    most = int(zeros.max(initial=0))
    if most >= 1 << bits:
        raise UnsupportedFormatError(
            f"a zero point is {most}, which is no code of {bits} bits: quantize the weights again"
        )


def why_not_coded(packing: Packing, bits: tuple[int, ...]) -> str:
    """Returns why weights are not integers of one of these numbers of bits, "" where they are."""
    if packing.format not in BITS:
        return f"weights of format {packing.format!r}, whose levels are not integers"
    if packing.zero == OFFSET:
        return "an offset a group, which is not an integer"
    if BITS[packing.format] not in bits:
        return f"{BITS[packing.format]}-bit codes: they have {' or '.join(map(str, bits))}"
    return ""


def why_no_layer(name: str, weights: QuantizedArray) -> str:
    """Returns why weights are not those of one linear layer of a model, "" where they are."""
    if not name.endswith(SUFFIX):
        return "only weights of layers, whose names end in .weight"
    if len(weights.shape) > 2:
        return "a stack of matrices, where a layer has one"
    if 0 in weights.shape:
        return "no weights at all"
    if weights.rotation is not None:
        return "weights in a rotated basis"
    if is_embedding(name):
        return "an embedding, where only linear layers are packed"
    return ""


def whole_group(weights: QuantizedArray) -> int:
    """Returns the largest size of which all groups of a row are whole ones, −1 for one a row."""
    size, columns = weights.group_size, weights.shape[-1]
    if size is None or size > columns:
        return -1
    return gcd(size, columns)


def why_no_group(weights: QuantizedArray) -> str:
    """Returns why the groups are no whole ones of 32 at least, "" where they are."""
    if 0 <= whole_group(weights) < SMALLEST_GROUP:
        ragged = f"{weights.shape[-1]} inputs in groups of {weights.group_size}, the last ragged"
        return f"{ragged}: groups are whole, of {SMALLEST_GROUP} at least"
    return ""


def why_no_float16(weights: QuantizedArray) -> str:
    """Returns why float16 does not hold the scales exactly, "" where it does."""
    scales = weights._data.scales
    if scales.dtype == np.float16 or fits_float16(to_float32(scales)):
        return ""
    return f"{scales.dtype.name} scales that float16, the type of scales there, does not hold"


def is_embedding(name: str) -> bool:
    """Returns whether a weight is an embedding, by its name."""
    return bool(_EMBEDDING.search(name.removesuffix(SUFFIX)))
