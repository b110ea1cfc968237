"""What numpy's own functions do with packed weights: multiply, tell the shape, or say no.

numpy would otherwise turn the weights into floats behind the user's back in every function that
takes array-likes: a hidden copy eight to thirty times the size of the weights.
"""

from collections.abc import Callable
from math import prod
from typing import Any, ClassVar

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import NDArray

from binq.array.checks import Opaque, as_float32, check_out, plain_array
from binq.array.packed import Packed
from binq.array.product import multiply, stack_shape

_FLOAT32 = np.dtype(np.float32)
_MATMUL = np.matmul
# What ``x @= q.T`` passes: the axes that matmul has anyway.
_INPLACE_AXES = [(-2, -1), (-2, -1), (-2, -1)]


class PackedOperand(Opaque, NDArrayOperatorsMixin):
    """Base of QuantizedArray and of its transposed view: operators and numpy's protocols.

    The mixin sends every operator to ``__array_ufunc__``, which words the refusals.
    """

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]

    # Whether the operand is a transposed view, and the weights. Plain attributes: a product of one
    # row costs microseconds, so that calls for these would show.
    _is_transposed: ClassVar[bool]
    _data: Packed

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

    def __eq__(self, other: object) -> Any:
        """Returns whether the other holds the same format, shape and bytes (one bool)."""
        if not isinstance(other, PackedOperand):
            return NotImplemented
        return self._is_transposed == other._is_transposed and self._data.same_as(other._data)

    def __ne__(self, other: object) -> Any:
        equal = self.__eq__(other)
        return NotImplemented if equal is NotImplemented else not equal

    def __matmul__(self, other: Any) -> NDArray[np.float32]:
        return matmul_operands(self, other)

    def __rmatmul__(self, other: Any) -> NDArray[np.float32]:
        return matmul_operands(other, self)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if ufunc is _MATMUL and method == "__call__":
            if not kwargs:
                return matmul_operands(*inputs)
            out = kwargs.pop("out", (None,))[0]
            if kwargs.get("axes") == _INPLACE_AXES:
                del kwargs["axes"]
            if kwargs:
                raise TypeError(f"matmul with packed weights takes no {', '.join(kwargs)}=")
            a, b = inputs
            return matmul_operands(a, b, out=out)
        name = ufunc.__name__ if method == "__call__" else f"{ufunc.__name__}.{method}"
        raise _refused(name)

    def __array_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        handler = _FUNCTIONS.get(func)
        if handler is None:
            raise _refused(func.__name__)
        return handler(*args, **kwargs)


def matmul_operands(
    a: Any, b: Any, activations: str = "int16", out: Any = None
) -> NDArray[np.float32]:
    """Returns ``a @ b`` where one of the two holds packed weights.

    The kernels sum over in_features only, so the pairs are ``x @ q.mT`` and ``q @ x``.
    """
    if isinstance(b, PackedOperand):
        if b._is_transposed and not isinstance(a, PackedOperand):
            return multiply(a, b._data, None, activations, out)
        if isinstance(a, PackedOperand):
            raise TypeError(
                "the product of two packed arrays is not supported: call .dequantize() on one"
            )
        raise _input_major(a, b.shape)
    if not isinstance(a, PackedOperand):
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
            f"x must have shape (..., {shape[-1]}, columns) to meet weights of shape {shape}, "
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


def _dot(a: Any, b: Any, out: Any = None) -> Any:
    """Returns np.dot(a, b), which is matmul for as long as the weights are one matrix."""
    weights = b if isinstance(b, PackedOperand) else a
    if weights.ndim > 2:
        raise TypeError("numpy.dot takes no stack of packed weights: use numpy.matmul or @")
    if weights is a and np.ndim(b) > 2:
        raise TypeError("numpy.dot(q, x) takes an x of 1 or 2 axes: use numpy.matmul or @")
    return matmul_operands(a, b, out=out)


def _size(a: PackedOperand, axis: int | None = None) -> int:
    return a.size if axis is None else a.shape[axis]


_FUNCTIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    np.dot: _dot,
    np.shape: lambda a: a.shape,
    np.ndim: lambda a: a.ndim,
    np.size: _size,
}


def _refused(name: str) -> TypeError:
    return TypeError(
        f"numpy.{name} does not work on packed weights: call .dequantize() for a float array"
    )
