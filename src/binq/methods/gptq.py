"""Method "gptq": codes and scales that change little of what a layer makes of its inputs.

Frantar et al. 2022 (arXiv 2210.17323), in the form of Chee et al. 2023 (arXiv 2307.13304), which
needs no inverse; then scales and codes are improved in turns. docs/calibration.md explains it.
"""

from dataclasses import replace
from numbers import Real
from typing import ClassVar

import numpy as np

from binq.array import QuantizedArray
from binq.array.checks import check_int
from binq.array.packed import Packed
from binq.array.packing import Packing
from binq.methods.curvature import MOST_DAMPING, Curvature, curvature_of
from binq.methods.method import Method, Native, Task
from binq.methods.rounding import Rounding
from binq.methods.stored import round_to

# By the bits of a code: fewer bits have larger errors, which lean more on what was measured.
_DAMPING = {1: 0.3, 2: 0.1, 3: 0.05}
_LEAST_DAMPING = 0.03
# Sums of products of larger weights could leave float32.
_LARGEST_WEIGHT = 1e30


class Gptq(Method):
    """Rounds each weight together with the errors of those before it; needs ``stats=``.

    - sweeps: how often, after that, all codes and scales are improved once more
    - damping: what is added to the diagonal of the inputs' moments, as a part of its mean; None:
      0.03, with codes of 3 bits 0.05 and of 2 bits 0.1, and more where few rows were seen
    """

    name = "gptq"
    uses_statistics: ClassVar[bool] = True
    checks_finite: ClassVar[bool] = True

    def __init__(self, sweeps: int = 2, damping: float | None = None) -> None:
        self.sweeps = check_int("sweeps", sweeps, 0, 1000)
        self.damping = None if damping is None else _check_damping(damping)

    def __repr__(self) -> str:
        return f"Gptq(sweeps={self.sweeps}, damping={self.damping})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Gptq) and repr(other) == repr(self)

    def __hash__(self) -> int:
        return hash(repr(self))

    def check(self, packing: Packing) -> None:
        if packing.bits == 1:
            raise ValueError(
                "method must not be 'gptq' for format 'binary': one level more or less is too "
                "coarse a step to make up for other errors, and models come out worse than with "
                "'mse'; use that, or 2 bits"
            )

    def quantize(self, task: Task) -> Packed:
        if task.statistics is None:
            raise ValueError("stats must be given for method 'gptq': binq.Calibrator collects them")
        native = Native(task.packing.kind.methods[0])
        if not task.weights.size:
            return native.quantize(task)
        damping = self.damping
        if damping is None:
            damping = _DAMPING.get(task.packing.bits, _LEAST_DAMPING)
        curvature = curvature_of(task.statistics, task.centred, damping)
        # Raises what the caller acts on: Nonfinite and ScaleRange.
        start = QuantizedArray._of(native.quantize(replace(task, importance=curvature.importance)))
        shape = task.weights.shape
        w = task.weights.astype(np.float32, copy=False).reshape(-1, *shape[-2:])
        largest = float(np.abs(w).max())
        if largest > _LARGEST_WEIGHT:
            raise ValueError(
                f"w must be at most {_LARGEST_WEIGHT:g} for method 'gptq', got {largest:g}"
            )
        found = []
        for index, matrix in enumerate(np.ndindex(shape[:-2])):
            rounding = Rounding(w[index], start[matrix] if matrix else start)
            self._improve(rounding, curvature)
            found.append(rounding)
        codes = np.stack([rounding.codes for rounding in found]).reshape(shape)
        lead = shape[:-1]
        scales = np.stack([rounding.scales for rounding in found]).reshape(*lead, -1)
        offsets = [rounding.zeros for rounding in found if rounding.zeros is not None]
        zeros = np.stack(offsets).reshape(*lead, -1) if offsets else None
        return Packed.of_codes(
            task.packing,
            codes,
            round_to(scales.astype(np.float64), task.scale_dtype, task.packing.kind.bias),
            zeros,
        )

    def _improve(self, rounding: Rounding, curvature: Curvature) -> None:
        began = rounding.costs(curvature)
        first = rounding.index.copy()
        worse = rounding.feed_back(curvature) > began
        # Feedback is best on the whole, not in every row.
        rounding.index[worse] = first[worse]
        for _ in range(self.sweeps):
            if not rounding.sweep(curvature):
                break


def _check_damping(damping: float) -> float:
    if isinstance(damping, bool) or not isinstance(damping, Real):
        raise TypeError(f"damping must be a number or None, got {damping!r}")
    if not 0 <= damping <= MOST_DAMPING:
        raise ValueError(f"damping must be from 0 to {MOST_DAMPING:g}, or None, got {damping!r}")
    return float(damping)
