"""Scaled rotary embeddings of GGUF files, in the words of Hugging Face's configurations."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from binq.files.checkpoint import Checkpoint
from binq.models.gguf_metadata import Metadata, NotKnownError

Floats = NDArray[np.float64]

# The table that llama.cpp's converter makes of Llama 3's scaling: what frequencies are divided by.
ROPE_FREQS = "rope_freqs.weight"
# All published models have these; a table is taken only where they give just its numbers.
_LOW, _HIGH, _ORIGINAL = 1.0, 4.0, 8192  # the last where no number of the table tells it


def scaling(found: Metadata) -> dict[str, Any] | None:
    """Returns what the metadata say of scaling, None for none. Raises NotKnownError."""
    if found.get("rope.scale_linear") not in (None, 1, 1.0):
        raise NotKnownError(f"{found.architecture}.rope.scale_linear is given, an old key")
    kind = found.get("rope.scaling.type")
    factor = found.real("rope.scaling.factor", 0.0)
    if kind in (None, "none") and factor in (0.0, 1.0):
        return None
    if kind not in (None, "linear", "yarn"):
        raise NotKnownError(f"rotary embeddings of type {kind!r} are not known here")
    # llama.cpp: linear where no type is given.
    said: dict[str, Any] = {"rope_type": kind or "linear", "factor": factor}
    if kind == "yarn":
        said["original_max_position_embeddings"] = found.integer(
            "rope.scaling.original_context_length", found.integer("context_length")
        )
        for key in ("attn_factor", "yarn_attn_factor", "yarn_ext_factor", "yarn_log_multiplier"):
            if found.get(f"rope.scaling.{key}") not in (None, 1, 1.0):
                raise NotKnownError(f"{found.architecture}.rope.scaling.{key} is given")
        for key in ("beta_fast", "beta_slow"):
            if found.get(f"rope.scaling.yarn_{key}") is not None:
                said[key] = found.real(f"rope.scaling.yarn_{key}")
    return said


def llama3_scaling(source: Checkpoint, base: float, size: int) -> dict[str, Any] | None:
    """Returns the scaling that a file's table of factors is of; None where all are 1.

    The table is computed anew: one that differs by more than rounding raises NotKnownError.
    """
    table = np.asarray(source.read(ROPE_FREQS), np.float64).reshape(-1)
    if table.shape == (size // 2,) and (table == 1).all():
        return None
    factor = float(table.max(initial=0.0))
    if table.shape != (size // 2,) or not factor >= 1:
        raise NotKnownError(f"{ROPE_FREQS} has shape {table.shape}, of heads of {size}")
    frequencies = base ** -(np.arange(0, size, 2) / size)
    original = _original(table, frequencies, factor)
    if not np.allclose(table, _llama3(frequencies, factor, original), rtol=1e-4, atol=0):
        raise NotKnownError(f"{ROPE_FREQS} is not a table of Llama 3's scaling")
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": _LOW,
        "high_freq_factor": _HIGH,
        "original_max_position_embeddings": original,
    }


def _original(table: Floats, frequencies: Floats, factor: float) -> int:
    """Returns the length of texts before scaling, which waves between short and long ones tell."""
    between = np.flatnonzero((table > 1 + 1e-3) & (table < factor * (1 - 1e-3)))
    if not len(between) or factor == 1:
        return _ORIGINAL
    n = between[0]
    kept = (1 / table[n] - 1 / factor) / (1 - 1 / factor)
    turns = _LOW + kept * (_HIGH - _LOW)
    return round(float(turns * 2 * np.pi / frequencies[n]))


def _llama3(frequencies: Floats, factor: float, original: int) -> Floats:
    """Returns what frequencies are divided by: 1 for short waves, ``factor`` for long ones."""
    turns = original * frequencies / (2 * np.pi)
    kept = np.clip((turns - _LOW) / (_HIGH - _LOW), 0, 1)
    return np.asarray(1 / (kept + (1 - kept) / factor))
