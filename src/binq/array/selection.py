"""Rows or matrices of packed weights by their numbers: noted at once, gathered when needed.

``q[ids].dequantize()`` reads the rows that it needs and copies no packed bytes, and experts that
are chosen from a stack multiply as they lie there.
"""

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binq import _core, _memory
from binq.array.packed import Packed
from binq.formats import TILE_ROWS
from binq.formats.zeros import OFFSET

_LAZY = ("packed", "scales", "zeros")
_NIBBLES = 0


def row_numbers(name: str, key: Any, count: int) -> NDArray[np.int64]:
    """Returns a list, an array or a mask of rows as int64 numbers >= 0, of the key's shape.

    name: what the errors call it.

    Raises TypeError for what is neither, IndexError for a number or a mask that does not fit.
    """
    array = np.asarray(key)
    kind = array.dtype.kind
    if array.size == 0 and not isinstance(key, np.ndarray):
        array = array.astype(np.int64)
    elif array.ndim == 0 or kind not in "iub":
        raise TypeError(f"{name} are selected by a slice or an array of integers, got {key!r}")
    elif kind == "b":
        if array.shape != (count,):
            raise IndexError(
                f"a mask of {name} must have shape ({count},), got {array.shape}: boolean index "
                "did not match"
            )
        return np.flatnonzero(array).astype(np.int64, copy=False)
    numbers = np.array(array, np.int64, order="C")
    if array.dtype == np.uint64 and (numbers < 0).any():
        numbers[numbers < 0] = count
    wrong = _core.wrap_rows(numbers.reshape(-1), count)
    if wrong >= 0:
        raise IndexError(
            f"index {array.reshape(-1)[wrong]} is out of bounds for {count} {name} of weights"
        )
    return numbers


class Selected(Packed):
    """Packed weights whose stored arrays are made when something asks for them.

    Derived classes set ``packing`` and ``shape``, and say in :meth:`gather` what the arrays are.
    """

    __slots__ = ()

    def gather(self) -> tuple[NDArray[Any], ...]:
        """Returns the stored arrays, in memory of their own."""
        raise NotImplementedError

    def __getattr__(self, name: str) -> Any:
        # Asked only for slots that are not filled yet.
        if name == "geometry":
            self.geometry = self.packing.geometry(self.shape)
        elif name in _LAZY:
            parts = self.gather()
            for part in parts:
                part.flags.writeable = False
            self.packed, self.scales, *zeros = parts
            self.zeros = zeros[0] if zeros else None
        else:
            raise AttributeError(name)
        return object.__getattribute__(self, name)


class SelectedRows(Selected):
    """Rows of one matrix: ``base[rows]``, of shape ``rows.shape + (in_features,)``."""

    __slots__ = ("base", "rows")

    def __init__(self, base: Packed, rows: NDArray[np.int64]) -> None:
        self.packing = base.packing
        self.shape = (*rows.shape, base.shape[-1])
        self.native = None
        self.base = base
        self.rows = rows

    def gather(self) -> tuple[NDArray[Any], ...]:
        return take_rows(self.base, self.rows)

    @property
    def nbytes(self) -> int:
        base = self.base
        offset = base.zeros.dtype if base.zeros is not None else None
        return self.packing.nbytes(self.shape, base.scales.dtype, offset)

    def dequantize(self, out: NDArray[np.float32]) -> None:
        """Writes the weights to a contiguous array of their shape."""
        if out.size:
            matrix = (self.base.native or self.base.matrices())[0]
            matrix.dequantize_rows(self.rows.reshape(-1), out.reshape(-1, self.shape[-1]))
            if self.packing.rotation is not None:
                self.packing.rotation.back(out)


class SelectedMatrices(Selected):
    """Items of the first axis of a stack: ``base[items]``."""

    __slots__ = ("base", "items")

    def __init__(self, base: Packed, items: NDArray[np.int64]) -> None:
        self.packing = base.packing
        self.shape = (*items.shape, *base.shape[1:])
        self.native = None
        self.base = base
        self.items = items

    def gather(self) -> tuple[NDArray[Any], ...]:
        return tuple(part[self.items] for part in self.base.parts)

    @property
    def nbytes(self) -> int:
        return self.base.nbytes // max(1, self.base.shape[0]) * self.items.size

    def matrices(self) -> tuple[_core.PackedMatrix, ...]:
        """Returns the native matrices of the stack that were selected: nothing is copied."""
        if self.native is None:
            native = self.base.matrices() if self.size else ()
            each = prod(self.base.shape[1:-2])
            self.native = tuple(
                matrix
                for item in self.items.reshape(-1).tolist()
                for matrix in native[item * each : (item + 1) * each]
            )
        return self.native


def take_rows(data: Packed, rows: NDArray[np.int64]) -> tuple[NDArray[Any], ...]:
    """Returns stored arrays with the given rows of each matrix of ``data``.

    rows: ``(..., n)``; the arrays are those of weights ``lead + (..., n, in_features)``.
    """
    lead = data.shape[:-2]
    shape = (*lead, *rows.shape, data.shape[-1])
    packing = data.packing
    lists = np.ascontiguousarray(rows).reshape(prod(rows.shape[:-1]), rows.shape[-1])
    words = [packing.kind.spec.row_bytes]
    words += [_NIBBLES if part.shape[-1] < TILE_ROWS else part.itemsize for part in data.parts[1:]]
    offset = data.zeros.dtype if packing.zero == OFFSET and data.zeros is not None else None
    parts = []
    for part, word, new in zip(
        data.parts, words, packing.parts(shape, data.scales.dtype, offset), strict=True
    ):
        taken = _memory.zeros(new.shape, new.dtype)
        target = taken.reshape(prod(lead), prod(new.shape[len(lead) :]))
        tile_bytes = prod(part.shape[len(lead) + 1 :]) * part.itemsize
        for number, index in enumerate(np.ndindex(lead)):
            stored = _memory.as_bytes(part[index])
            _core.take_rows(stored, tile_bytes, word, lists, target[number].view(np.uint8))
        parts.append(taken)
    return tuple(parts)
