"""The element types of safetensors files, and the numpy dtypes that hold them."""

from math import prod
from typing import Any

import ml_dtypes
import numpy as np

from binq.errors import UnsupportedFormatError

# Bits of an element of every type that the safetensors format names.
BITS = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}

_NUMPY: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
    "F8_E4M3FNUZ": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "F8_E5M2FNUZ": np.dtype(ml_dtypes.float8_e5m2fnuz),
    "I16": np.dtype("<i2"),
    "U16": np.dtype("<u2"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I32": np.dtype("<i4"),
    "U32": np.dtype("<u4"),
    "F32": np.dtype("<f4"),
    "C64": np.dtype("<c8"),
    "F64": np.dtype("<f8"),
    "I64": np.dtype("<i8"),
    "U64": np.dtype("<u8"),
}
_NAMES = {dtype: name for name, dtype in _NUMPY.items()}


def numpy_dtype(name: str) -> np.dtype[Any]:
    """Returns the numpy dtype of a safetensors type such as ``"BF16"``.

    Raises UnsupportedFormatError for a type whose elements are not whole bytes (F4, F6).
    """
    try:
        return _NUMPY[name]
    except KeyError:
        raise UnsupportedFormatError(f"numpy has no array type for {name} tensors") from None


def array_form(name: str, shape: tuple[int, ...]) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Returns the dtype and shape of the array that holds a stored tensor.

    Elements that are not whole bytes (F4, F6) come as the bytes that hold them, uint8: (2, 8) of
    F4 is (2, 4), and where the last axis is not a whole number of bytes, one axis of all of them.
    Raises UnsupportedFormatError for a type that safetensors files do not have.
    """
    if name in _NUMPY or name not in BITS:
        return numpy_dtype(name), shape
    nbytes = prod(shape) * BITS[name] // 8
    last = shape[-1] * BITS[name] if shape else 1
    return _NUMPY["U8"], (*shape[:-1], last // 8) if last % 8 == 0 else (nbytes,)


def dtype_name(dtype: np.dtype[Any]) -> str:
    """Returns the safetensors type of a numpy dtype, of either byte order.

    Raises TypeError for a dtype that safetensors files cannot hold.
    """
    name = _NAMES.get(dtype.newbyteorder("<") if dtype.byteorder == ">" else dtype)
    if name is None:
        raise TypeError(f"a safetensors file cannot hold dtype {dtype}")
    return name
