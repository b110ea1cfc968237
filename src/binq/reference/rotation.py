"""Rows in a rotated basis: signs, then a Walsh-Hadamard transform of blocks.

A matrix whose rows are rotated as the rows of x are gives the same products with them, up to
rounding: the transform is orthogonal. Every operation is one rounding of float32.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def walsh_hadamard(x: Floats, block: int) -> Floats:
    """Returns ``x @ H`` for each block of the last axis, H the matrix of Sylvester of that size.

    H[i, j] is −1 to the number of bits that i and j have in common. The stages 1, 2, 4, … replace
    the numbers i and i + stage of a pair by their sum and difference.
    """
    y = x.astype(np.float32).reshape(-1, block)
    stage = 1
    while stage < block:
        pairs = y.reshape(len(y), -1, 2, stage)
        first, second = pairs[:, :, 0], pairs[:, :, 1]
        y = np.stack([first + second, first - second], axis=2).reshape(len(y), block)
        stage *= 2
    return y.reshape(x.shape)


def rotate(x: Floats, signs: Floats, block: int) -> Floats:
    """Returns rows of x in the rotated basis: ``(x * signs) @ H / sqrt(block)`` block by block."""
    return walsh_hadamard(x * signs, block) * np.float32(1 / np.sqrt(block))


def rotate_back(y: Floats, signs: Floats, block: int) -> Floats:
    """Returns the rows that :func:`rotate` makes ``y`` of, up to rounding."""
    return (walsh_hadamard(y, block) * np.float32(1 / np.sqrt(block))) * signs
