"""Types of the exact weighted search for scales; its callers have checked every argument."""

import numpy as np
from numpy.typing import NDArray

def best_level_scales(
    w: NDArray[np.float32],
    importance: NDArray[np.float32],
    group_size: int,
    tables: NDArray[np.float64],
    scale_type: int,
    scales: NDArray[np.float64],
    numbers: NDArray[np.int16],
) -> None: ...
def best_scales(
    w: NDArray[np.float32],
    importance: NDArray[np.float32],
    group_size: int,
    ranges: NDArray[np.int32],
    span: int,
    scale_type: int,
    scales: NDArray[np.float64],
    lows: NDArray[np.int16],
) -> None: ...
