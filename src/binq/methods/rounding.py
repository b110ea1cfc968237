"""A matrix on its way to codes: what each choice costs, and better choices, block by block."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from binq._native._gptq import Levels
from binq.array import QuantizedArray
from binq.formats.scales import E8M0, scale_name, scale_values
from binq.formats.zeros import CODE, OFFSET
from binq.methods.curvature import Curvature
from binq.methods.stored import LARGEST_LEVEL, SMALLEST_SCALE, each_weight, round_to, row_blocks

Floats = NDArray[np.float32]

# Columns that are rounded one by one before their errors reach all later columns at once.
_BLOCK = 128
# Columns whose costs are summed at a time.
_PANEL = 512


class Rounding:
    """Float weights ``(out_features, in_features)`` and the codes and scales chosen for them.

    - index: which level each weight has; scales, zeros: of the groups, as floats

    The errors E = w − values cost diag(E·H·Eᵀ), a number a row. Rows are independent, and sums have
    the same order for any number of threads.
    """

    def __init__(self, w: Floats, start: QuantizedArray) -> None:
        self._w = w
        packing = self._packing = start._data.packing
        self._dtype = start.scales.dtype
        self.scales: Floats = np.array(start.group_scales(), np.float32, order="C")
        zeros = start.group_zero_points()
        self.zeros = None if zeros is None else np.array(zeros, order="C")
        self._size = packing.group_size or w.shape[1]
        codes = packing.kind.codes(packing.zero)
        self._first = codes[0]
        table = np.asarray(codes, np.int16)
        self._codes = table
        self._table: Floats = table.astype(np.float32)
        self._levels = Levels(self._table)
        self._group = (np.arange(w.shape[1]) // self._size).astype(np.int32)
        places = np.zeros(256, np.uint8)
        places[table.astype(np.uint8)] = np.arange(len(table), dtype=np.uint8)
        self.index: NDArray[np.uint8] = places[start.codes().view(np.uint8)]

    @property
    def codes(self) -> NDArray[np.int8]:
        """Returns the codes of the format, those above 127 less 256."""
        return self._codes[self.index].astype(np.int8)

    def values(self) -> Floats:
        """Returns the weights that codes and scales stand for."""
        columns, bases = self._w.shape[1], self._bases()
        values = np.empty_like(self._w)
        for rows in row_blocks(values):
            part = self._table[self.index[rows]]
            part *= each_weight(self.scales[rows], self._packing, columns)
            part += each_weight(bases[rows], self._packing, columns)
            values[rows] = part
        return values

    def costs(self, curvature: Curvature) -> NDArray[np.float64]:
        """Returns diag(E·H·Eᵀ) of the choices as they are, summed as :meth:`feed_back` does."""
        errors = self._w - self.values()
        errors = np.take(errors, curvature.order, axis=1)
        costs = np.zeros(len(errors))
        for first in range(0, errors.shape[1], _PANEL):
            end = min(first + _PANEL, errors.shape[1])
            # Nothing of U lies below its diagonal.
            left = errors[:, :end] @ curvature.unit[:end, first:end]
            costs += np.square(left, dtype=np.float64) @ curvature.pivots[first:end]
        return costs

    def feed_back(self, curvature: Curvature) -> NDArray[np.float64]:
        """Rounds all weights anew, each with what the errors before it ask of it; returns costs.

        With H = U·D·Uᵀ a row costs the sum over columns of D·(E·U)², and U has ones on its diagonal
        and nothing below: the weight of column k is rounded together with the sum of E·U before k.
        """
        w = np.take(self._w, curvature.order, axis=1)
        group, bases = self._group[curvature.order], self._bases()
        errors, index = np.empty_like(w), np.empty(w.shape, np.uint8)
        costs = np.zeros(len(w))
        for first in range(0, w.shape[1], _BLOCK):
            block = slice(first, min(first + _BLOCK, w.shape[1]))
            part = np.ascontiguousarray(w[:, block])
            left = part + errors[:, :first] @ curvature.unit[:first, block]
            chosen, error = np.empty(part.shape, np.uint8), np.empty_like(part)
            unit = np.ascontiguousarray(curvature.unit[block, block])
            self._levels.feed_back(
                left, part, unit, self.scales, bases, group[block], chosen, error
            )
            errors[:, block], index[:, block] = error, chosen
            costs += np.square(left, dtype=np.float64) @ curvature.pivots[block]
        self.index = np.take(index, np.argsort(curvature.order), axis=1)
        return costs

    def sweep(self, curvature: Curvature) -> int:
        """Improves scales and codes group by group, all else staying; returns codes that changed.

        No step makes a row cost more. Where the matrix G = E·H of the group's columns is known, its
        best scale moves by sum(G·T) / sum(T·H·T), T being what the scale is multiplied by, and the
        best value of a weight by G / H of its column.
        """
        values = self.values()
        errors = self._w - values
        changed = np.zeros(len(values), np.intp)
        total = 0
        for number in range(self.scales.shape[1]):
            block = slice(number * self._size, min((number + 1) * self._size, values.shape[1]))
            gradient: Floats = (errors @ curvature.matrix[:, block]).astype(np.float32, copy=False)
            hessian = np.ascontiguousarray(curvature.matrix[block, block])
            part = np.ascontiguousarray(values[:, block])
            index = np.ascontiguousarray(self.index[:, block])
            self._refit(number, part, index, gradient, hessian)
            self._levels.descend(
                gradient,
                part,
                hessian,
                np.ascontiguousarray(self.scales[:, [number]]),
                np.ascontiguousarray(self._bases()[:, [number]]),
                np.zeros(part.shape[1], np.int32),
                index,
                changed,
            )
            self._refit(number, part, index, gradient, hessian)
            self.index[:, block], values[:, block] = index, part
            np.subtract(self._w[:, block], part, out=errors[:, block])
            total += int(changed.sum())
        return total

    def _bases(self) -> Floats:
        """Returns what is added to scale · level."""
        if self.zeros is None:
            return np.zeros_like(self.scales)
        zeros: Floats = self.zeros.astype(np.float32)
        return zeros if self._packing.zero == OFFSET else -self.scales * zeros

    def _refit(
        self,
        number: int,
        values: Floats,
        index: NDArray[np.uint8],
        gradient: Floats,
        hessian: Floats,
    ) -> None:
        """Moves the scale of a group, and its offset if it has one, to the best that can be stored.

        Changes values and gradient with them.
        """
        steps = self._table[index]
        if self.zeros is not None and self._packing.zero == CODE:
            steps -= self.zeros[:, number, None].astype(np.float32)
        self._move(self.scales, number, steps, values, gradient, hessian)
        if self.zeros is not None and self._packing.zero == OFFSET:
            ones = np.ones_like(steps)
            self._move(self.zeros, number, ones, values, gradient, hessian)

    def _move(
        self,
        parameters: NDArray[Any],
        number: int,
        steps: Floats,
        values: Floats,
        gradient: Floats,
        hessian: Floats,
    ) -> None:
        spread = steps @ hessian
        slope = np.einsum("ij,ij->i", gradient, steps, dtype=np.float64)
        bend = np.einsum("ij,ij->i", spread, steps, dtype=np.float64)
        bias = self._packing.kind.bias
        old = parameters[:, number].astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            wanted = old + slope / bend
            new = scale_values(round_to(wanted, self._dtype, bias), bias).astype(np.float64)
            move = new - old
            better = move * (move * bend - 2.0 * slope) < 0
        if parameters is self.scales:
            least = SMALLEST_SCALE[scale_name(self._dtype)]
            most = LARGEST_LEVEL / max(1.0, float(np.abs(self._table).max()))
            if self._dtype == E8M0:
                # A step along which the error falls may lead to no power of two but the same.
                better &= wanted > 0
            better &= (np.abs(new) >= least) & (np.abs(new) <= most) & (old != 0) & (new != 0)
        move = np.where(better & np.isfinite(move), move, 0.0)
        parameters[:, number] = old + move
        column = move[:, None].astype(np.float32)
        gradient -= column * spread
        values += column * steps
