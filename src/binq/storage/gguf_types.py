"""The block types of GGUF files: what the bytes of a block mean.

Every function takes blocks as uint8 ``(n, nbytes)`` and returns ``(n, weights)``. The values are
those of ggml's dequantize functions in float32, bit for bit. Types whose weights come from tables
of thousands of vectors are left to the library ``gguf`` (the extra ``binq[gguf]``).

Source: the structs and dequantize functions of ggml.
"""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from binq.storage.bits import unpack
from binq.storage.small_floats import FP4, power_of_two

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

_FOUR = np.uint8(0x0F)
_SIX = np.uint8(0x3F)
_SHIFTS = np.array([0, 2, 4, 6], np.uint8)[:, None]
# The levels of IQ4_NL and IQ4_XS.
IQ4_LEVELS = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8
)


class Coded(NamedTuple):
    """A type whose weights are one scale times small integers.

    weights and nbytes of a block, the lowest and highest integer, where its float16 scale is, and
    the function from the bytes of blocks (n, nbytes) to integers (n, weights).
    """

    weights: int
    nbytes: int
    low: int
    high: int
    scale: int
    codes: Callable[[Bytes], NDArray[np.int8]]


class Valued(NamedTuple):
    """A type with another formula: the function from blocks (n, nbytes) to float32."""

    weights: int
    nbytes: int
    values: Callable[[Bytes], Floats]


class Affine(NamedTuple):
    """What a type of 4 bits has beside its values: ``scale * code + offset`` in groups of 32.

    Functions from blocks to codes 0 to 15 (n, weights), and to scales and offsets (n, groups).
    """

    codes: Callable[[Bytes], Bytes]
    lines: Callable[[Bytes], tuple[Floats, Floats]]


class Leveled(NamedTuple):
    """What a type of stored nibbles has beside its values: which format of binq holds them.

    The format, and functions from blocks (n, nbytes) to nibbles (n, weights) and to scales
    (n, groups), in groups of 32: bytes that are powers of two, or float32.
    """

    format: str
    nibbles: Callable[[Bytes], Bytes]
    scales: Callable[[Bytes], NDArray[Any]]


def halfs(data: Bytes) -> Floats:
    """Returns (n, 1) float32 from the bytes (n, 2) of float16."""
    return np.ascontiguousarray(data).view("<f2").astype(np.float32)


def _nibbles(data: Bytes) -> Bytes:
    """Returns the low nibbles of each row, then the high ones."""
    half = data.shape[-1]
    codes = np.empty((*data.shape[:-1], 2 * half), np.uint8)
    np.bitwise_and(data, _FOUR, out=codes[..., :half])
    np.right_shift(data, 4, out=codes[..., half:])
    return codes


def _q1_0(blocks: Bytes) -> NDArray[np.int8]:
    """Bit 1 is +d, bit 0 is −d."""
    return 2 * unpack(blocks[:, 2:], 1, 128).view(np.int8) - np.int8(1)


def _q2_0(blocks: Bytes) -> NDArray[np.int8]:
    """Codes 0 to 3 are −1 to 2, four to a byte from the lowest bits."""
    data = blocks[:, 2:]
    return unpack(data, 2, 4 * data.shape[1]).view(np.int8) - np.int8(1)


def _q4_0(blocks: Bytes) -> NDArray[np.int8]:
    """Low nibbles are weights 0 to 15, high nibbles 16 to 31; 8 is zero."""
    return _nibbles(blocks[:, 2:]).view(np.int8) - np.int8(8)


def _q5_0(blocks: Bytes) -> NDArray[np.int8]:
    """Nibbles as in Q4_0, and a fifth bit of each weight; 16 is zero."""
    return _five_bits(blocks[:, 2:6], blocks[:, 6:]).view(np.int8) - np.int8(16)


def _five_bits(high: Bytes, low: Bytes) -> Bytes:
    return _nibbles(low) | unpack(high, 1, 32) << np.uint8(4)


