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
        return _bytes_of(raw, bits)[..., :count]
    flat = np.unpackbits(raw, axis=-1, bitorder="little", count=count * bits)
    planes = flat.reshape(*raw.shape[:-1], count, bits)
    return np.packbits(planes, axis=-1, bitorder="little")[..., 0]


def _bytes_of(raw: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Returns the codes of 2 or 4 bits of each byte, a byte each: shifts, faster than a table."""
    if bits == 4:
        halves = raw.astype("<u2")
        halves |= halves << np.uint16(4)
        halves &= np.uint16(0x0F0F)
        return halves.view(np.uint8)
    words = raw.astype("<u4")
    words |= words << np.uint32(12)
    words &= np.uint32(0x000F000F)
    words |= words << np.uint32(6)
    words &= np.uint32(0x03030303)
    return words.view(np.uint8)


def unpack_columns(words: NDArray[Any], bits: int, start: int, stop: int) -> NDArray[np.uint8]:
    """Returns codes ``[start, stop)`` of each row of 32-bit words."""
    first = start // 32 * bits  # 32 codes are a whole number of words
    skip = start % 32
    last = -(-stop * bits // 32)
    return unpack(words[..., first:last], bits, skip + stop - start)[..., skip:]


def unpack_loose(words: NDArray[Any], bits: int, count: int) -> NDArray[np.uint8]:
    """Returns the first ``count`` codes of each row, uint8, of words that hold ``32 // bits``.

    No code lies across two words: of 3 bits, a word holds 10 and leaves its highest 2 bits unused.

    >>> import numpy as np
    >>> unpack_loose(np.array([[0b_011_010_001]], np.uint32), 3, 3).tolist()
    [[1, 2, 3]]
    """
    places = np.arange(32 // bits, dtype=np.uint32) * np.uint32(bits)
    codes = (words.view(np.uint32)[..., None] >> places) & np.uint32((1 << bits) - 1)
    return codes.astype(np.uint8).reshape(*words.shape[:-1], -1)[..., :count]


def pack(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint32]:
    """Returns the little-endian words of codes (..., count), least significant bit first.

    The inverse of :func:`unpack`; bits behind the last code are 0.

    >>> import numpy as np
    >>> hex(pack(np.array([1, 2, 3, 4], np.uint8), 4)[0])
    '0x4321'
    """
    if bits in (2, 4, 8):
        return _pack_whole(codes, bits)
    count = codes.shape[-1]
    planes = codes
    if bits > 1:
        planes = np.unpackbits(codes[..., None], axis=-1, bitorder="little", count=bits)
    flat = _filled(planes.reshape(*codes.shape[:-1], count * bits), 32)
    packed: NDArray[np.uint32] = np.packbits(flat, axis=-1, bitorder="little").view("<u4")
    return packed


def _pack_whole(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint32]:
    """Returns the words of codes of which a byte holds some whole ones."""
    each = 8 // bits
    parts = _filled(codes, 4 * each).reshape(*codes.shape[:-1], -1, each)
    joined = parts[..., 0].copy()
    for place in range(1, each):
        joined |= parts[..., place] << np.uint8(place * bits)
    packed: NDArray[np.uint32] = joined.view("<u4")
    return packed


def _filled(values: NDArray[np.uint8], multiple: int) -> NDArray[np.uint8]:
    """Returns values whose last axis is filled with zeros to a multiple of a length."""
    missing = -values.shape[-1] % multiple
    if not missing:
        return np.ascontiguousarray(values)
    zeros = np.zeros((*values.shape[:-1], missing), np.uint8)
    return np.concatenate([values, zeros], axis=-1)
