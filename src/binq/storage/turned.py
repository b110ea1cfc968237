"""Weights that one program stores in another order, or by another formula, than those it read.

llama.cpp puts the rows of q and k of Llama in the order of its own rotary embedding, and adds 1 to
the norms of Gemma. Turned back, the values are those that the model's own names stand for.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from binq.array import QuantizedArray
from binq.array.packed import Packed
from binq.errors import FormatError
from binq.formats.layout import untile_rows
from binq.formats.scales import scale_values
from binq.formats.zeros import unpack_zeros
from binq.storage.base import Exact, Storage, WholeStorage, Wrapped, pack_exact, to_float32

if TYPE_CHECKING:
    from binq.files.checkpoint import Checkpoint

# Rows are read in one piece where that reads at most this many times what is wanted.
_WASTE = 4


class Order(NamedTuple):
    """Another order of rows: those from ``start``, seen as ``view``, with two axes exchanged."""

    view: tuple[int, ...]
    axes: tuple[int, int]
    start: int = 0

    @property
    def stop(self) -> int:
        return self.start + prod(self.view)


@lru_cache(maxsize=64)
def _index(order: Order | None, count: int) -> NDArray[np.intp]:
    """Returns where each of ``count`` rows is stored."""
    index = np.arange(count)
    if order is not None:
        part = index[order.start : order.stop].reshape(order.view)
        index[order.start : order.stop] = part.swapaxes(*order.axes).reshape(-1)
    index.flags.writeable = False
    return index


@dataclass(frozen=True)
class Turned(Wrapped):
    """The weights of ``inner`` with rows or columns in another order."""

    scheme = "turned"
    inner: Storage
    rows: Order | None = None
    columns: Order | None = None

    def __post_init__(self) -> None:
        for order, count in ((self.rows, self.shape[-2:][0]), (self.columns, self.shape[-1])):
            if order is not None and order.stop != count:
                raise FormatError(
                    f"{self.stored[0]!r} of shape {self.shape} has {count} rows or columns where "
                    f"its metadata say {order.stop}"
                )

    def read_whole(self, source: "Checkpoint") -> NDArray[Any]:
        return self.inner.read_whole(source)[_index(self.rows, self.shape[0])]

    def read_values(self, source: "Checkpoint", matrix: int, start: int, stop: int) -> NDArray[Any]:
        def read(first: int, last: int) -> NDArray[Any]:
            return self.inner.read_values(source, matrix, first, last)

        values = _gather(read, _index(self.rows, self.shape[-2])[start:stop])
        if self.columns is None:
            return values
        return np.ascontiguousarray(values[:, _index(self.columns, self.shape[-1])])

    def exact_format(self, source: "Checkpoint") -> Exact | None:
        return self._held(self.inner.exact_format(source))

    def near_format(self, source: "Checkpoint") -> Exact | None:
        return self._held(self.inner.near_format(source))

    def _held(self, exact: Exact | None) -> Exact | None:
        if exact is not None and self.columns is not None and self._groups(exact) is None:
            return None
        return exact

    def _groups(self, exact: Exact) -> NDArray[np.intp] | None:
        """Returns where the groups of a row are stored, None where columns leave their group."""
        size = exact.packing.group_size
        index = _index(self.columns, self.shape[-1])
        if size is None:
            return np.zeros(1, np.intp)
        if len(index) % size:
            return None
        first = index[::size]
        together = (index.reshape(-1, size) == first[:, None] + np.arange(size)).all()
        return first // size if together and not (first % size).any() else None

    def exact_rows(
        self, source: "Checkpoint", exact: Exact, matrix: int, start: int, stop: int
    ) -> Packed:
        def read(first: int, last: int) -> Packed:
            return self.inner.exact_rows(source, exact, matrix, first, last)

        index = _index(self.rows, self.shape[-2])[start:stop]
        codes = _gather(lambda a, b: QuantizedArray._of(read(a, b)).codes(), index)
        scales = _gather(lambda a, b: _scales(read(a, b)), index)
        zeros = None if exact.packing.symmetric else _gather(lambda a, b: _zeros(read(a, b)), index)
        if self.columns is not None:
            codes = codes[:, _index(self.columns, self.shape[-1])]
            groups = self._groups(exact)
            scales = scales[:, groups]
            zeros = None if zeros is None else zeros[:, groups]
        return pack_exact(exact, codes, scales, zeros)


def _scales(packed: Packed) -> NDArray[Any]:
    return scale_values(untile_rows(packed.scales, packed.geometry), packed.packing.kind.bias)


def _zeros(packed: Packed) -> NDArray[Any]:
    assert packed.zeros is not None
    return unpack_zeros(packed.packing.zero, packed.zeros, packed.geometry)


def _gather(read: Callable[[int, int], NDArray[Any]], index: NDArray[np.intp]) -> NDArray[Any]:
    """Returns the rows of an index, reading one span of rows, or each run of them."""
    low, high = int(index.min()), int(index.max()) + 1
    if high - low <= _WASTE * len(index):
        return np.ascontiguousarray(read(low, high)[index - low])
    cuts = np.flatnonzero(np.diff(index) != 1) + 1
    return np.concatenate([read(int(run[0]), int(run[-1]) + 1) for run in np.split(index, cuts)])


# What undoes what another program did to each value.
FORMULAS: dict[str, Callable[[NDArray[np.float32]], NDArray[np.float32]]] = {
    "minus 1": lambda values: values - np.float32(1),
    "log of -x": lambda values: np.log(-values),
    "itself": lambda values: values,
}


@dataclass(frozen=True)
class Undone(Wrapped, WholeStorage):
    """The floats of ``inner`` with a formula undone, and in the shape that they had."""

    scheme = "undone"
    inner: Storage
    formula: str
    logical_shape: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.logical_shape

    def read_whole(self, source: "Checkpoint") -> NDArray[Any]:
        values = self.inner.read_whole(source)
        with np.errstate(all="ignore"):
            undone = FORMULAS[self.formula](to_float32(values))
        return undone.astype(values.dtype).reshape(self.shape)
