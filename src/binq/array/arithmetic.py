"""Packed weights times numbers: ``-q``, ``2 * q``, ``q * row_scales``. Only scales change."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from binq.array.checks import as_float32
from binq.array.packed import Packed
from binq.formats import tile_rows, untile_rows
from binq.formats.scales import FLOAT32, fits_scale, scale_values, stored_scales
from binq.formats.zeros import OFFSET


def negative(data: Packed) -> Packed:
    """Returns ``-w``, exactly."""
    return _with_scales(data, lambda values: np.float32(0) - values)


def scaled(data: Packed, factors: Any, name: str, divide: bool = False) -> Packed:
    """Returns ``w * factors``, or ``w / factors``.

    Scales that their type does not hold exactly become float32, rounded once.

    - factors: a number, or one for each row: an array that broadcasts to ``(..., out_features, 1)``
    - name: what the errors call it

    Raises TypeError for what is not a real number, ValueError for factors that differ within a row
    or make weights of another shape, and for products that float32 does not hold.
    """
    array = as_float32(name, factors)
    rows = (*data.shape[:-1], 1)
    single = array.size == 1 and array.ndim <= len(rows)
    if not single and (array.ndim < 2 or array.shape[-1] != 1):
        raise ValueError(
            f"{name} must be a number or have shape {rows}, one factor for each row (columns share "
            f"scales), got {array.shape}"
        )
    try:
        each = np.broadcast_to(array, rows)
    except ValueError:
        raise ValueError(
            f"{name} must be a number or have shape {rows}, got {array.shape}"
        ) from None

    def change(values: NDArray[np.float32]) -> NDArray[np.float32]:
        with np.errstate(all="ignore"):
            divisors = np.where(each == 0, np.float32(1), each)
            result: NDArray[Any] = values / divisors if divide else values * each
        lost = ~np.isfinite(result) | ((result == 0) & (values != 0) & (each != 0))
        if lost.any() or (divide and not array.all()):
            what = "quotients" if divide else "products"
            raise ValueError(f"{name} must leave {what} with the scales that float32 holds")
        changed: NDArray[np.float32] = result + np.float32(0)  # never -0
        return changed

    return _with_scales(data, change)


def _with_scales(data: Packed, change: Any) -> Packed:
    """Returns weights whose scales, and offsets where they have them, are changed."""

    def of_rows(stored: NDArray[Any]) -> NDArray[Any]:
        bias = data.packing.kind.bias
        values = change(scale_values(untile_rows(stored, data.geometry), bias))
        dtype = stored.dtype if fits_scale(values, stored.dtype, bias) else FLOAT32
        return tile_rows(stored_scales(values, dtype, bias), data.geometry)

    scales, zeros = of_rows(data.scales), data.zeros
    if zeros is not None and data.packing.zero == OFFSET:
        zeros = of_rows(zeros)
        if "zero_points" in data.packing.part_names() and zeros.dtype != scales.dtype:
            # Binary weights have offsets of the scales' type.
            scales, zeros = scale_values(scales), scale_values(zeros)
    return Packed(data.packing, data.shape, data.packed, scales, zeros)
