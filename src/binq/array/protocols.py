"""What numpy's own functions do with packed weights: multiply, tell the shape, or say no.

numpy would otherwise turn the weights into floats behind the user's back in every function that
takes array-likes: a hidden copy eight to thirty times the size of the weights.
"""

from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import NDArray

from binq.array.arithmetic import negative, scaled
from binq.array.checks import plain_array
from binq.array.functions import FUNCTIONS
from binq.array.operands import Operand, matmul_operands

_MATMUL = np.matmul
# What ``x @= q.T`` passes: the axes that matmul has anyway.
_INPLACE_AXES = [(-2, -1), (-2, -1), (-2, -1)]


# binq's own functions of the same name.
_OURS = {"concatenate": "binq.concatenate", "stack": "binq.stack"}


def _refused(name: str) -> TypeError:
    instead = f"use {_OURS[name]}, or " if name in _OURS else ""
    return TypeError(
        f"numpy.{name} does not work on packed weights: "
        f"{instead}call .dequantize() for a float array"
    )


def _refusing(name: str) -> Callable[..., NoReturn]:
    """Returns a method that says what the function of its name says."""

    def method(self: Operand, *args: Any, **kwargs: Any) -> NoReturn:
        raise _refused(name)

    method.__name__ = name
    method.__doc__ = f"Raises TypeError, as numpy.{name} does: call ``dequantize()`` for floats."
    return method


class PackedOperand(Operand, NDArrayOperatorsMixin):
    """Base of QuantizedArray and of its transposed view: operators and numpy's protocols.

    The mixin sends every operator to ``__array_ufunc__``, which words the refusals.
    """

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]

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
        handler = _UFUNCS.get(ufunc) if method == "__call__" else None
        if handler is not None:
            if "out" in kwargs:
                raise TypeError("packed weights cannot be changed: write q = 2 * q, not q *= 2")
            if kwargs:
                raise TypeError(
                    f"numpy.{ufunc.__name__} of packed weights takes no {', '.join(kwargs)}="
                )
            return handler(*inputs)
        name = ufunc.__name__ if method == "__call__" else f"{ufunc.__name__}.{method}"
        raise _refused(name)

    def __array_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        handler = FUNCTIONS.get(func)
        if handler is None:
            raise _refused(func.__name__)
        return handler(*args, **kwargs)

    # What numpy's arrays have as methods too: those that work are methods of the classes.
    astype = _refusing("astype")
    flatten = _refusing("flatten")
    item = _refusing("item")
    max = _refusing("max")
    mean = _refusing("mean")
    min = _refusing("min")
    prod = _refusing("prod")
    ravel = _refusing("ravel")
    reshape = _refusing("reshape")
    squeeze = _refusing("squeeze")
    std = _refusing("std")
    sum = _refusing("sum")
    swapaxes = _refusing("swapaxes")
    take = _refusing("take")
    tolist = _refusing("tolist")
    var = _refusing("var")


def _multiply(a: Any, b: Any) -> Any:
    """Returns packed weights times numbers, in either order."""
    q, factors = (a, b) if isinstance(a, Operand) else (b, a)
    if isinstance(factors, Operand):
        raise TypeError(
            "two packed arrays cannot be multiplied with each other: call .dequantize()"
        )
    return q._like(scaled(q._data, _for_rows(q, factors), "factors"))


def _divide(a: Any, b: Any) -> Any:
    if not isinstance(a, Operand) or isinstance(b, Operand):
        raise _refused("divide")
    return a._like(scaled(a._data, _for_rows(a, b), "factors", divide=True))


def _for_rows(q: Operand, factors: Any) -> Any:
    """Returns factors as weights that are not transposed take them."""
    array = plain_array("factors", factors)
    if q._is_transposed and array.ndim:
        return array[:, None] if array.ndim == 1 else array.mT
    return array


_UFUNCS: dict[np.ufunc, Callable[..., Any]] = {
    np.negative: lambda a: a._like(negative(a._data)),
    np.positive: lambda a: a,
    np.multiply: _multiply,
    np.divide: _divide,
}
