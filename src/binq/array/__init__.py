"""QuantizedArray: packed weights that behave as an immutable numpy-like array, and products."""

from binq.array.array import QuantizedArray
from binq.array.joining import concatenate, stack
from binq.array.linear import linear, matmul, prepare
from binq.array.transposed import Transposed

__all__ = [
    "QuantizedArray",
    "Transposed",
    "concatenate",
    "linear",
    "matmul",
    "prepare",
    "stack",
]
