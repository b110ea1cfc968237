"""Packed weights times numbers: ``-q``, ``2 * q``, ``q * row_scales``. Only scales change."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from binq.array.checks import as_float32
from binq.array.packed import Packed
from binq.formats import tile_rows
from binq.formats.scales import FLOAT32, fits_scale, scale_values
from binq.formats.zeros import OFFSET


def negative(data: Packed) -> Packed:
    """Returns ``-w``, exactly."""
    return _with_scales(data, lambda values: 0 - scale_values(values))


def scaled(data: Packed, factors: Any, name: str, divide: bool = False) -> Packed:
    """Returns ``w * factors``, or ``w / factors``.

    Scales that their type does not hold exactly become float32, rounded once.

    - factors: a number, or one for each row: an array that broadcasts to ``(..., out_features, 1)``
    - name: what the errors call it

    Raises TypeError for what is no real number, ValueError for factors that differ within a row or
    make weights of another shape, and for products that float32 does not hold.
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
    if array.ndim == 0:
        factor: NDArray[np.float32] = array
    else:
        # As the scales are stored: (..., tiles, 1, 32).
        factor = tile_rows(np.ascontiguousarray(each), data.geometry)

    def change(values: NDArray[Any]) -> NDArray[Any]:
        wide = scale_values(values)
        with np.errstate(all="ignore"):
            result = wide / np.where(factor == 0, 1, factor) if divide else wide * factor
        lost = ~np.isfinite(result) | ((result == 0) & (wide != 0) & (factor != 0))
        if lost.any() or (divide and not array.all()):
            what = "quotients" if divide else "products"
            raise ValueError(f"{name} must leave {what} with the scales that float32 holds")
        # Padding stays zero bits.
        return result + np.float32(0)

    return _with_scales(data, change)


def _with_scales(data: Packed, change: Any) -> Packed:
    """Returns weights whose scales, and offsets where they have them, are changed."""
    scales = _narrow(change(data.scales), data.scales.dtype)
    zeros = data.zeros
    if zeros is not None and data.packing.zero == OFFSET:
        zeros = _narrow(change(zeros), zeros.dtype)
        if "zero_points" in data.packing.part_names() and zeros.dtype != scales.dtype:
            # Binary weights have offsets of the scales' type.
            scales, zeros = scales.astype(FLOAT32), zeros.astype(FLOAT32)
    return Packed(data.packing, data.shape, data.packed, scales, zeros)


def _narrow(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Returns values in the type that they had where that holds them, else as float32."""
    values = scale_values(values)
    return values.astype(dtype) if fits_scale(values, dtype) else values
