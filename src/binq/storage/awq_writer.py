"""Writes packed weights as AWQ, version gemm: 4-bit codes along the outputs, without loss.

Symmetric weights get the zero 8, those of fewer bits 4-bit codes. A checkpoint has one group size,
the smallest of its weights'; larger groups repeat their scales. Source: AutoAWQ;
:mod:`binq.storage.awq` reads it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binq.array.array import QuantizedArray
from binq.errors import UnsupportedFormatError
from binq.storage import awq
from binq.storage.coded_rows import (
    HEAD,
    SUFFIX,
    coded_rows,
    whole_group,
    why_no_float16,
    why_no_group,
    why_no_layer,
    why_not_coded,
)
from binq.storage.layer_scheme import LayerScheme, kept_modules

_BITS = 4
_WORD = 8  # codes of a word
_LARGEST = 128  # group that readers know, beside −1, one a row
# The columns whose codes are the nibbles of a word, the lowest first.
_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


class Awq(LayerScheme):
    """Quantization method ``awq``, version gemm.

    - group_size: that of all weights that it writes, −1 for one a row; None: of each its own
    """

    name = "awq"
    title = "AWQ"
    reader = awq.collect

    def __init__(self, group_size: int | None = None) -> None:
        self.group_size = group_size

    def fitted(self, weights: Mapping[str, QuantizedArray]) -> "Awq":
        sizes = {_own_size(q) for q in weights.values()}
        if sizes == {-1}:
            return Awq(-1)
        return Awq(min((size for size in sizes if size != -1), default=_LARGEST))

    def why_not(self, name: str, weights: QuantizedArray) -> str:
        return (
            why_no_layer(name, weights)
            or ("lm_head, which stays as it is there" if name == HEAD + SUFFIX else "")
            or why_not_coded(weights._data.packing, (2, 3, _BITS))
            or why_no_group(weights)
            or self._why_no_shape(weights)
            or why_no_float16(weights)
        )

    def _why_no_shape(self, weights: QuantizedArray) -> str:
        rows, columns = weights.shape
        if rows % _WORD:
            return f"{rows} outputs, not a multiple of {_WORD}"
        size = self._size(weights)
        if size != -1 and columns % size:
            return (
                f"{columns} inputs where other weights have groups of {size}: it has one group "
                "size for all"
            )
        return ""

    def _size(self, weights: QuantizedArray) -> int:
        return _own_size(weights) if self.group_size is None else self.group_size

    def write(self, name: str, weights: QuantizedArray) -> dict[str, NDArray[Any]]:
        self.check(name, weights)
        module = name.removesuffix(SUFFIX)
        rows, columns = weights.shape
        size = self._size(weights)
        size = columns if size == -1 else size
        groups = columns // size
        words = np.empty((columns, rows // _WORD), np.uint32)
        zeros = np.empty((groups, rows // _WORD), np.uint32)
        scales = np.empty((groups, rows), np.float16)
        for part in coded_rows(weights, _BITS, size):
            to = slice(part.start // _WORD, part.stop // _WORD)
            words[:, to] = _words(part.codes)
            zeros[:, to] = _words(part.zeros)
            scales[:, part.start : part.stop] = part.scales.T
        return {
            f"{module}.qweight": words.view(np.int32),
            f"{module}.qzeros": zeros.view(np.int32),
            f"{module}.scales": scales,
        }

    def settings_beside(
        self, weights: Mapping[str, QuantizedArray], kept: Sequence[str]
    ) -> dict[str, Any]:
        sizes = sorted({self._size(q) for q in weights.values()})
        if len(sizes) != 1:
            raise UnsupportedFormatError(
                f"AWQ has one group size for all weights, these have {sizes}: fitted() finds one"
            )
        left = kept_modules(kept)
        return {
            "quant_method": self.name,
            "bits": _BITS,
            "group_size": sizes[0],
            "zero_point": True,
            "version": "gemm",
            "modules_to_not_convert": sorted(left | {HEAD}),
        }


def _own_size(weights: QuantizedArray) -> int:
    """Returns the largest group size that readers know and the weights have, −1 for a row."""
    return min(whole_group(weights), _LARGEST)


def _words(codes: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Returns the words (columns, rows / 8) of codes (rows, columns)."""
    lanes = codes.reshape(-1, _WORD, codes.shape[1])
    data = np.empty((codes.shape[1], len(lanes), 4), np.uint8)
    for byte in range(4):
        low, high = lanes[:, _ORDER[2 * byte]], lanes[:, _ORDER[2 * byte + 1]]
        data[:, :, byte] = (low | high << np.uint8(4)).T
    return data.view("<u4")[:, :, 0]
