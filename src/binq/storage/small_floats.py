"""Floats of 4 and 8 bits: what their bytes mean.

Sources: the OCP 8-bit floating point and microscaling specifications; ml_dtypes for the FNUZ types.
"""

from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

# Element types of float8 tensors, as safetensors files name them.
FLOAT8 = ("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ")
FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
# Sign, exponent and mantissa where float32 has them, but for the bias of the exponent: 120 less.
_FIELDS = np.int32(-0x78100000)
_BIAS = np.float32(2.0**120)
_FP4_FIELDS = np.int32(-0x7E400000)
_FP4_BIAS = np.float32(2.0**126)
_FNUZ = {"F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz, "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz}


def float8_values(codes: NDArray[np.uint8], kind: str = "F8_E4M3") -> NDArray[np.float32]:
    """Returns the bytes of float8 numbers as float32, exactly.

    - kind: ``"F8_E4M3"``, ``"F8_E5M2"``, ``"F8_E4M3FNUZ"`` or ``"F8_E5M2FNUZ"``

    >>> import numpy as np
    >>> float8_values(np.array([0x38, 0xB8, 0x01, 0x7E], np.uint8)).tolist()
    [1.0, -1.0, 0.001953125, 448.0]
    >>> float8_values(np.array([0x3C, 0xBC], np.uint8), "F8_E5M2").tolist()
    [1.0, -1.0]
    """
    if kind == "F8_E5M2":  # the upper half of a float16
        halves = (codes.astype(np.uint16) << np.uint16(8)).view(np.float16)
        return halves.astype(np.float32)
    if kind in _FNUZ:
        table: NDArray[Any] = np.arange(256, dtype=np.uint8).view(_FNUZ[kind]).astype(np.float32)
        values: NDArray[np.float32] = table[codes]
        return values
    # Several times as fast as a table.
    bits = codes.view(np.int8).astype(np.int32)
    bits <<= np.int32(20)
    bits &= _FIELDS
    values = bits.view(np.float32)
    values *= _BIAS
    nan = (codes & np.uint8(0x7F)) == 0x7F
    if nan.any():
        values[nan] = np.nan
    return values


def fp4_values(codes: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Returns the two weights of each byte as float32: (..., n) bytes are (..., 2n) weights.

    >>> import numpy as np
    >>> fp4_values(np.array([0x72], np.uint8)).tolist()
    [1.0, 6.0]
    """
    # Each nibble in the upper half of a byte of its own; then as float8 above.
    pairs = codes.astype("<u2")
    pairs = (pairs << np.uint16(4) | pairs << np.uint16(8)) & np.uint16(0xF0F0)
    bits = pairs.view(np.int8).astype(np.int32)
    bits <<= np.int32(18)
    bits &= _FP4_FIELDS
    values = bits.view(np.float32)
    values *= _FP4_BIAS
    return values


def power_of_two(exponents: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Returns ``2**(exponent - 127)`` as float32 (E8M0); 255 is NaN, as the specification has it.

    >>> import numpy as np
    >>> power_of_two(np.array([127, 130], np.uint8)).tolist()
    [1.0, 8.0]
    """
    powers = np.full(256, np.nan, np.float32)
    powers[:255] = np.ldexp(1.0, np.arange(255) - 127)
    return powers[exponents]