def _q8_0(blocks: Bytes) -> NDArray[np.int8]:
    return np.ascontiguousarray(blocks[:, 2:]).view(np.int8)


def _tq1_0(blocks: Bytes) -> NDArray[np.int8]:
    return _base_3(blocks, (0, 32, 5), (32, 48, 5), (48, 52, 4))


def _ptq1_0(blocks: Bytes) -> NDArray[np.int8]:
    """As TQ1_0, of half as many weights: PrismML's ggml, dequantize_row_ptq1_0."""
    return _base_3(blocks, (0, 16, 5), (16, 24, 5), (24, 26, 4))


def _base_3(blocks: Bytes, *stages: tuple[int, int, int]) -> NDArray[np.int8]:
    """A byte is five (at the end four) base-3 digits of a fraction, the first one highest.

    stages: the first byte and the last, and the digits of each: all first digits come first.
    """
    parts = []
    for first, last, digits in stages:
        powers = 3 ** np.arange(digits, dtype=np.uint16)[:, None]
        rest = (blocks[:, None, first:last] * powers).astype(np.uint8)
        parts.append(((rest.astype(np.uint16) * 3) >> 8).reshape(len(blocks), -1))
    return np.concatenate(parts, axis=1).astype(np.int8) - np.int8(1)


def _crumbs(data: Bytes) -> Bytes:
    """Returns 2-bit codes (n, 2, 4, 32): byte k of 32 holds k, k + 32, k + 64 and k + 96 of 128."""
    return (data.reshape(-1, 2, 1, 32) >> _SHIFTS) & np.uint8(3)


def _tq2_0(blocks: Bytes) -> NDArray[np.int8]:
    return _crumbs(blocks[:, :64]).reshape(len(blocks), 256).view(np.int8) - np.int8(1)


def _mxfp4(blocks: Bytes) -> Floats:
    """Low nibbles are weights 0 to 15, high nibbles 16 to 31, of 4-bit floats."""
    values: Floats = FP4.take(_nibbles(blocks[:, 1:]))
    values *= power_of_two(blocks[:, 0])[:, None]
    return values


def _nvfp4(blocks: Bytes) -> Floats:
    """Four groups of 16 with float8 scales; low nibbles are weights 0 to 7, high ones 8 to 15."""
    bits = blocks[:, :4]
    # The sign bit is not looked at, and NaN stands for 0.
    scales = (bits & np.uint8(0x7F)).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    data = blocks[:, 4:].reshape(-1, 4, 8)
    return _grouped(FP4.take(_nibbles(data)), np.where(bits == 0x7F, np.float32(0), scales))


def _q4_1(blocks: Bytes) -> Floats:
    """``d * q + m``; nibbles as in Q4_0."""
    return _scaled(_nibbles(blocks[:, 4:]), blocks)


def _q5_1(blocks: Bytes) -> Floats:
    """``d * q + m``; bits as in Q5_0."""
    return _scaled(_five_bits(blocks[:, 4:8], blocks[:, 8:]), blocks)


def _scaled(codes: Bytes, blocks: Bytes) -> Floats:
    values: Floats = codes * halfs(blocks[:, 0:2])
    values += halfs(blocks[:, 2:4])
    return values


def _iq4_nl(blocks: Bytes) -> Floats:
    """A scale times one of sixteen uneven levels; nibbles as in Q4_0."""
    values: Floats = IQ4_LEVELS.take(_nibbles(blocks[:, 2:])) * halfs(blocks[:, 0:2])
    return values


def _iq4_xs(blocks: Bytes) -> Floats:
    """Eight groups of IQ4_NL, whose 6-bit scales lie in two places and have 32 for zero."""
    nibbles = _nibbles_of_iq4_xs(blocks).reshape(-1, 8, 32)
    return _grouped(IQ4_LEVELS.take(nibbles), _scales_of_iq4_xs(blocks))


def _nibbles_of_iq4_xs(blocks: Bytes) -> Bytes:
    return _nibbles(blocks[:, 8:].reshape(-1, 8, 16)).reshape(len(blocks), 256)


