"""BitNet's packed ternary weights: four strips of rows to a byte, one scale a matrix.

Byte (r, c) of (out/4, in) holds rows r, r + out/4, r + 2·out/4 and r + 3·out/4, two bits each from
the lowest, code = t + 1. Where ``linear_class`` is ``autobitlinear`` the weight is
``t * weight_scale``, with any other class ``t / weight_scale``. Source: transformers' integration.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from binq.errors import FormatError, UnsupportedFormatError
from binq.storage.base import Storage, to_float32
from binq.storage.coded import CodedStorage

if TYPE_CHECKING:
    from binq.files.checkpoint import Checkpoint

METHODS = ("bitnet",)
_SUFFIX = "_scale"


@dataclass(frozen=True)
class BitnetPacked(CodedStorage):
    """A uint8 tensor (out/4, in) and the scale of the whole matrix."""

    scheme = "bitnet"
    name: str
    scale: str
    strip: int
    columns: int
    divide: bool

    @property
    def shape(self) -> tuple[int, ...]:
        return (4 * self.strip, self.columns)

    @property
    def dtype(self) -> str:
        return "U8"

    @property
    def stored(self) -> tuple[str, ...]:
        return (self.name, self.scale)

    @property
    def levels(self) -> tuple[int, int]:
        return (-1, 1)

    @property
    def group(self) -> int | None:
        return None

    def read_codes(
        self, source: "Checkpoint", matrix: int, start: int, stop: int
    ) -> NDArray[np.int8]:
        codes = np.empty((stop - start, self.columns), np.uint8)
        for place in range(4):
            first = place * self.strip
            low, high = max(start, first), min(stop, first + self.strip)
            if low < high:
                data = source.read_span(self.name, low - first, high - first, (self.columns,))
                codes[low - start : high - start] = (data >> np.uint8(2 * place)) & np.uint8(3)
        if codes.max(initial=0) == 3:
            raise FormatError(f"{source.path}: {self.name!r} holds a code 3, which is not ternary")
        return codes.view(np.int8) - np.int8(1)

    def read_groups(
        self, source: "Checkpoint", matrix: int, start: int, stop: int
    ) -> tuple[NDArray[np.float32], None]:
        scale = to_float32(source.read(self.scale)).reshape(1, 1)
        if self.divide:
            # t / s and t * (1 / s) are the same for t of -1, 0 and 1.
            scale = np.float32(1) / scale
        return np.broadcast_to(scale, (stop - start, 1)), None


def collect(source: "Checkpoint", config: Mapping[str, Any], names: Set[str]) -> dict[str, Storage]:
    """Returns the packed weights of a BitNet checkpoint; the bf16 masters have none."""
    mode = config.get("quantization_mode", "offline")
    if mode not in ("offline", "online"):
        raise UnsupportedFormatError(f"{source.path}: bitnet quantization_mode {mode!r}")
    divide = config.get("linear_class", "bitlinear") != "autobitlinear"
    found: dict[str, Storage] = {}
    for name in sorted(names):
        info = source.info(name)
        if info.dtype != "U8":
            continue
        scale = name + _SUFFIX
        if scale not in names:
            raise FormatError(f"{source.path}: packed tensor {name!r} has no {scale!r}")
        scales = source.info(scale)
        if len(info.shape) != 2 or scales.shape not in ((), (1,)):
            raise FormatError(
                f"{source.path}: {name!r} is {info.shape} with scales {scales.shape}, expected a "
                "matrix and one scale"
            )
        found[name] = BitnetPacked(name, scale, info.shape[0], info.shape[1], divide)
    return found
