"""Small integers that are stored densely, least significant bit first."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def unpack(data: NDArray[Any], bits: int, count: int) -> NDArray[np.uint8]:
    """Returns the first ``count`` codes of each row, uint8 (..., count).

    Code j has bits ``[j * bits, (j + 1) * bits)`` of the row, its bytes (or little-endian words)
    taken as one number.

    >>> import numpy as np
    >>> unpack(np.array([[0x21, 0x43]], np.uint8), 4, 4).tolist()
    [[1, 2, 3, 4]]
    """
    raw = np.ascontiguousarray(data).view(np.uint8)
    if bits == 8:
        return raw[..., :count]
    if bits == 1:
        return np.unpackbits(raw, axis=-1, bitorder="little", count=count)
    if bits in (2, 4):
        codes = np.empty((*raw.shape, 8 // bits), np.uint8)
        for place in range(8 // bits):
            np.right_shift(raw, bits * place, out=codes[..., place])
        codes &= np.uint8((1 << bits) - 1)
        return codes.reshape(*raw.shape[:-1], -1)[..., :count]
    flat = np.unpackbits(raw, axis=-1, bitorder="little", count=count * bits)
    planes = flat.reshape(*raw.shape[:-1], count, bits)
    return np.packbits(planes, axis=-1, bitorder="little")[..., 0]


def unpack_columns(words: NDArray[Any], bits: int, start: int, stop: int) -> NDArray[np.uint8]:
    """Returns codes ``[start, stop)`` of each row of 32-bit words."""
    first = start // 32 * bits  # 32 codes are a whole number of words
    skip = start % 32
    last = -(-stop * bits // 32)
    return unpack(words[..., first:last], bits, skip + stop - start)[..., skip:]
