"""What packed weights stand for, and products with them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from binq.reference.formats import FORMATS
from binq.reference.layout import (
    count_groups,
    kernel_group_size,
    unpack,
    unpack_zero_points,
    untile_scales,
)
from binq.reference.scales import is_offset, scale_values

ACTIVATION_LEVELS = {("int8", name): 127 for name in FORMATS} | {
    ("int16", name): row.int16 for name, row in FORMATS.items()
}
"""The largest integer that stands for an activation."""

_SMALLEST_AMAX = np.float32(2.0**-100)
_LARGEST_AMAX = np.float32(2.0**115)


def has_offsets(zero_points: NDArray[Any] | None) -> bool:
    """Returns whether what is stored are offsets: floats, in units of weights."""
    return zero_points is not None and is_offset(zero_points)


def weight_parts(
    packed: NDArray[np.uint8],
    scales: NDArray[Any],
    zero_points: NDArray[Any] | None,
    format: str,
    shape: tuple[int, int],
    group_size: int | None,
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
    """Returns integers c, scales s and offsets m such that weight = s·c + m.

    c is ``(out_features, in_features)``; int4 with zero points: code less zero point. s and m are
    ``(out_features, groups)``, one for each kernel group; m is zero unless offsets, which are
    floats, stand in the place of zero points.
    """
    out_features, in_features = shape
    groups = count_groups(in_features, group_size)

    def of_each_group(values: NDArray[Any]) -> NDArray[Any]:
        return np.repeat(values, groups, axis=1) if group_size is None else values

    symmetric = zero_points is None
    codes = unpack(packed, format, out_features, in_features, symmetric).astype(np.int64)
    s = of_each_group(scale_values(untile_scales(scales, out_features), FORMATS[format].bias))
    m = np.zeros_like(s)
    if zero_points is not None:
        values = of_each_group(unpack_zero_points(zero_points, out_features))
        if has_offsets(zero_points):
            m = scale_values(values)
        else:
            columns = np.arange(in_features) // kernel_group_size(group_size)
            codes -= values[:, columns].astype(np.int64)
    return codes, s, m


def dequantize(
    packed: NDArray[np.uint8],
    scales: NDArray[Any],
    zero_points: NDArray[Any] | None,
    *,
    format: str,
    shape: tuple[int, int],
    group_size: int | None,
) -> NDArray[np.float32]:
    """Returns the weights: s·c, plus m where there are offsets, each step rounded to float32."""
    c, s, m = weight_parts(packed, scales, zero_points, format, shape, group_size)
    columns = np.arange(shape[1]) // kernel_group_size(group_size)
    weights = s[:, columns] * c.astype(np.float32)
    if has_offsets(zero_points):
        weights = weights + m[:, columns]
    return weights


def quantize_activations(
    x: NDArray[np.float32], group_size: int | None, levels: int
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.bool_]]:
    """Returns integers ``(rows, groups, kernel group)``, scales ``(rows, groups)`` and unfit rows.

    In each row and kernel group, with float32 arithmetic: scale = amax / levels and
    integer = rint(x · (levels / amax)). A row is unfit, and its integers and scales are zeros,
    if it has an inf or a NaN, or a group whose amax is 2^115 or more, or below 2^-100 but not 0.
    """
    rows, in_features = x.shape
    size = kernel_group_size(group_size)
    groups = count_groups(in_features, group_size)
    padded = np.zeros((rows, groups * size), np.float32)
    padded[:, :in_features] = x
    grouped = padded.reshape(rows, groups, size)

    amax = np.abs(grouped).max(axis=2, initial=0)
    # NaN is not below any number.
    unfit = (~(amax < _LARGEST_AMAX) | ((amax > 0) & (amax < _SMALLEST_AMAX))).any(axis=1)
    grouped[unfit] = 0
    amax[unfit] = 0

    scales = amax / np.float32(levels)
    inverse = np.zeros_like(amax)
    np.divide(np.float32(levels), amax, out=inverse, where=amax > 0)
    integers = np.rint(grouped * inverse[:, :, np.newaxis]).astype(np.int64)
    return integers, scales, unfit


def matmul(
    x: NDArray[np.float32],
    packed: NDArray[np.uint8],
    scales: NDArray[Any],
    zero_points: NDArray[Any] | None = None,
    *,
    format: str,
    shape: tuple[int, int],
    group_size: int | None,
    activations: str = "int16",
) -> NDArray[np.float32]:
    """Returns x ``(rows, in_features)`` times the transposed weights: ``(rows, out_features)``.

    The integer modes sum c · integer exactly in each kernel group, then add
    float32(sum) · (weight scale · activation scale) to the result, group by group, each operation
    rounded to float32. With offsets also float32(sum of integers) · (m · activation scale) is
    added, after it. Rows that are unfit are :func:`float_products`.

    ``activations="float32"`` is the float64 product, rounded; kernels may sum in another order
    and precision.
    """
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        weights = dequantize(
            packed, scales, zero_points, format=format, shape=shape, group_size=group_size
        )
        if activations == "float32":
            exact = x.astype(np.float64) @ weights.T.astype(np.float64)
            return exact.astype(np.float32)

        levels = ACTIVATION_LEVELS[activations, format]
        c, s, m = weight_parts(packed, scales, zero_points, format, shape, group_size)
        integers, x_scales, unfit = quantize_activations(x, group_size, levels)
        rows, groups, size = integers.shape
        padded = np.zeros((shape[0], groups * size), np.int64)
        padded[:, : shape[1]] = c
        c = padded.reshape(shape[0], groups, size)

        y = np.zeros((rows, shape[0]), np.float32)
        for group in range(groups):
            # Every partial sum is below 2^53: float64 products are exact and use the BLAS.
            sums = integers[:, group].astype(np.float64) @ c[:, group].T.astype(np.float64)
            factors = s[np.newaxis, :, group] * x_scales[:, group, np.newaxis]
            y = y + sums.astype(np.float32) * factors
            if has_offsets(zero_points):
                totals = integers[:, group].sum(axis=1).astype(np.float32)[:, np.newaxis]
                y = y + totals * (m[np.newaxis, :, group] * x_scales[:, group, np.newaxis])
        y[unfit] = float_products(x[unfit], weights)
    return y


def float_products(x: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns x times the transposed weights in float64, rounded once, in a fixed order.

    Product k joins sum k mod 8, one after the other; then the eight sums are added in order.
    """
    columns = -(-x.shape[1] // 8) * 8
    x64 = np.zeros((len(x), 1, columns))
    w64 = np.zeros((1, len(weights), columns))
    x64[:, 0, : x.shape[1]] = x
    w64[0, :, : x.shape[1]] = weights
    sums = np.zeros((len(x), len(weights), 8))
    for k in range(0, columns, 8):
        sums += x64[:, :, k : k + 8] * w64[:, :, k : k + 8]
    total = np.zeros(sums.shape[:2])
    for i in range(8):
        total += sums[:, :, i]
    return total.astype(np.float32)
