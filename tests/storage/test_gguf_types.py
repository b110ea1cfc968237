"""The block types of GGUF, weight by weight, from formulas of one weight of one block.

``bits(block, at, width)`` is the number that lies ``at`` bits from the start of a block, least
significant bit first, so that every formula here names its bits where the decoders slice arrays.
"""

import numpy as np
import pytest

from binq.storage.gguf_types import CODED, VALUED, halfs

F32 = np.float32
FP4 = (0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6)
LEVELS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


def bits(block, at, width):
    return int.from_bytes(block.tobytes(), "little") >> at & ((1 << width) - 1)


def half(block, byte):
    return F32(block[byte : byte + 2].view("<f2")[0])


def nibble(block, byte, i):
    """The weights of 32: the low nibbles of 16 bytes, then the high ones."""
    return bits(block, 8 * (byte + i % 16) + 4 * (i // 16), 4)


def crumb(block, byte, i):
    """Two bits of 256: each of two times 32 bytes has four weights, 32 apart."""
    return bits(block, 8 * (byte + 32 * (i // 128) + i % 32) + 2 * (i % 128 // 32), 2)


def pair(block, byte, i):
    """Four bits of 256: each of four times 32 bytes has two weights, 32 apart."""
    return bits(block, 8 * (byte + 32 * (i // 64) + i % 32) + 4 * (i % 64 // 32), 4)


def k_scale(block, group):
    """The six bits of the scale and of the minimum of one of eight groups."""
    if group < 4:
        return bits(block, 8 * (4 + group), 6), bits(block, 8 * (8 + group), 6)
    high_scale = bits(block, 8 * group + 6, 2)
    high_minimum = bits(block, 8 * (4 + group) + 6, 2)
    low = 8 * (8 + group)
    return bits(block, low, 4) | high_scale << 4, bits(block, low + 4, 4) | high_minimum << 4


def q4_1(block, i):
    return half(block, 0) * F32(nibble(block, 4, i)) + half(block, 2)


def q5_0(block, i):
    return half(block, 0) * F32((nibble(block, 6, i) | bits(block, 16 + i, 1) << 4) - 16)


def q5_1(block, i):
    code = nibble(block, 8, i) | bits(block, 32 + i, 1) << 4
    return half(block, 0) * F32(code) + half(block, 2)


def iq4_nl(block, i):
    return half(block, 0) * F32(LEVELS[nibble(block, 2, i)])


def iq4_xs(block, i):
    group, j = divmod(i, 32)
    scale = bits(block, 32 + 4 * group, 4) | bits(block, 16 + 2 * group, 2) << 4
    return half(block, 0) * F32(scale - 32) * F32(LEVELS[nibble(block, 8 + 16 * group, j)])


def nvfp4(block, i):
    group, j = divmod(i, 16)
    scale = int(block[group]) & 0x7F
    exponent, mantissa = divmod(scale, 8)
    size = mantissa * 2.0**-9 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7)
    level = FP4[bits(block, 32 + 64 * group + 8 * (j % 8) + 4 * (j // 8), 4)]
    return F32(0) if block[group] == 0x7F else F32(size) * F32(level)


def q2_k(block, i):
    scale, minimum = (bits(block, 8 * (i // 16) + at, 4) for at in (0, 4))
    product = half(block, 80) * F32(scale) * F32(crumb(block, 16, i))
    return product - half(block, 82) * F32(minimum)


def q3_k(block, i):
    group = i // 16
    low = bits(block, 8 * (96 + group % 8) + 4 * (group // 8), 4)
    high = bits(block, 8 * (104 + group % 4) + 2 * (group // 4), 2)
    third = bits(block, 8 * (i % 32) + i // 32, 1)
    code = crumb(block, 32, i) - (0 if third else 4)
    return half(block, 108) * F32((low | high << 4) - 32) * F32(code)


def q4_k(block, i):
    scale, minimum = k_scale(block, i // 32)
    product = half(block, 0) * F32(scale) * F32(pair(block, 16, i))
    return product - half(block, 2) * F32(minimum)


def q5_k(block, i):
    scale, minimum = k_scale(block, i // 32)
    code = pair(block, 48, i) | bits(block, 8 * (16 + i % 32) + i // 32, 1) << 4
    return half(block, 0) * F32(scale) * F32(code) - half(block, 2) * F32(minimum)


def q6_k(block, i):
    low = bits(block, 8 * (64 * (i // 128) + i % 64) + 4 * (i % 128 // 64), 4)
    scale = int(block[192 + i // 16].view(np.int8))
    return half(block, 208) * F32(scale) * F32((low | crumb(block, 128, i) << 4) - 32)


FORMULAS = {
    "Q4_1": (q4_1, (0, 2)), "Q5_0": (q5_0, (0,)), "Q5_1": (q5_1, (0, 2)),
    "IQ4_NL": (iq4_nl, (0,)), "IQ4_XS": (iq4_xs, (0,)), "Q2_K": (q2_k, (80, 82)),
    "NVFP4": (nvfp4, ()), "Q3_K": (q3_k, (108,)),
    "Q4_K": (q4_k, (0, 2)), "Q5_K": (q5_k, (0, 2)), "Q6_K": (q6_k, (208,)),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(FORMULAS))
def test_values_are_those_of_the_formula(name):
    formula, scales = FORMULAS[name]
    kind = CODED.get(name) or VALUED[name]
    rng = np.random.default_rng(list(name.encode()))
    blocks = rng.integers(0, 256, (5, kind.nbytes), dtype=np.uint8)
    for at in scales:
        numbers = rng.uniform(-2, 2, 5).astype(np.float16)
        blocks[:, at : at + 2] = numbers.view(np.uint8).reshape(5, 2)
    if name in CODED:
        values = kind.codes(blocks) * halfs(blocks[:, kind.scale : kind.scale + 2])
    else:
        values = kind.values(blocks)
    expected = [[formula(block, i) for i in range(kind.weights)] for block in blocks]
    assert values.dtype == F32
    np.testing.assert_array_equal(values, np.array(expected, F32))
