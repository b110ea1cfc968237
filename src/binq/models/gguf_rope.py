"""Scaled rotary embeddings of GGUF files, in the words of Hugging Face's configurations."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binq.files.checkpoint import Checkpoint
from binq.models.gguf_metadata import Metadata, NotKnownError

Floats = NDArray[np.float64]

# The table that llama.cpp's converter makes of Llama 3's scaling: what frequencies are divided by.
ROPE_FREQS = "rope_freqs.weight"
# Those of LongRoPE, for texts beyond the length before scaling and for others: no type says so.
LONG_FACTORS, SHORT_FACTORS = "rope_factors_long.weight", "rope_factors_short.weight"
TABLES = (ROPE_FREQS, LONG_FACTORS, SHORT_FACTORS)
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


def longrope_scaling(found: Metadata, size: int) -> dict[str, Any] | None:
    """Returns the scaling of a file's two tables, None where it has none.

    - size: how many numbers of a head are turned
    """
    names = [name for name in (LONG_FACTORS, SHORT_FACTORS) if found.has(name)]
    if not names:
        return None
    if len(names) == 1:
        raise NotKnownError(f"there is {names[0]} alone, of two tables of LongRoPE")
    long, short = (np.asarray(found.source.read(name), np.float32).reshape(-1) for name in names)
    if not long.shape == short.shape == (size // 2,):
        raise NotKnownError(f"{LONG_FACTORS} has shape {long.shape}, {size} numbers are turned")
    original = found.integer("rope.scaling.original_context_length")
    scale = found.integer("context_length") / max(original, 1)
    expected = math.sqrt(1 + math.log(scale) / math.log(original)) if scale > 1 < original else 1.0
    given = found.real("rope.scaling.attn_factor", 1.0)
    if not math.isclose(given, expected, rel_tol=1e-5):
        raise NotKnownError(
            f"{found.architecture}.rope.scaling.attn_factor is {given}, LongRoPE has {expected:.6}"
        )
    tables = ([float(str(factor)) for factor in table] for table in (long, short))
    return {"type": "longrope"} | dict(zip(("long_factor", "short_factor"), tables, strict=True))


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
