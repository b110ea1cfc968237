"""What is stored of scales found in float64, and the codes of the levels nearest to weights.

The rules are those of :mod:`binq.reference.quantizers`, for all groups of a matrix at once.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binq.array.packing import Packing
from binq.formats.scales import E8M0, FLOAT32, is_bfloat16, nearest_powers, scale_name, scale_values
from binq.formats.zeros import CODE, NONE, OFFSET
from binq.methods.signals import ScaleRange

# A smaller scale has fewer than 5 significant bits in float16, fewer than 8 in bfloat16.
SMALLEST_SCALE = {"float16": 2.0**-19, "bfloat16": 2.0**-126, "float32": 0.0, "e8m0": 0.0}
LARGEST_LEVEL = 3.4e38
# Weights that are worked on at a time.
_BLOCK = 1 << 16

Floats = NDArray[np.float64]


def each_weight(values: NDArray[Any], packing: Packing, columns: int) -> NDArray[Any]:
    """Returns values of groups ``(rows, groups)`` as values of weights ``(rows, columns)``."""
    if packing.group_size is None:
        return np.broadcast_to(values, (len(values), columns))
    return np.repeat(values, packing.group_size, axis=1)[:, :columns]


def row_blocks(w: NDArray[Any]) -> Iterator[slice]:
    """Yields slices of rows, few enough to stay in the processor's caches."""
    count = max(1, _BLOCK // max(1, w.shape[1]))
    for start in range(0, len(w), count):
        yield slice(start, start + count)


def group_starts(packing: Packing, columns: int) -> NDArray[np.intp]:
    """Returns the first column of each group."""
    return np.arange(0, columns, packing.group_size or columns)


def lane_sums(values: Floats) -> Floats:
    """Returns sums along the last axis in binq.reference's order: eight running sums, folded."""
    eights = -(-values.shape[-1] // 8)
    padded = np.zeros((*values.shape[:-1], eights * 8))
    padded[..., : values.shape[-1]] = values
    lanes = np.add.accumulate(padded.reshape(*values.shape[:-1], eights, 8), axis=-2)[..., -1, :]
    for half in (4, 2, 1):
        lanes = lanes[..., :half] + lanes[..., half:]
    total: Floats = lanes[..., 0]
    return total


def round_to(values: Floats, dtype: np.dtype[Any], bias: int = 127) -> NDArray[Any]:
    """Returns float64 values as the nearest of a type of scales, halves to even; inf beyond.

    e8m0: :func:`binq.formats.scales.nearest_powers`.
    """
    if dtype == E8M0:
        return nearest_powers(values, bias)
    with np.errstate(over="ignore", under="ignore"):
        if not is_bfloat16(dtype):
            return values.astype(dtype)
        # One rounding: through float32 there would be two.
        fraction, exponent = np.frexp(values)
        exact = np.ldexp(np.rint(np.ldexp(fraction, 8)), exponent - 8)
        rounded: NDArray[Any] = exact.astype(np.float32).astype(dtype)
        return rounded


def stored_scales(
    scales: Floats,
    zeros: Floats | None,
    used: NDArray[np.bool_],
    packing: Packing,
    dtype: np.dtype[Any],
) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Returns scales and zero points or offsets of groups ``(rows, groups)`` as they are stored.

    used: groups with a weight that is not 0; the others get 0.
    Raises ScaleRange where the dtype does not hold what a used group needs.
    """
    offset = packing.zero == OFFSET
    middle = zeros if zeros is not None and offset else np.zeros_like(scales)
    middle = np.clip(middle, -LARGEST_LEVEL, LARGEST_LEVEL)
    largest = (LARGEST_LEVEL - np.abs(middle)) / packing.kind.spec.largest
    if dtype == FLOAT32:
        scales = np.clip(scales, -largest, largest)
    bias = packing.kind.bias
    rounded, rounded_middle = round_to(scales, dtype, bias), round_to(middle, dtype, bias)
    values = np.abs(scale_values(rounded, bias))
    middles = np.abs(scale_values(rounded_middle, bias)) if offset else np.zeros_like(values)
    # An offset may be small, or 0, beside its scale; alone it must be accurate.
    judged = np.where((scales != 0) | (not offset), values, middles)
    fits = (judged >= SMALLEST_SCALE[scale_name(dtype)]) & (middles <= LARGEST_LEVEL)
    if dtype != FLOAT32:
        fits &= values <= largest
    if dtype == E8M0:
        # Else the nearest power is beyond the type.
        fits &= (values <= 1.5 * scales) & (scales <= 1.5 * values)
    if (used & ~fits).any():
        raise ScaleRange
    rounded = np.where(used, rounded, dtype.type(0))
    if packing.zero == NONE:
        return rounded, None
    if offset:
        return rounded, np.where(used, rounded_middle, dtype.type(0))
    assert zeros is not None
    return rounded, np.where(used, zeros, 0).astype(np.uint8)


def nearest_codes(
    w: NDArray[np.float32], scales: NDArray[Any], zeros: NDArray[Any] | None, packing: Packing
) -> NDArray[np.int8]:
    """Returns the code of the level nearest to each weight ``(rows, columns)``, in float32.

    Those above 127 less 256.
    """
    codes = np.empty(w.shape, np.int8)
    for rows in row_blocks(w):
        part = None if zeros is None else zeros[rows]
        codes[rows] = _nearest_codes(w[rows], scales[rows], part, packing)
    return codes


def _nearest_codes(
    w: NDArray[np.float32], scales: NDArray[Any], zeros: NDArray[Any] | None, packing: Packing
) -> NDArray[np.int8]:
    columns = w.shape[1]
    scale = each_weight(scale_values(scales, packing.kind.bias), packing, columns)
    if packing.format == "binary":
        middle = 0 if zeros is None else each_weight(scale_values(zeros), packing, columns)
        return np.where(w >= middle, np.int8(1), np.int8(-1))
    if packing.format == "ternary":
        above = np.abs(w) > scale * np.float32(0.5)
        return np.where(above, np.sign(w), np.float32(0)).astype(np.int8)
    codes = packing.kind.codes(packing.zero)
    if not packing.kind.spec.even:
        table = np.array(codes, np.float32)
        steps = np.divide(w, scale, out=np.zeros_like(w), where=scale != 0)
        places = np.searchsorted((table[1:] + table[:-1]) * np.float32(0.5), steps)
        nearest: NDArray[np.int8] = table[places].astype(np.int8)
        return nearest
    zero: Any = np.float32(0)
    if packing.zero == CODE and zeros is not None:
        zero = each_weight(zeros.astype(np.float32), packing, columns)
    if packing.zero == OFFSET and zeros is not None:
        w = w - each_weight(scale_values(zeros), packing, columns)
    steps = np.divide(w, scale, out=np.zeros_like(w), where=scale != 0)
    np.clip(steps, codes[0] - zero, codes[-1] - zero, out=steps)
    np.rint(steps, out=steps)
    steps += zero
    # The codes of a group with scale 0 say nothing.
    return np.where(scale != 0, steps, np.float32(0)).astype(np.int16).astype(np.int8)
