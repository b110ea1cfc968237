"""Products of packed weights: which pairs there are, and what is said of the others.

:class:`Operand` is what QuantizedArray and its transposed view are to this module and to numpy's
functions: weights, and whether they are seen transposed.
"""

from math import prod
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from binq.array.checks import Opaque, as_float32, check_out, plain_array
from binq.array.packed import Packed
from binq.array.product import multiply, stack_shape

_FLOAT32 = np.dtype(np.float32)


class Operand(Opaque):
    """Base of QuantizedArray and of its transposed view: what they are."""

    __slots__ = ()

    # Whether the operand is a transposed view, and the weights. Plain attributes: a product of one
    # row costs microseconds, so that calls for these would show.
    _is_transposed: ClassVar[bool]
    _data: Packed

    def _like(self, data: Packed) -> Self:
        """Returns other weights of the same kind: transposed where this is."""
        raise NotImplementedError

    def dequantize(self, dtype: DTypeLike | None = None) -> NDArray[Any]:
        raise NotImplementedError

    @property
    def shape(self) -> tuple[int, ...]:
        raise NotImplementedError

    @property
    def ndim(self) -> int:
        """Returns the number of axes, 2 or more."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Returns the number of weights."""
        return prod(self.shape)

    @property
    def dtype(self) -> np.dtype[np.float32]:
        """Returns float32: what ``dequantize`` and products give."""
        return _FLOAT32

    def __len__(self) -> int:
        return self.shape[0]


def matmul_operands(
    a: Any, b: Any, activations: str = "int16", out: Any = None
) -> NDArray[np.float32]:
    """Returns ``a @ b`` where one of the two holds packed weights.

    The kernels sum over in_features only, so the pairs are ``x @ q.mT`` and ``q @ x``.
    """
    if isinstance(b, Operand):
        if b._is_transposed and not isinstance(a, Operand):
            return multiply(a, b._data, None, activations, out)
        if isinstance(a, Operand):
            raise TypeError(
                "the product of two packed arrays is not supported: call .dequantize() on one"
            )
        raise _input_major(a, b.shape)
    if not isinstance(a, Operand):
        raise TypeError(
            "matmul needs a QuantizedArray or its transpose, got "
            f"{type(a).__name__} and {type(b).__name__}"
        )
    if a._is_transposed:
        raise TypeError(
            "q.T @ x sums over the rows of q, which are not stored for that: "
            "write q.dequantize().T @ x, or quantize(w.T, ...) @ x with w the floats of q"
        )
    x = plain_array("x", b)
    if x.ndim < 2:
        return multiply(x, a._data, None, activations, out)
    # Checked as they are given: after the transposition, errors would name other axes.
    if x.dtype != _FLOAT32:
        x = as_float32("x", x)
    shape = a.shape
    if x.shape[-2] != shape[-1]:
        raise ValueError(
            f"x must have shape (..., {shape[-1]}, columns) for weights of shape {shape}, "
            f"got {x.shape}"
        )
    if out is not None:
        lead = stack_shape(x.shape, shape)[:-2]
        checked = check_out(out, (*lead, shape[-2], x.shape[-1]), _FLOAT32)
        multiply(x.mT, a._data, None, activations, checked.mT)
        return checked
    return multiply(x.mT, a._data, None, activations).mT


def _input_major(x: Any, shape: tuple[int, ...]) -> TypeError:
    """Returns what to say of ``x @ q``, which sums over the rows of q, of a shape.

    A hint of x @ q.T would be silently wrong where the weights were (in_features, out_features)
    and square, so it is given only where the shapes rule that out.
    """
    *lead, rows, columns = shape
    said = (
        f"x @ q sums over the rows of q, of shape {shape}: packed weights are "
        "(out_features, in_features) and sum over in_features"
    )
    sizes = getattr(x, "shape", (0,))
    if sizes[-1:] == (columns,) and columns != rows:
        return TypeError(f"{said}: write x @ q.{'mT' if lead else 'T'}")
    w_t = "w.mT" if lead else "w.T"
    return TypeError(
        f"{said}. Weights w (in_features, out_features), multiplied as x @ w, are quantized as "
        f"quantize({w_t}, ...); then the product is binq.linear(x, q)"
    )
