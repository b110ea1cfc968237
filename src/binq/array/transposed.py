"""Transposed: what ``q.T`` is."""

from typing import TYPE_CHECKING, Any, NoReturn

from numpy.typing import DTypeLike, NDArray

from binq.array.protocols import PackedOperand

if TYPE_CHECKING:
    from binq.array.array import QuantizedArray


class Transposed(PackedOperand):
    """The transpose of a QuantizedArray, ``q.T`` or ``q.mT``: the right-hand side of ``x @ q.T``.

    A view that holds nothing of its own.

    >>> import numpy as np, binq
    >>> q = binq.quantize(np.ones((3, 5)), "binary")
    >>> q.T.shape, q.T.T is q
    ((5, 3), True)
    """

    __slots__ = ("_base",)

    _is_transposed = True
    _base: "QuantizedArray"

    def __init__(self, base: "QuantizedArray") -> None:
        self._base = base

    @property
    def shape(self) -> tuple[int, ...]:
        """Returns the logical shape ``(..., in_features, out_features)``."""
        *lead, rows, columns = self._base.shape
        return (*lead, columns, rows)

    @property
    def T(self) -> "QuantizedArray":  # noqa: N802
        """Returns the array that this is the transpose of."""
        if self.ndim != 2:
            raise ValueError(f"T is for one matrix, the shape is {self.shape}: use mT")
        return self._base

    @property
    def mT(self) -> "QuantizedArray":  # noqa: N802
        """Returns the array that this is the transpose of."""
        return self._base

    def dequantize(self, dtype: DTypeLike | None = None) -> NDArray[Any]:
        """Returns the transposed weights as floats, as QuantizedArray.dequantize does."""
        return self._base.dequantize(dtype).mT

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        return self._base.__array__(dtype, copy).mT

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._base,)

    def __repr__(self) -> str:
        return f"{self._base!r}.{'T' if self.ndim == 2 else 'mT'}"

    def __getitem__(self, key: Any) -> NoReturn:
        raise TypeError("a transposed view cannot be indexed: index the weights, q[rows].T")

    def __iter__(self) -> NoReturn:
        raise TypeError("a transposed view cannot be iterated over: iterate over q.dequantize().T")