def _scales_of_iq4_xs(blocks: Bytes) -> Floats:
    high = np.ascontiguousarray(blocks[:, 2:4]).view("<u2")
    upper = (high >> np.arange(0, 16, 2, dtype=np.uint16)).astype(np.uint8) & np.uint8(3)
    lower = unpack(blocks[:, 4:8], 4, 8)
    return halfs(blocks[:, 0:2]) * ((lower | upper << 4).view(np.int8) - np.int8(32))


def _q2_k(blocks: Bytes) -> Floats:
    """Sixteen groups of 16 with 4-bit scales and minima, which two float16 numbers scale."""
    codes = _crumbs(blocks[:, 16:80]).reshape(-1, 16, 16)
    scales = halfs(blocks[:, 80:82]) * (blocks[:, :16] & _FOUR)
    return _grouped(codes, scales, halfs(blocks[:, 82:84]) * (blocks[:, :16] >> 4))


def _q3_k(blocks: Bytes) -> Floats:
    """Sixteen groups of 16 with 6-bit scales; a third bit that is not set takes 4 away."""
    third = blocks[:, None, :32] >> np.arange(8, dtype=np.uint8)[:, None] & np.uint8(1)
    codes = _crumbs(blocks[:, 32:96]).reshape(-1, 16, 16).view(np.int8)
    codes = codes - (np.int8(4) - (third << 2).view(np.int8)).reshape(-1, 16, 16)
    lower = _nibbles(blocks[:, 96:104])
    upper = (blocks[:, None, 104:108] >> _SHIFTS & np.uint8(3)).reshape(-1, 16)
    scales = (lower | upper << 4).view(np.int8) - np.int8(32)
    return _grouped(codes, halfs(blocks[:, 108:110]) * scales)


def _q4_k(blocks: Bytes) -> Floats:
    """Eight groups of 32 with 6-bit scales and minima, which two float16 numbers scale."""
    return _grouped(_pairs(blocks[:, 16:]), *_scales_and_minima(blocks))


def _pairs(data: Bytes) -> Bytes:
    """Returns codes (n, 8, 32): 32 bytes have a group in the low nibbles, the next in the high."""
    data = data.reshape(-1, 4, 32)
    codes = np.empty((len(data), 4, 2, 32), np.uint8)
    np.bitwise_and(data, _FOUR, out=codes[:, :, 0])
    np.right_shift(data, 4, out=codes[:, :, 1])
    return codes.reshape(-1, 8, 32)


def _q5_k(blocks: Bytes) -> Floats:
    """As Q4_K, and a fifth bit: bit g of byte k belongs to weight k of group g."""
    fifth = blocks[:, None, 16:48] >> np.arange(8, dtype=np.uint8)[:, None] & np.uint8(1)
    return _grouped(_pairs(blocks[:, 48:]) | fifth << 4, *_scales_and_minima(blocks))


def _q6_k(blocks: Bytes) -> Floats:
    """Sixteen groups of 16 with int8 scales; low nibbles and upper two bits lie apart."""
    low = blocks[:, :128].reshape(-1, 2, 1, 64)
    low = (low >> np.array([0, 4], np.uint8)[:, None]) & _FOUR
    codes = low.reshape(-1, 2, 4, 32) | (_crumbs(blocks[:, 128:192]) << 4)
    codes = (codes.astype(np.int8) - np.int8(32)).reshape(-1, 16, 16)
    scales = np.ascontiguousarray(blocks[:, 192:208]).view(np.int8)
    return _grouped(codes, halfs(blocks[:, 208:210]) * scales)


def _scales_and_minima(blocks: Bytes) -> tuple[Floats, Floats]:
    """Returns the scales and minima (n, 8) of Q4_K and Q5_K."""
    low, middle, high = (blocks[:, 4 + at : 8 + at] for at in (0, 4, 8))
    scales = np.concatenate([low & _SIX, (high & _FOUR) | (low >> 2 & np.uint8(0x30))], axis=1)
    minima = np.concatenate([middle & _SIX, (high >> 4) | (middle >> 2 & np.uint8(0x30))], axis=1)
    return halfs(blocks[:, 0:2]) * scales, halfs(blocks[:, 2:4]) * minima


