"""Formats and group sizes of all tensors for a given size: the least error that it can have."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binq.array import QuantizedArray
from binq.array.packing import Packing
from binq.formats import FORMATS
from binq.formats.scales import FLOAT16
from binq.methods import METHODS, Method, Moments, Task
from binq.methods.method import Native
from binq.methods.quantize import check_weights, quantize_task, with_zeros

GROUPS = (32, 64, 128)
# Binary and ternary weights of a model that was not trained for them are worth less than their
# bits; int2 holds all that ternary does, and iq4nl is better than mxfp4 in fewer bits.
NEVER = ("binary", "ternary", "mxfp4")
# Queries, keys and outputs of attention, by the names that Hugging Face's models and BERT have.
_FELT_LESS = re.compile(
    r"\b(q_proj|k_proj|o_proj|out_proj|wq|wk|wo|query|key|attention\.output\.dense)\b"
)
# What sensitivities are measured with: errors that show, and that do not add up to noise.
MEASURED = Packing("int3", 64)
# Rows of a tensor that are tried, in whole tiles.
TRIED_TILES = 4
TILE = 32
# Of int3: below that errors are roundings.
_LEAST_ERROR = 1e-9
# Sizes are told apart to this part of the budget.
_RESOLUTION = 1 << 16

Read = Callable[[int, int, int], NDArray[np.float32]]


@dataclass(frozen=True)
class Option:
    """One way to pack a tensor: its bytes, and what it costs the model.

    - error: a part of the squares of what the layer gives, or of its weights
    - weight: what an error of 1 in that tensor costs
    """

    packing: Packing
    nbytes: int
    error: float
    weight: float = 1.0

    @property
    def loss(self) -> float:
        """Returns what the choice costs the model."""
        return self.weight * self.error


@dataclass(frozen=True)
class Trial:
    """How the packings of one tensor are tried.

    - shape: that of the tensor
    - read: returns rows of a matrix from start to stop
    - method: what quantizes it in the end
    - importance: returns that of a matrix's inputs; None: not known
    - statistics: the moments of its inputs, for a method that uses them; None: not known
    - centred: whether a bias takes over what the mean of the inputs costs
    - sensitivity: what the model loses with this tensor alone packed as ``MEASURED``; None: not
      known, :func:`guess` says it
    - name: of the tensor
    """

    shape: tuple[int, ...]
    read: Read
    method: Method = METHODS["mse"]
    importance: Callable[[int], NDArray[np.float32]] | None = None
    statistics: Moments | None = None
    centred: bool = False
    sensitivity: float | None = None
    name: str = ""


def guess(name: str, error: float) -> float:
    """Returns what the model loses with a tensor alone packed as ``MEASURED``, if nobody knows.

    The root of its relative error: what the model minds more tends to be off by less, so that the
    error itself says too much. A third of it for queries, keys and outputs of attention, whose
    errors a softmax takes or has averaged: measured on a model (docs/quality.md), they cost a
    fifth to a third of what the same part of others' power costs.
    """
    return (1 / 3 if _FELT_LESS.search(name) else 1.0) * math.sqrt(error)


def candidates(columns: int) -> list[Packing]:
    """Returns the packings that rows of that length may get, each once, by their bits."""
    kinds = sorted((name for name in FORMATS if name not in NEVER), key=lambda n: FORMATS[n].bits)
    found = [Packing(name, size).fitted(columns) for name in kinds for size in GROUPS]
    return list(dict.fromkeys(found))


def options_of(trial: Trial) -> list[Option]:
    """Returns what each packing makes of a tensor, tried on a few of its rows.

    An error is that of the method which quantizes in the end: of what the layer gives, E·H·Eᵀ over
    W·H·Wᵀ, where the moments of its inputs are known, H being these with no input larger than
    most; else of its weights, those of each input by its importance. Of options of the same or less
    error, only the smallest is left.
    """
    rows, columns = trial.shape[-2:]
    matrices = int(np.prod(trial.shape[:-2], dtype=np.int64))
    tiles = -(-rows // TILE) * matrices
    places = np.unique(np.linspace(0, tiles - 1, min(TRIED_TILES, tiles)).astype(int))
    # All rows of a matrix together: the moments are factored once.
    blocks: dict[int, list[NDArray[Any]]] = {}
    for place in places.tolist():
        matrix, tile = divmod(place, -(-rows // TILE))
        values = trial.read(matrix, tile * TILE, min(rows, (tile + 1) * TILE))
        blocks.setdefault(matrix, []).append(with_zeros(check_weights(values)))
    parts = [_Part(trial, matrix, np.concatenate(some)) for matrix, some in blocks.items()]
    signal = sum(part.signal for part in parts)

    def error_of(packing: Packing) -> float:
        return sum(part.noise(packing) for part in parts) / signal if signal > 0 else 0.0

    forms = [packing for packing in candidates(columns) if _has(trial.method, packing)]
    if not forms:
        raise ValueError(
            f"method {str(trial.method)!r} has none of the forms that a target chooses among"
        )
    errors = {packing: error_of(packing) for packing in forms}
    # A method of a user's own may have no int3; and what is exact in int3 is not in fewer bits.
    measured = max(errors.get(MEASURED.fitted(columns), max(errors.values())), _LEAST_ERROR)
    sensitivity = trial.sensitivity
    if sensitivity is None:
        sensitivity = guess(trial.name, measured)
    weight = sensitivity / measured
    found = [
        Option(packing, packing.nbytes(trial.shape, FLOAT16), error, weight)
        for packing, error in errors.items()
    ]
    found.sort(key=lambda option: (option.nbytes, option.error))
    best: list[Option] = []
    for option in found:
        if not best or option.error < best[-1].error:
            best.append(option)
    return best


def _has(method: Method, packing: Packing) -> bool:
    """Returns whether a method can make that packing."""
    try:
        method_for(method, packing).check(packing)
    except ValueError:
        return False
    return True


class _Part:
    """Rows of one matrix, and what errors of theirs cost."""

    def __init__(self, trial: Trial, matrix: int, values: NDArray[Any]) -> None:
        self._values = values
        self._method = trial.method
        self._statistics, self._centred = trial.statistics, trial.centred
        self._importance = None
        self._squares: NDArray[np.float32] | None = None
        moments = trial.statistics
        if moments is not None:
            self._squares = _levelled(
                moments.covariance.astype(np.float64) if trial.centred else moments.second_moment()
            ).astype(np.float32)
        elif trial.importance is not None:
            self._importance = trial.importance(matrix)
        self.signal = self._cost(values.astype(np.float64))

    def noise(self, packing: Packing) -> float:
        """Returns what is lost of the signal."""
        method = method_for(self._method, packing)
        task = Task(
            self._values, packing, FLOAT16, self._importance, self._statistics, self._centred
        )
        packed, _ = quantize_task(task, method)
        return self._cost(self._values - QuantizedArray._of(packed).dequantize(np.float64))

    def _cost(self, errors: NDArray[np.float64]) -> float:
        if self._squares is not None:
            small = errors.astype(np.float32)
            return float(np.einsum("ij,ij->", small @ self._squares, small, dtype=np.float64))
        if self._importance is not None:
            return float((errors * errors @ self._importance).sum())
        return float(np.square(errors).sum())


def _levelled(squares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns moments of inputs none of which has more than the median of their mean squares.

    A few inputs of some layers are huge, for a token or two of each text. An error beside all that
    power seems to be nothing, and to the other tokens it is not.
    """
    diagonal = squares.diagonal()
    seen = diagonal[diagonal > 0]
    if not seen.size:
        return squares
    factors = np.sqrt(np.median(seen) / np.maximum(diagonal, np.median(seen)))
    return squares * factors * factors[:, None]


def method_for(method: Method, packing: Packing) -> Method:
    """Returns the method, or the default one of a format that does not have it."""
    if isinstance(method, Native) and method.name not in packing.kind.methods:
        return METHODS[packing.kind.methods[0]]
    return method


def choose(options: Sequence[Sequence[Option]], budget: int) -> list[Option]:
    """Returns one option of each tensor, of the least sum of losses within a budget of bytes.

    To first order, what a model loses is a sum over layers of their relative errors, each times a
    weight of the layer's own (Malinovskii et al. 2024, arXiv 2411.17525). Solved by dynamic
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
            tried[shift:] = losses[: cells - shift] + option.loss
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
