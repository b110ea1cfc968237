"""The types of stored scales and offsets, and the numbers that they stand for."""

from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

SCALE_DTYPES: dict[str, np.dtype[Any]] = {
    "float16": np.dtype(np.float16),
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "e8m0": np.dtype(np.uint8),
}
SMALLEST_SCALE = {"float16": 2.0**-19, "float32": 0.0, "bfloat16": 2.0**-126, "e8m0": 0.0}
"""Smaller scales have fewer than 5 significant bits in float16, fewer than 8 in bfloat16."""


def is_offset(stored: NDArray[Any]) -> bool:
    """Returns whether what says where zero lies are offsets, which are floats: not zero points."""
    return stored.dtype.kind not in "iu"


def scale_values(stored: NDArray[Any], bias: int = 127) -> NDArray[np.float32]:
    """Returns the numbers that stored scales or offsets stand for.

    Bytes are exponents: e stands for 2^(e − bias), but 255, which no number has, for NaN.
    """
    if stored.dtype == np.uint8:
        exponents = np.where(stored == 255, 0, stored.astype(np.int32) - bias)
        powers = np.ldexp(np.float32(1), exponents)
        return np.where(stored == 255, np.float32(np.nan), powers).astype(np.float32)
    return stored.astype(np.float32)


def stored_scale(value: float, scale_dtype: str, bias: int = 127) -> float:
    """Returns a number of a type as arrays hold it: itself, in e8m0 its exponent plus the bias."""
    return int(np.frexp(value)[1]) - 1 + bias if scale_dtype == "e8m0" else value


def rounded_scale(value: float, scale_dtype: str, bias: int = 127) -> float:
    """Returns the nearest number of the type, halves to even; inf where it is beyond the type.

    e8m0 has powers of two: halfway between two, the larger; beyond all, the last.
    """
    if scale_dtype == "e8m0":
        fraction, exponent = np.frexp(value)
        return float(2.0 ** np.clip(int(exponent) - (fraction < 0.75), -bias, 254 - bias))
    with np.errstate(over="ignore", under="ignore"):
        if scale_dtype != "bfloat16":
            return float(SCALE_DTYPES[scale_dtype].type(value))
        # bfloat16 has 8 significant bits, and the exponents of float32.
        fraction, exponent = np.frexp(value)
        return float(np.float32(np.ldexp(np.rint(np.ldexp(fraction, 8)), exponent - 8)))


def next_scale(value: float, toward: float, scale_dtype: str) -> float:
    """Returns the number of a type of 16 bits that is next to a positive one."""
    stored = np.array([value], SCALE_DTYPES[scale_dtype])
    step = np.uint16(1 if toward > value else 0xFFFF)
    return float((stored.view(np.uint16) + step).view(stored.dtype)[0])
