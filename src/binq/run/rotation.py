"""Rotary position embedding: the angles of each position, as configurations say them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from binq.errors import UnsupportedFormatError

Floats = NDArray[np.float32]


class Rotation:
    """Rotary position embedding: pairs of numbers turned by angles that grow with the position."""

    def __init__(self, config: dict[str, Any], size: int) -> None:
        said = config.get("rope_parameters") or config.get("rope_scaling") or {}
        base = said.get("rope_theta") or config.get("rope_theta", 10000.0)
        kind = said.get("rope_type") or said.get("type") or "default"
        self.scale = 1.0
        self.frequencies = 1.0 / base ** (np.arange(0, size, 2) / size)
        if kind == "linear":
            self.frequencies /= said["factor"]
        elif kind == "llama3":
            self._llama3(said)
        elif kind == "yarn":
            self._yarn(said, base, size, config.get("max_position_embeddings", 0))
        elif kind != "default":
            raise UnsupportedFormatError(f"rotary embeddings of type {kind!r} are not known here")

    def _llama3(self, said: dict[str, Any]) -> None:
        low, high = said["low_freq_factor"], said["high_freq_factor"]
        turns = said["original_max_position_embeddings"] * self.frequencies / (2 * np.pi)
        kept = np.clip((turns - low) / (high - low), 0, 1)
        self.frequencies *= kept + (1 - kept) / said["factor"]

    def _yarn(self, said: dict[str, Any], base: float, size: int, longest: int) -> None:
        if said.keys() & {"mscale", "mscale_all_dim"}:
            raise UnsupportedFormatError(
                "rotary embeddings of type 'yarn' with mscale are not known here"
            )
        original = said.get("original_max_position_embeddings") or longest

        def pair(turns: float) -> float:
            return float(size * np.log(original / (turns * 2 * np.pi)) / (2 * np.log(base)))

        low, high = pair(said.get("beta_fast") or 32), pair(said.get("beta_slow") or 1)
        if said.get("truncate", True):
            low, high = np.floor(low), np.ceil(high)
        low, high = max(low, 0), min(high, size - 1)
        high += 0.001 if low == high else 0
        kept = 1 - np.clip((np.arange(size // 2) - low) / (high - low), 0, 1)
        self.frequencies *= kept + (1 - kept) / said["factor"]
        self.scale = said.get("attention_factor") or 0.1 * np.log(said["factor"]) + 1

    def at(self, start: int, count: int) -> tuple[Floats, Floats]:
        """Returns cosines and sines of positions, ``(count, size / 2)`` each."""
        angles = np.outer(np.arange(start, start + count), self.frequencies)
        cos, sin = np.cos(angles) * self.scale, np.sin(angles) * self.scale
        return cos.astype(np.float32), sin.astype(np.float32)
