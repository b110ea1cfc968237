"""Rotation: the basis that packed weights are in, where it is not that of x."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from binq import _core
from binq.array.checks import check_int, plain_array

_LARGEST = 1 << 20


@dataclass(frozen=True, slots=True)
class Rotation:
    """A signed Walsh-Hadamard transform of blocks of the inputs.

    Weights W that are packed in the rotated basis as W' stand for ``W = W' H S``, with S the signs
    and H the matrix of Sylvester, normalized, of each block: ``W @ x = W' @ (H (S x))``. The
    transform is orthogonal, so that errors are the same in both bases.

    - block: a power of two that divides the number of inputs
    - flips: a bit for each input, the lowest of a byte first: 1 stands for the sign −1

    Source: Ashkboos et al., QuaRot (2024); PrismML's Bonsai 2 (2026) publishes such weights.

    >>> import numpy as np
    >>> r = Rotation.of(4, [1, 1, -1, 1])
    >>> r.forward(np.float32([[1, 0, 0, 0], [0, 0, 2, 0]]))
    array([[ 0.5,  0.5,  0.5,  0.5],
           [-1. , -1. ,  1. ,  1. ]], dtype=float32)
    """

    block: int
    flips: bytes

    @classmethod
    def of(cls, block: int, signs: ArrayLike) -> Self:
        """Returns the rotation of signs −1 and 1, one for each input.

        Raises TypeError and ValueError naming the argument.
        """
        array = plain_array("signs", signs)
        if array.ndim != 1 or array.dtype.kind not in "iuf" or not (np.abs(array) == 1).all():
            raise ValueError(f"signs must be one axis of −1 and 1, got shape {array.shape}")
        check_block(block, len(array))
        return cls(block, np.packbits(array < 0, bitorder="little").tobytes())

    def check(self, in_features: int) -> None:
        """Raises ValueError unless there is a sign for each input, and whole blocks."""
        check_block(self.block, in_features)
        if len(self.flips) != -(-in_features // 8):
            raise ValueError(
                f"rotation must have signs of {in_features} inputs, got {8 * len(self.flips)} bits"
            )

    def signs(self, in_features: int) -> NDArray[np.float32]:
        """Returns the signs as floats."""
        return _signs(self.flips, in_features)

    def forward(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns float32 rows ``(..., in_features)`` in the rotated basis: a new array."""
        return self._turned(x, False, np.empty(x.shape, np.float32))

    def back(self, y: NDArray[np.float32]) -> None:
        """Writes contiguous rows of the rotated basis in that of x, in place."""
        self._turned(y, True, y)

    def _turned(
        self, x: NDArray[np.float32], back: bool, out: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        if x.size:
            size = x.shape[-1]
            rows = np.ascontiguousarray(x).reshape(-1, size)
            scale = 1 / math.sqrt(self.block)
            _core.rotate(rows, self.signs(size), self.block, scale, back, out.reshape(-1, size))
        return out

    def __str__(self) -> str:
        return f"rotated {self.block}"


@lru_cache(maxsize=64)
def _signs(flips: bytes, in_features: int) -> NDArray[np.float32]:
    bits = np.unpackbits(np.frombuffer(flips, np.uint8), count=in_features, bitorder="little")
    signs = 1 - 2 * bits.astype(np.float32)
    signs.flags.writeable = False
    return signs


def check_rotation(rotation: object, in_features: int) -> Rotation:
    """Returns a rotation of that many inputs. Raises TypeError and ValueError for others."""
    if not isinstance(rotation, Rotation):
        raise TypeError(f"rotation must be a Rotation, got {type(rotation).__name__}")
    rotation.check(in_features)
    return rotation


def check_block(block: Any, in_features: int) -> None:
    """Raises ValueError or TypeError unless blocks of a power of two fill the inputs."""
    check_int("block", block, 1, _LARGEST)
    if block & (block - 1) or in_features % block:
        raise ValueError(
            f"block must be a power of two that divides {in_features} inputs, got {block}"
        )
