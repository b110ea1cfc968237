"""Transposed: what ``q.T`` is."""

import sys
from types import FrameType
from typing import Any, Generic, NoReturn, Protocol, Self, TypeVar

from numpy.typing import DTypeLike, NDArray

from binq.array.packed import Packed
from binq.array.protocols import PackedOperand


class Weights(Protocol):
    """What the transposed view asks of the array that it is a view of."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def _data(self) -> Packed: ...

    def dequantize(self, dtype: DTypeLike | None = None) -> NDArray[Any]: ...

    def copy(self) -> Self: ...

    def _like(self, data: Packed) -> Self: ...

    def _as_array(
        self, dtype: DTypeLike | None, copy: bool | None, frame: FrameType
    ) -> NDArray[Any]: ...


Base = TypeVar("Base", bound=Weights)


class Transposed(PackedOperand, Generic[Base]):
    """The transpose of a QuantizedArray, ``q.T`` or ``q.mT``: the right-hand side of ``x @ q.T``.

    A view that holds nothing of its own.

    >>> import numpy as np, binq
    >>> q = binq.quantize(np.ones((3, 5)), "binary")
    >>> q.T.shape, q.T.T is q
    ((5, 3), True)
    """

    __slots__ = ("_base", "_data")

    _is_transposed = True
    _base: Base

    def __init__(self, base: Base) -> None:
        self._base = base
        self._data = base._data

    @property
    def shape(self) -> tuple[int, ...]:
        """Returns the logical shape ``(..., in_features, out_features)``."""
        *lead, rows, columns = self._base.shape
        return (*lead, columns, rows)

    @property
    def T(self) -> Base:  # noqa: N802
        """Returns the array that this is the transpose of."""
        if self.ndim != 2:
            raise ValueError(f"T is for one matrix, the shape is {self.shape}: use mT")
        return self._base

    @property
    def mT(self) -> Base:  # noqa: N802
        """Returns the array that this is the transpose of."""
        return self._base

    def dequantize(self, dtype: DTypeLike | None = None) -> NDArray[Any]:
        """Returns the transposed weights as floats, as QuantizedArray.dequantize does."""
        return self._base.dequantize(dtype).mT

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        return self._base._as_array(dtype, copy, sys._getframe(1)).mT

    def transpose(self, *axes: Any) -> Any:
        """Returns the weights themselves, as ``T`` and ``mT`` do."""
        return transpose(self, axes)

    def copy(self) -> Self:
        """Returns a view of weights in memory of their own."""
        return type(self)(self._base.copy())

    def _like(self, data: Packed) -> Self:
        return type(self)(self._base._like(data))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._base,)

    def __repr__(self) -> str:
        return f"{self._base!r}.{'T' if self.ndim == 2 else 'mT'}"

    def __getitem__(self, key: Any) -> NoReturn:
        raise TypeError("a transposed view cannot be indexed: index the weights, q[rows].T")

    def __iter__(self) -> NoReturn:
        raise TypeError("a transposed view cannot be iterated over: iterate over q.dequantize().T")


def transpose(a: Any, axes: tuple[Any, ...]) -> Any:
    """Returns a with its axes in that order: itself, or with the last two swapped."""
    if len(axes) == 1 and (axes[0] is None or isinstance(axes[0], tuple | list)):
        axes = tuple(axes[0] or ())
    count = a.ndim
    order = [axis % count for axis in axes] if axes else list(range(count))[::-1]
    straight = list(range(count))
    if order == straight:
        return a
    if order == [*straight[:-2], count - 1, count - 2]:
        return a.mT
    raise ValueError(
        f"axes of packed weights of shape {a.shape} are transposed only by swapping the last two "
        f"(q.mT), got {tuple(axes) or tuple(order)}"
    )
