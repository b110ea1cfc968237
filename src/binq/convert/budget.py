"""Formats and group sizes of all tensors for a given size: the least error that it can have."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import gcd

import numpy as np
from numpy.typing import NDArray

from binq.array import QuantizedArray
from binq.array.packing import Packing
from binq.formats import FORMATS
from binq.formats.scales import FLOAT16
from binq.methods import METHODS, Task
from binq.methods.measure import tile_errors
from binq.methods.quantize import check_weights, quantize_task, with_zeros

GROUPS = (32, 64, 128)
# Binary and ternary weights of a model that was not trained for them are worth less than their
# bits; int2 holds all that ternary does, and iq4nl is better than mxfp4 in fewer bits.
NEVER = ("binary", "ternary", "mxfp4")
# Rows of a tensor that are tried, in whole tiles.
TRIED_TILES = 4
TILE = 32
# Sizes are told apart to this part of the budget.
_RESOLUTION = 1 << 16

Read = Callable[[int, int, int], NDArray[np.float32]]


@dataclass(frozen=True)
class Option:
    """One way to pack a tensor: its bytes, and its error as a part of the weights' squares."""

    packing: Packing
    nbytes: int
    error: float


def candidates(columns: int) -> list[Packing]:
    """Returns the packings that rows of that length may get, each once."""
    kinds = (name for name in FORMATS if name not in NEVER)
    found = [Packing(name, size).fitted(columns) for name in kinds for size in GROUPS]
    return list(dict.fromkeys(found))


def options_of(
    shape: tuple[int, ...], read: Read, importance: NDArray[np.float32] | None
) -> list[Option]:
    """Returns what each packing makes of a tensor, tried on a few of its rows.

    - shape: that of the tensor
    - read: returns rows of a matrix from start to stop
    - importance: of the inputs, where it is known

    Of options of the same or less error, only the smallest is left.
    """
    rows, columns = shape[-2:]
    matrices = int(np.prod(shape[:-2], dtype=np.int64))
    tiles = -(-rows // TILE) * matrices
    places = np.unique(np.linspace(0, tiles - 1, min(TRIED_TILES, tiles)).astype(int))
    blocks = []
    for place in places.tolist():
        matrix, tile = divmod(place, -(-rows // TILE))
        values = read(matrix, tile * TILE, min(rows, (tile + 1) * TILE))
        blocks.append(with_zeros(check_weights(values)))
    found = []
    for packing in candidates(columns):
        signal = noise = 0.0
        for values in blocks:
            task = Task(values, packing, FLOAT16, importance)
            packed, _ = quantize_task(task, METHODS["mse"])
            if importance is None:
                power, loss = tile_errors(values, packed)[:, :2].sum(axis=0).tolist()
                signal, noise = signal + power, noise + loss
            else:
                exact = values.astype(np.float64)
                errors = exact - QuantizedArray._of(packed).dequantize()
                signal += float((exact * exact @ importance).sum())
                noise += float((errors * errors @ importance).sum())
        error = float(noise / signal) if signal > 0 else 0.0
        found.append(Option(packing, packing.nbytes(shape, FLOAT16), error))
    found.sort(key=lambda option: (option.nbytes, option.error))
    best: list[Option] = []
    for option in found:
        if not best or option.error < best[-1].error:
            best.append(option)
    return best


def choose(options: Sequence[Sequence[Option]], budget: int) -> list[Option]:
    """Returns one option of each tensor, of the least sum of errors within a budget of bytes.

    Each tensor counts alike, whatever its size: to first order, what a model loses is a sum over
    layers of their relative errors (Malinovskii et al. 2024, arXiv 2411.17525). Solved by dynamic
    programming over the bytes that are left. Raises ValueError for a budget that nothing meets.
    """
    least = sum(min(option.nbytes for option in each) for each in options)
    if budget < least:
        raise ValueError(f"the smallest that can be is {least} bytes, more than {budget}")
    # What is above the smallest, in units that all sizes are multiples of, if that is fine enough.
    most = sum(max(option.nbytes for option in each) for each in options) - least
    room = min(budget - least, most)
    steps = {o.nbytes - min(p.nbytes for p in each) for each in options for o in each}
    unit = max(gcd(*steps), -(-room // _RESOLUTION), 1)
    cells = room // unit + 1
    losses = np.zeros(cells)
    taken = []
    for each in options:
        base = min(option.nbytes for option in each)
        best, which = np.full(cells, np.inf), np.zeros(cells, np.uint8)
        for number, option in enumerate(each):
            shift = -(-(option.nbytes - base) // unit)
            if shift >= cells:
                continue
            tried = np.full(cells, np.inf)
            tried[shift:] = losses[: cells - shift] + option.error
            better = tried < best
            best[better], which[better] = tried[better], number
        losses = best
        taken.append(which)
    chosen = []
    at = cells - 1
    for each, which in zip(reversed(options), reversed(taken), strict=True):
        option = each[int(which[at])]
        at -= -(-(option.nbytes - min(o.nbytes for o in each)) // unit)
        chosen.append(option)
    return chosen[::-1]