def _lines_of_q4_k(blocks: Bytes) -> tuple[Floats, Floats]:
    scales, minima = _scales_and_minima(blocks)
    return scales, -minima


def _grouped(codes: NDArray[Any], scales: Floats, minima: Floats | None = None) -> Floats:
    """Returns ``scales * codes - minima`` of blocks (n, groups, weights of a group) in a row."""
    values: Floats = codes * scales[:, :, None]
    if minima is not None:
        values -= minima[:, :, None]
    return values.reshape(len(codes), -1)


def _by_library(type: str, blocks: Bytes) -> Floats:
    """Returns what the library ``gguf`` makes of blocks."""
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    values: Floats = dequantize(np.ascontiguousarray(blocks), GGMLQuantizationType[type])
    return values


CODED = {
    "Q1_0": Coded(128, 18, -1, 1, 0, _q1_0),
    "Q2_0": Coded(64, 18, -1, 2, 0, _q2_0),
    "Q2_0_G128": Coded(128, 34, -1, 2, 0, _q2_0),
    "Q4_0": Coded(32, 18, -8, 7, 0, _q4_0),
    "Q5_0": Coded(32, 22, -16, 15, 0, _q5_0),
    "Q8_0": Coded(32, 34, -128, 127, 0, _q8_0),
    "PQ2_0": Coded(128, 34, -1, 2, 0, _q2_0),
    "PTQ1_0": Coded(128, 28, -1, 1, 26, _ptq1_0),
    "TQ1_0": Coded(256, 54, -1, 1, 52, _tq1_0),
    "TQ2_0": Coded(256, 66, -1, 2, 64, _tq2_0),
}
VALUED = {
    "IQ4_NL": Valued(32, 18, _iq4_nl),
    "IQ4_XS": Valued(256, 136, _iq4_xs),
    "MXFP4": Valued(32, 17, _mxfp4),
    "NVFP4": Valued(64, 36, _nvfp4),
    "Q2_K": Valued(256, 84, _q2_k),
    "Q3_K": Valued(256, 110, _q3_k),
    "Q4_1": Valued(32, 20, _q4_1),
    "Q4_K": Valued(256, 144, _q4_k),
    "Q5_1": Valued(32, 24, _q5_1),
    "Q5_K": Valued(256, 176, _q5_k),
    "Q6_K": Valued(256, 210, _q6_k),
}
AFFINE = {
    "Q4_1": Affine(
        lambda blocks: _nibbles(blocks[:, 4:]),
        lambda blocks: (halfs(blocks[:, 0:2]), halfs(blocks[:, 2:4])),
    ),
    "Q4_K": Affine(lambda blocks: _pairs(blocks[:, 16:]).reshape(-1, 256), _lines_of_q4_k),
}
LEVELED = {
    "IQ4_NL": Leveled(
        "iq4nl", lambda blocks: _nibbles(blocks[:, 2:]), lambda blocks: halfs(blocks[:, 0:2])
    ),
    "IQ4_XS": Leveled("iq4nl", _nibbles_of_iq4_xs, _scales_of_iq4_xs),
    "MXFP4": Leveled(
        "mxfp4", lambda blocks: _nibbles(blocks[:, 1:]), lambda blocks: blocks[:, 0:1]
    ),
}
LIBRARY = {
    name: Valued(256, nbytes, partial(_by_library, name))
    for name, nbytes in (
        ("IQ1_M", 56), ("IQ1_S", 50), ("IQ2_S", 82), ("IQ2_XS", 74), ("IQ2_XXS", 66),
        ("IQ3_S", 110), ("IQ3_XXS", 98),
    )
}  # fmt: skip


def has_library() -> bool:
    """Returns whether the library ``gguf`` is installed."""
    return find_spec("gguf") is not None
