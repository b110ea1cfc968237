"""Writes packed weights as GPTQ: words of codes along the inputs, without loss.

Ternary, binary and int2 weights become 2-bit codes, the others keep their bits. Version 1 stores
zeros less 1, which has no number for a zero of 0 and is what readers know of symmetric weights;
version 2 stores the zeros themselves. A checkpoint has one version: 2 where some weights have zero
points. Source: the packers of AutoGPTQ and GPTQModel; :mod:`binq.storage.gptq` reads it.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from binq.array.array import QuantizedArray
from binq.formats.zeros import NONE
from binq.storage import gptq
from binq.storage.bits import pack
from binq.storage.coded_rows import (
    BITS,
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

_BITS = (2, 3, 4, 8)
_WORD = 32
# The number of a layer in the name of a module.
_LAYER = re.compile(r"^.*?\.\d+\.")


class _Kind(NamedTuple):
    """What the settings say of a module: bits, group size (−1: one a row), whether symmetric."""

    bits: int
    group_size: int
    symmetric: bool

    @classmethod
    def of(cls, weights: QuantizedArray) -> "_Kind":
        packing = weights._data.packing
        return cls(BITS[packing.format], whole_group(weights), packing.zero == NONE)

    def settings(self) -> dict[str, Any]:
        return {"bits": self.bits, "group_size": self.group_size, "sym": self.symmetric}


class Gptq(LayerScheme):
    """Quantization method ``gptq``: read in all its versions, written in the one that fits.

    - version: 1 or 2, as which the zeros are written
    """

    name = "gptq"
    title = "GPTQ"
    reader = gptq.collect

    def __init__(self, version: int = 1) -> None:
        self.version = version

    def fitted(self, weights: Mapping[str, QuantizedArray]) -> "Gptq":
        plain = all(q._data.packing.zero == NONE for q in weights.values())
        return Gptq(1 if plain else 2)

    def why_not(self, name: str, weights: QuantizedArray) -> str:
        why = (
            why_no_layer(name, weights)
            or why_not_coded(weights._data.packing, _BITS)
            or why_no_group(weights)
            or _why_no_words(weights)
            or why_no_float16(weights)
        )
        if not why and self.version == 1 and weights._data.packing.zero != NONE:
            why = "zero points, which version 1 has not: write it by fitted()"
        return why

    def write(self, name: str, weights: QuantizedArray) -> dict[str, NDArray[Any]]:
        self.check(name, weights)
        module = name.removesuffix(SUFFIX)
        rows, columns = weights.shape
        bits, size, _ = _Kind.of(weights)
        size = columns if size == -1 else size
        groups = columns // size
        words = np.empty((columns * bits // _WORD, rows), np.uint32)
        scales = np.empty((groups, rows), np.float16)
        zeros = np.empty((groups, rows), np.uint8)
        for part in coded_rows(weights, bits, size):
            to = slice(part.start, part.stop)
            words[:, to] = pack(part.codes, bits).T
            scales[:, to] = part.scales.T
            zeros[:, to] = part.zeros.T
        if self.version == 1:
            zeros -= np.uint8(1)
        return {
            f"{module}.qweight": words.view(np.int32),
            f"{module}.qzeros": pack(zeros, bits).view(np.int32),
            f"{module}.scales": scales,
            f"{module}.g_idx": (np.arange(columns) // size).astype(np.int32),
        }

    def settings_beside(
        self, weights: Mapping[str, QuantizedArray], kept: Sequence[str]
    ) -> dict[str, Any]:
        """Returns the settings: those of most modules, and ``dynamic`` for the others."""
        kinds = {name.removesuffix(SUFFIX): _Kind.of(q) for name, q in weights.items()}
        ((usual, _),) = Counter(kinds.values()).most_common(1)
        left = sorted(kept_modules(kept) - {HEAD})
        dynamic: dict[str, dict[str, Any]] = {_pattern("-", module): {} for module in left}
        for module, kind in kinds.items():
            if kind != usual:
                dynamic[_pattern("+", module)] = kind.settings()
        tails = sorted({_LAYER.sub("", module) for module in kinds} - {HEAD})
        return {
            "quant_method": self.name,
            **usual.settings(),
            "desc_act": False,
            "checkpoint_format": "gptq" if self.version == 1 else "gptq_v2",
            "pack_dtype": "int32",
            "lm_head": HEAD in kinds,
            **({"dynamic": dynamic} if dynamic else {}),
            # Of transformers, which does not know ``dynamic``.
            **({"modules_in_block_to_quantize": [tails]} if left else {}),
        }

    def notes(self, weights: Mapping[str, QuantizedArray]) -> list[str]:
        kinds = {_Kind.of(q) for q in weights.values()}
        notes = []
        if len(kinds) > 1:
            notes.append(
                f"modules of {len(kinds)} kinds: GPTQModel and vLLM know settings of single "
                "modules (dynamic), transformers (5.24) does not"
            )
        if HEAD + SUFFIX in weights:
            notes.append(
                "lm_head is packed: GPTQModel and vLLM load that, transformers (5.24) does not"
            )
        return notes


def _pattern(sign: str, module: str) -> str:
    return f"{sign}:^{re.escape(module)}$"


def _why_no_words(weights: QuantizedArray) -> str:
    columns = weights.shape[-1]
    if columns % _WORD:
        return f"{columns} inputs, not a multiple of {_WORD}"
    return ""
