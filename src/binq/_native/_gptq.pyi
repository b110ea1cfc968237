"""Types of the loops of method "gptq"; its callers have checked every argument."""

import numpy as np
from numpy.typing import NDArray

class Levels:
    def __init__(self, levels: NDArray[np.float32]) -> None: ...
    def feed_back(
        self,
        x: NDArray[np.float32],
        w: NDArray[np.float32],
        unit: NDArray[np.float32],
        scales: NDArray[np.float32],
        bases: NDArray[np.float32],
        group: NDArray[np.int32],
        index: NDArray[np.uint8],
        error: NDArray[np.float32],
    ) -> None: ...
    def descend(
        self,
        gradient: NDArray[np.float32],
        values: NDArray[np.float32],
        hessian: NDArray[np.float32],
        scales: NDArray[np.float32],
        bases: NDArray[np.float32],
        group: NDArray[np.int32],
        index: NDArray[np.uint8],
        changed: NDArray[np.intp],
    ) -> None: ...
