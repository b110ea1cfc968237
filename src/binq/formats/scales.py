"""The types of stored scales and offsets, and the numbers that they stand for.

A type has a name, such as ``"bfloat16"``, by which users and files know it, and a numpy dtype, in
which arrays have it.
"""

from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from binq import _core

FLOAT16 = np.dtype(np.float16)
FLOAT32 = np.dtype(np.float32)
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

_DTYPES: dict[str, np.dtype[Any]] = {
    "float16": FLOAT16,
    "float32": FLOAT32,
    "bfloat16": BFLOAT16,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
SCALE_NAMES = tuple(_DTYPES)
SCALE_DTYPES = tuple(_DTYPES.values())


def scale_dtype(name: str) -> np.dtype[Any]:
    """Returns the dtype of the arrays of a type of scales."""
    return _DTYPES[name]


def scale_name(dtype: np.dtype[Any]) -> str:
    """Returns the name of the type of scales whose arrays have a dtype."""
    return _NAMES[dtype]


def scale_number(dtype: np.dtype[Any]) -> int:
    """Returns by which number compiled code knows a type; that of float16 for other dtypes."""
    return _core.SCALE_TYPES[_NAMES.get(dtype, "float16")]


def scale_values(stored: NDArray[Any]) -> NDArray[np.float32]:
    """Returns the numbers that stored scales or offsets stand for; themselves if float32."""
    if stored.dtype == BFLOAT16:
        # A shift, which is several times as fast as ml_dtypes.
        wide = np.ascontiguousarray(stored).view(np.uint16).astype(np.uint32)
        wide <<= np.uint32(16)
        return wide.view(np.float32)
    return stored.astype(np.float32, copy=False)


def fits_scale(values: NDArray[np.float32], dtype: np.dtype[Any]) -> bool:
    """Returns whether a type of scales holds every value exactly."""
    if dtype == BFLOAT16:
        bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
        return not (bits & np.uint32(0xFFFF)).any()
    with np.errstate(over="ignore", under="ignore"):
        return bool((values.astype(dtype).astype(np.float32) == values).all())
