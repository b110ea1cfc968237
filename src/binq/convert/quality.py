"""How near packed weights are to what they were, in numbers and in words.

The signal-to-quantization-noise ratio of a tensor is ``10·log10(Σw² / Σ(w − ŵ)²)``. A product
``x @ ŵ.T`` with random x is off by about ``10**(−SQNR / 20)`` of its norm.
"""

import math
from collections.abc import Sequence

from binq.convert.tensor_report import TensorReport

# From so many dB on; int4 has 20, ternary 7, binary 4 dB where weights are Gaussian.
_RATINGS = ((30.0, "excellent"), (16.0, "good"), (12.0, "fair"), (-math.inf, "poor"))
_SCALE = "30 dB and more is excellent, 16 good, 12 fair, less poor"
_MEANING = {
    "excellent": "a model hardly changes",
    "good": "a model stays nearly as good as it was",
    "fair": "a large model may bear it: measure yours",
    "poor": "only a model that was trained with such weights bears it",
}


class Quality:
    """The SQNR of the packed tensors of a report, in dB; infinity where nothing was lost.

    - total: of all weights together, None where nothing was measured
    - mean: of the tensors that lost something, None where none did
    - worst: the tensor with the lowest, None where none lost anything
    """

    def __init__(self, tensors: Sequence[TensorReport]) -> None:
        measured = [t for t in tensors if not t.kept and t.sqnr_db is not None]
        lossy = [t for t in measured if t.sqnr_db != math.inf]
        self.exact = len(measured) - len(lossy)
        self.total = _total(measured) if measured else None
        decibels = [_decibels(t) for t in lossy]
        self.mean = sum(decibels) / len(decibels) if decibels else None
        self.worst = min(lossy, key=_decibels, default=None)

    @property
    def rating(self) -> str:
        """Returns ``"excellent"``, ``"good"``, ``"fair"`` or ``"poor"``; "" for no number."""
        if self.total is None:
            return ""
        return next(word for least, word in _RATINGS if self.total >= least)

    def lines(self) -> list[str]:
        """Returns what a user should know, in lines of at most 80 columns but for long names."""
        if self.total is None:
            return []
        if self.worst is None or self.mean is None:
            return [f"packed weights: {self.exact} tensors, all exact: nothing was lost"]
        error = f"{100 * _error(self.total):.2g}%"
        lines = [
            f"SQNR of packed weights: {self.total:.2f} dB in all, mean {self.mean:.2f}, worst "
            f"{_decibels(self.worst):.2f}",
            f"  worst: {self.worst.name}",
            f"  {self.rating}: products are off by about {error} of their norm,",
            f"  {_MEANING[self.rating]}",
            f"  ({_SCALE})",
        ]
        if self.exact:
            lines.insert(2, f"  {self.exact} more tensors are exact")
        return lines

    def to_dict(self) -> dict[str, object]:
        """Returns the numbers by name, as JSON documents have them."""
        return {
            "total_db": self.total,
            "mean_db": self.mean,
            "worst_db": None if self.worst is None else self.worst.sqnr_db,
            "worst": None if self.worst is None else self.worst.name,
            "exact": self.exact,
            "rating": self.rating,
        }


def _decibels(tensor: TensorReport) -> float:
    return math.inf if tensor.sqnr_db is None else tensor.sqnr_db


def _error(decibels: float) -> float:
    """Returns the relative error that an SQNR stands for."""
    return float(10 ** (-decibels / 20))


def _total(tensors: Sequence[TensorReport]) -> float:
    """Returns the SQNR of all weights together."""
    signal = noise = 0.0
    for tensor in tensors:
        # A report of an older run does not say it: all its weights count alike.
        energy = math.prod(tensor.shape) if tensor.signal is None else tensor.signal
        signal += energy
        noise += energy * _error(_decibels(tensor)) ** 2
    if not noise or not signal:
        return math.inf
    ratio = signal / noise  # 0 where the noise is beyond all floats
    return 10 * math.log10(ratio) if ratio > 0 else -math.inf
