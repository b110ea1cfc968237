"""What numpy's functions do with packed weights; those that are not here are refused."""

from collections.abc import Callable
from typing import Any

import numpy as np

from binq.array.checks import plain_array
from binq.array.einsum import einsum
from binq.array.operands import Operand, matmul_operands
from binq.array.product import multiply

# Weights are compared as floats in blocks of about this many.
_BLOCK = 1 << 20


def dot(a: Any, b: Any, out: Any = None) -> Any:
    """Returns np.dot(a, b), which is matmul for as long as the weights are one matrix."""
    weights = b if isinstance(b, Operand) else a
    if weights.ndim > 2:
        raise TypeError("numpy.dot takes no stack of packed weights: use numpy.matmul or @")
    if weights is a and np.ndim(b) > 2:
        raise TypeError("numpy.dot(q, x) takes an x of 1 or 2 axes: use numpy.matmul or @")
    return matmul_operands(a, b, out=out)


def inner(a: Any, b: Any) -> Any:
    """Returns np.inner(a, b), the sums over the last axis of both."""
    if isinstance(a, Operand) and isinstance(b, Operand):
        raise TypeError(
            "the product of two packed arrays is not supported: call .dequantize() on one"
        )
    q, x = (a, b) if isinstance(a, Operand) else (b, a)
    if q._is_transposed or q.ndim > 2:
        raise TypeError(
            "numpy.inner takes one matrix of packed weights, not transposed: use numpy.matmul or @"
        )
    y = multiply(plain_array("x", x), q._data)
    return np.moveaxis(y, -1, 0) if q is a else y


def array_equal(a: Any, b: Any, equal_nan: bool = False) -> bool:
    """Returns whether shapes and weights are equal, in blocks of rows: floats are made of a few."""
    if not isinstance(a, Operand):
        a, b = b, a
    b = b if isinstance(b, Operand) else plain_array("a2", b)
    if a.shape != b.shape:
        return False
    if a._is_transposed:
        a, b = a.mT, b.mT
    if isinstance(b, Operand) and b._is_transposed:
        b = b.dequantize()
    if a.ndim > 2:
        pairs = ((a[i], b[i]) for i in range(len(a)))
        return all(array_equal(one, other, equal_nan) for one, other in pairs)
    step = max(32, _BLOCK // max(1, a.shape[-1]) // 32 * 32)
    for start in range(0, len(a), step):
        one, other = a[start : start + step].dequantize(), b[start : start + step]
        if isinstance(other, Operand):
            other = other.dequantize()
        if not np.array_equal(one, other, equal_nan=equal_nan):
            return False
    return True


def _size(a: Operand, axis: int | None = None) -> int:
    return a.size if axis is None else a.shape[axis]


FUNCTIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    np.array_equal: array_equal,
    np.copy: lambda a, order="K", subok=False: a.copy(),
    np.dot: dot,
    np.einsum: einsum,
    np.inner: inner,
    np.linalg.matmul: lambda x1, x2, /: matmul_operands(x1, x2),
    np.linalg.matrix_transpose: lambda x, /: x.mT,
    np.matrix_transpose: lambda x, /: x.mT,
    np.ndim: lambda a: a.ndim,
    np.shape: lambda a: a.shape,
    np.size: _size,
    np.transpose: lambda a, axes=None: a.transpose(axes),
}
