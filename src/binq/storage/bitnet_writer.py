"""Writes ternary weights as BitNet's: four strips of rows to a byte, one scale a matrix.

The settings name the class AutoBitLinear, whose weights are ``t * weight_scale``: that of the other
class, ``t / weight_scale``, need not be a float. Source: transformers' integration;
:mod:`binq.storage.bitnet` reads it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binq.array.array import QuantizedArray
from binq.storage import bitnet
from binq.storage.base import to_float32
from binq.storage.coded_rows import HEAD, SUFFIX, why_no_layer
from binq.storage.layer_scheme import LayerScheme, kept_modules

_STRIPS = 4


class Bitnet(LayerScheme):
    """Quantization method ``bitnet``: ternary weights with one scale for a whole matrix."""

    name = "bitnet"
    title = "BitNet"
    reader = bitnet.collect

    def why_not(self, name: str, weights: QuantizedArray) -> str:
        return why_no_layer(name, weights) or _why_not(weights)

    def write(self, name: str, weights: QuantizedArray) -> dict[str, NDArray[Any]]:
        self.check(name, weights)
        rows, columns = weights.shape
        strip = rows // _STRIPS
        data = np.zeros((strip, columns), np.uint8)
        for place in range(_STRIPS):
            codes = weights[place * strip : (place + 1) * strip].codes() + np.int8(1)
            data |= codes.view(np.uint8) << np.uint8(2 * place)
        scale = to_float32(weights.group_scales()[:1, :1])
        return {name: data, f"{name}_scale": np.ascontiguousarray(scale[0])}

    def settings_beside(
        self, weights: Mapping[str, QuantizedArray], kept: Sequence[str]
    ) -> dict[str, Any]:
        left = kept_modules(kept)
        if HEAD + SUFFIX not in weights:
            left.add(HEAD)  # a tied one has no tensor
        return {
            "quant_method": self.name,
            "linear_class": "autobitlinear",
            "quantization_mode": "offline",
            "modules_to_not_convert": sorted(left),
        }

    def notes(self, weights: Mapping[str, QuantizedArray]) -> list[str]:
        return [
            "who reads BitNet's form rounds what enters a layer to 8 bits, as BitNet was trained: "
            "another model loses by that"
        ]


def _why_not(weights: QuantizedArray) -> str:
    packing = weights._data.packing
    if packing.format != "ternary":
        return f"weights of format {packing.format!r}: they are ternary"
    if weights.shape[0] % _STRIPS:
        return f"{weights.shape[0]} outputs, not a multiple of {_STRIPS}"
    scales = weights.group_scales()
    if (scales != scales[0, 0]).any():
        return (
            f"scales that differ, here from {scales.min():.4g} to {scales.max():.4g}: it has one "
            "for the whole matrix"
        )
    return ""
