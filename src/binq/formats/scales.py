"""The types of stored scales and offsets, and the numbers that they stand for.

A type has a name, such as ``"bfloat16"``, by which users and files know it, and a numpy dtype, in
which arrays have it. ``"e8m0"``, the powers of two of OCP's microscaling formats, are bytes: e
stands for 2^(e − bias), and 255, which no number has, for NaN. The bias is that of the format: 127,
or 128 where levels are twice the numbers that the scales were made for.
"""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binq import _core

FLOAT16 = np.dtype(np.float16)
FLOAT32 = np.dtype(np.float32)
E8M0 = np.dtype(np.uint8)
NOT_A_NUMBER = 255  # as a byte of E8M0

SCALE_NAMES = ("float16", "float32", "bfloat16", "e8m0")
# Offsets have a sign and may be 0.
OFFSET_NAMES = SCALE_NAMES[:3]
_NAMES: dict[np.dtype[Any], str] = {FLOAT16: "float16", FLOAT32: "float32", E8M0: "e8m0"}
_POWERS: NDArray[np.float32] = np.full(256, np.nan, np.float32)
_POWERS[:255] = np.ldexp(np.float32(1), np.arange(255) - 127)
_HALF_POWERS = _POWERS * np.float32(0.5)


@cache
def scale_dtype(name: str) -> np.dtype[Any]:
    """Returns the dtype of the arrays of a type of scales."""
    if name == "bfloat16":
        import ml_dtypes  # a quarter of the time of `import binq`

        brain: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return brain
    plain: dict[str, np.dtype[Any]] = {"float16": FLOAT16, "float32": FLOAT32, "e8m0": E8M0}
    return plain[name]


def is_bfloat16(dtype: np.dtype[Any]) -> bool:
    """Returns whether a dtype is ml_dtypes' bfloat16."""
    return dtype.type.__name__ == "bfloat16"


def scale_name(dtype: np.dtype[Any]) -> str:
    """Returns the name of the type of scales whose arrays have a dtype."""
    return "bfloat16" if is_bfloat16(dtype) else _NAMES[dtype]


def scale_number(dtype: np.dtype[Any], bias: int) -> int:
    """Returns by which number compiled code knows a type; that of float16 for other dtypes."""
    if dtype == E8M0 and bias == 128:
        return _core.SCALE_TYPES["e8m0 of halves"]
    known = dtype in _NAMES or is_bfloat16(dtype)
    return _core.SCALE_TYPES[scale_name(dtype) if known else "float16"]


def scale_values(stored: NDArray[Any], bias: int = 127) -> NDArray[np.float32]:
    """Returns the numbers that stored scales or offsets stand for; themselves if float32."""
    if stored.dtype == E8M0:
        powers: NDArray[np.float32] = (_POWERS if bias == 127 else _HALF_POWERS)[stored]
        return powers
    if is_bfloat16(stored.dtype):
        # A shift, which is several times as fast as ml_dtypes.
        wide = np.ascontiguousarray(stored).view(np.uint16).astype(np.uint32)
        wide <<= np.uint32(16)
        return wide.view(np.float32)
    return stored.astype(np.float32, copy=False)


def nearest_powers(values: NDArray[np.float64], bias: int) -> NDArray[np.uint8]:
    """Returns the bytes of the nearest powers of two, the larger halfway; of the last beyond all.

    Numbers of 0 or less are stored as the smallest power, 0.
    """
    fraction, exponent = np.frexp(values)
    found = np.clip(exponent + bias - (fraction < 0.75), 0, 254)
    return np.where(fraction > 0, found, 0).astype(np.uint8)


def stored_scales(values: NDArray[np.float32], dtype: np.dtype[Any], bias: int) -> NDArray[Any]:
    """Returns numbers that a type holds as they are stored."""
    if dtype == E8M0:
        return nearest_powers(values.astype(np.float64), bias)
    return values.astype(dtype)


def fits_scale(values: NDArray[np.float32], dtype: np.dtype[Any], bias: int = 127) -> bool:
    """Returns whether a type of scales holds every value exactly."""
    if dtype == E8M0:
        fraction, exponent = np.frexp(values)
        stored = exponent + bias - 1
        return bool(((fraction == 0.5) & (stored >= 0) & (stored <= 254)).all())
    if is_bfloat16(dtype):
        bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
        return not (bits & np.uint32(0xFFFF)).any()
    with np.errstate(over="ignore", under="ignore"):
        return bool((values.astype(dtype).astype(np.float32) == values).all())
