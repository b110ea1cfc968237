"""How weights become codes, scales and zero points.

One group at a time: a scale (and zero point) is found in float64, rounded to the type it is stored
in, and every weight then takes the nearest level. Sums of float64 are made in a stated order,
since their last bits depend on it.
"""

from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binq.reference.affine import absmax_affine, best_affine
from binq.reference.formats import FORMATS
from binq.reference.layout import (
    code_type,
    count_scale_groups,
    pack,
    pack_zero_points,
    tile_scales,
)
from binq.reference.levels import best_level_scale
from binq.reference.powers import best_power, power_of_largest
from binq.reference.rounding import better_neighbour, primitive_scale
from binq.reference.scales import SCALE_DTYPES, SMALLEST_SCALE, rounded_scale, stored_scale
from binq.reference.search import Floats, ScaleSearch, lane_sum, nearest_level

# No level exceeds this: scale · code stays finite in float32.
LARGEST_LEVEL = 3.4e38


def quantize(
    w: NDArray[Any],
    format: str,
    group_size: int | None,
    method: str = "mse",
    symmetric: bool = True,
    scale_dtype: str = "float16",
    importance: NDArray[Any] | None = None,
    zero: str | None = None,
) -> tuple[NDArray[np.uint8], NDArray[Any], NDArray[Any] | None]:
    """Returns weights ``(out_features, in_features)`` as packed codes, scales and zero points.

    The three arrays are as stored; zero points are None where symmetric, and offsets of the
    scales' type with binary weights and with ``zero="offset"``. w is first rounded to
    float32 and must be finite. importance ``(in_features,)``, for ``"mse"`` only, is what the
    square of each input's error is multiplied by; it too is rounded to float32.

    scale_dtype is "float16", "float32", "bfloat16" or, for formats with a code 0 where symmetric,
    "e8m0": powers of two (binq.reference.powers), stored as their exponents plus 127.

    Raises OverflowError if the type does not hold a scale or midpoint: it is beyond the type, or so
    small that too few significant bits are left, or a level would be beyond float32.
    """
    codes, scales, zero_points = quantize_to_codes(
        w, format, group_size, method, symmetric, scale_dtype, importance, zero
    )
    packed = pack(codes, format, group_size, symmetric)
    stored = None if zero_points is None else pack_zero_points(zero_points, format)
    return packed, tile_scales(scales), stored


def quantize_to_codes(
    w: NDArray[Any],
    format: str,
    group_size: int | None,
    method: str = "mse",
    symmetric: bool = True,
    scale_dtype: str = "float16",
    importance: NDArray[Any] | None = None,
    zero: str | None = None,
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None]:
    """Returns codes, scales and zero points of :func:`quantize` in row-major order."""
    w = w.astype(np.float32)
    matters = None if importance is None else importance.astype(np.float32).astype(np.float64)
    out_features, in_features = w.shape
    scale_groups = count_scale_groups(in_features, group_size)
    codes = np.zeros(w.shape, code_type(format, symmetric))
    scales = np.zeros((out_features, scale_groups), SCALE_DTYPES[scale_dtype])
    offsets = not symmetric and (format == "binary" or zero == "offset")
    midpoint_type = SCALE_DTYPES[scale_dtype] if offsets else np.dtype(np.uint8)
    zero_points = None if symmetric else np.zeros(scales.shape, midpoint_type)
    size = in_features if group_size is None else group_size
    for row in range(out_features):
        for group in range(scale_groups):
            columns = slice(group * size, min((group + 1) * size, in_features))
            values = w[row, columns]
            if not values.any():
                # An all-zero group: scale 0, midpoint 0; the codes say nothing.
                codes[row, columns] = zero_code(format)
                continue
            exact = values.astype(np.float64)
            h = None if matters is None else weights_of_errors(exact, matters[columns])
            found = find_scale(exact, format, method, symmetric, h, offsets, scale_dtype)
            rounded = round_scale(*found, format, scale_dtype, offsets)
            codes[row, columns] = nearest_codes(values, *rounded, format, symmetric, offsets)
            scales[row, group] = stored_scale(rounded[0], scale_dtype, FORMATS[format].bias)
            if zero_points is not None:
                zero_points[row, group] = rounded[1]
    return codes, scales, zero_points


def find_scale(
    w: Floats,
    format: str,
    method: str,
    symmetric: bool,
    importance: Floats | None = None,
    offsets: bool = False,
    scale_dtype: str = "float32",
) -> tuple[float, float]:
    """Returns the scale of one group and its zero point or offset (0 where there is none).

    Symmetric int4 has zero point 8: its codes −8..7 are 0..15 less 8. So has int2 2, of 0..3.
    """
    row = FORMATS[format]
    if scale_dtype == "e8m0" and method != "absmean":
        zero = float(-min(row.levels)) if row.search == "even" else 0.0
        if method == "absmax":
            return power_of_largest(float(np.abs(w).max()), max(row.levels)), zero
        return best_power(w, row.ascending, importance), zero
    if row.search == "levels":
        if method == "absmax":
            return absmax(w, format)[0], 0.0
        table = np.array(row.ascending, np.float64)
        return best_level_scale(w, table, scale_dtype, importance), 0.0
    if row.search == "even":
        return find_even(w, format, method, symmetric, importance, offsets, scale_dtype)
    if row.search == "ternary":
        if importance is not None:
            return best_weighted_ternary(w, importance), 0.0
        return (absmean(w) if method == "absmean" else best_ternary(w)), 0.0
    if symmetric:
        return absmean(w) if importance is None else weighted_absmean(w, importance), 0.0
    if importance is not None:
        return best_weighted_levels(w, importance)
    return absmean_two_levels(w) if method == "absmean" else best_two_levels(w)


def find_even(
    w: Floats,
    format: str,
    method: str,
    symmetric: bool,
    importance: Floats | None,
    offsets: bool,
    scale_dtype: str,
) -> tuple[float, float]:
    """Returns :func:`find_scale` for levels one step apart."""
    top = len(FORMATS[format].levels) - 1
    if offsets:
        return absmax_affine(w, top) if method == "absmax" else best_affine(w, top, importance)
    if method == "absmax":
        return absmax(w, format) if symmetric else absmax_asymmetric(w, top)
    return best_even(w, format, symmetric, importance, scale_dtype)


def weights_of_errors(w: Floats, importance: Floats) -> Floats:
    """Returns the importance of a group, or ones where no weight but 0 is of any importance."""
    return importance if (importance * w).any() else np.ones_like(w)


def round_scale(
    scale: float, zero: float, format: str, scale_dtype: str, offsets: bool
) -> tuple[float, float]:
    """Returns scale and zero point or offset in the precision they are stored in.

    Zero points are integers and stay as they are. No level is beyond 3.4e38: float32 scales are
    clipped for that.

    Raises OverflowError if a type of 16 bits does not hold them.
    """
    zero = float(np.clip(zero, -LARGEST_LEVEL, LARGEST_LEVEL))
    largest = (LARGEST_LEVEL - (abs(zero) if offsets else 0.0)) / FORMATS[format].largest
    if scale_dtype == "float32":
        scale = float(np.clip(scale, -largest, largest))
    rounded = rounded_scale(scale, scale_dtype, FORMATS[format].bias)
    midpoint = rounded_scale(zero, scale_dtype) if offsets else zero
    if scale_dtype != "float32":
        # An offset may be small, or 0, beside its scale; alone it must be accurate.
        judged = midpoint if scale == 0 and offsets else rounded
        fits = abs(midpoint) <= LARGEST_LEVEL and abs(rounded) <= largest
        if scale_dtype == "e8m0":
            # Else the nearest power is beyond the type.
            fits = fits and rounded <= 1.5 * scale and scale <= 1.5 * rounded
        if not (fits and abs(judged) >= SMALLEST_SCALE[scale_dtype]):
            raise OverflowError(f"{scale_dtype} does not hold the scale {scale} (zero {zero})")
    return rounded, midpoint


def nearest_codes(
    w: NDArray[np.float32],
    scale: float,
    zero: float,
    format: str,
    symmetric: bool,
    offsets: bool,
) -> NDArray[Any]:
    """Returns the code of the level nearest to each weight, with float32 arithmetic.

    - binary: 1 where w >= zero, else −1
    - ternary: the sign of w where ``|w| > scale / 2``, else 0
    - levels that are not one step apart: that nearest to w / scale, the lower one halfway
    - levels one step apart: rint(w / scale), halves to even, within the codes; 0 where the scale
      is 0; with offsets rint((w − offset) / scale)
    """
    s = np.float32(scale)
    row = FORMATS[format]
    if row.search == "two levels":
        return np.where(w >= np.float32(zero), 1, -1).astype(np.int8)
    if row.search == "ternary":
        return np.where(np.abs(w) > s * np.float32(0.5), np.sign(w), 0).astype(np.int8)
    if row.search == "levels":
        table = np.array(row.ascending, np.float64)
        return nearest_level(w / s if s else np.zeros_like(w), table).astype(np.int8)
    if offsets:
        w, zero = w - np.float32(zero), 0.0
    highest = len(row.levels) - 1 - zero
    steps = np.rint(np.clip(w / s, -zero, highest)) if s else np.zeros_like(w)
    return (steps if symmetric else steps + zero).astype(code_type(format, symmetric))


def zero_code(format: str) -> int:
    """Returns the code of the weights of a group of zeros, whose scale is 0: that nearest to 0."""
    return 1 if format == "binary" else min(FORMATS[format].levels, key=abs)


def absmean(w: Floats) -> float:
    """Returns mean(|w|): the best binary scale, and BitNet b1.58's ternary one."""
    return lane_sum(np.abs(w)) / len(w)


def absmean_two_levels(w: Floats) -> tuple[float, float]:
    """Returns mean(|w − midpoint|) and midpoint = mean(w)."""
    midpoint = lane_sum(w) / len(w)
    return lane_sum(np.abs(w - midpoint)) / len(w), midpoint


def best_two_levels(w: Floats) -> tuple[float, float]:
    """Returns half the distance and the midpoint of the two levels with the least squared error.

    The k smallest weights go to one level and the rest to the other, each level the mean of its
    weights. Of all k, the one that leaves the least error has the largest
    (P − k·mean)² / (k·(n − k)), where P is the sum of the k smallest.
    """
    n = len(w)
    sums = np.add.accumulate(np.sort(w))
    total = sums[-1]
    mean = total / n
    k = np.arange(1, n)
    below = sums[:-1]
    excess = below - k * mean
    gain = excess * excess * (1.0 / (k * (n - k)))
    if n == 1 or gain.max() <= 0:
        return 0.0, mean
    best = int(gain.argmax())
    low = below[best] / k[best]
    high = (total - below[best]) / (n - k[best])
    low, high = np.clip([low, high], -LARGEST_LEVEL, LARGEST_LEVEL)
    return max(high - low, 0.0) * 0.5, (low + high) * 0.5


def weighted_absmean(w: Floats, importance: Floats) -> float:
    """Returns sum(h·|w|) / sum(h), h being the importance."""
    return lane_sum(importance * np.abs(w)) / lane_sum(importance)


def best_weighted_levels(w: Floats, importance: Floats) -> tuple[float, float]:
    """Returns :func:`best_two_levels` for errors that are multiplied by an importance.

    With P and N the sums of h·w and h of the k smallest, and T the sum of all h, the best k has
    the largest (P − N·mean)² / (N·(T − N)).
    """
    order = np.argsort(w, kind="stable")
    counts = np.add.accumulate(importance[order])
    sums = np.add.accumulate((importance * w)[order])
    mean = sums[-1] / counts[-1]
    below, count = sums[:-1], counts[:-1]
    rest = counts[-1] - count
    excess = below - count * mean
    both = (count > 0) & (rest > 0)
    gain = np.where(both, excess * excess / np.where(both, count * rest, 1.0), 0.0)
    if not gain.any():
        return 0.0, float(np.clip(mean, -LARGEST_LEVEL, LARGEST_LEVEL))
    best = int(gain.argmax())
    low = below[best] / count[best]
    high = (sums[-1] - below[best]) / rest[best]
    low, high = np.clip([low, high], -LARGEST_LEVEL, LARGEST_LEVEL)
    return max(high - low, 0.0) * 0.5, (low + high) * 0.5


def best_weighted_ternary(w: Floats, importance: Floats) -> float:
    """Returns the ternary scale with the least sum of errors times importance."""
    search = ScaleSearch(w, importance)
    for _ in search.turns(-1, 1):
        pass
    return search.scale


def best_ternary(w: Floats) -> float:
    """Returns the scale of the ternary weights with the least squared error.

    With k weights not zero, they are the k largest, the scale is their mean magnitude S / k, and
    the error is sum(w²) − S² / k: the best k has the largest S² / k.
    """
    sums = np.add.accumulate(np.sort(np.abs(w))[::-1])
    k = np.arange(1, len(w) + 1)
    gain = sums * sums * (1.0 / k)
    best = int(gain.argmax())
    return float(sums[best] / k[best])


def absmax(w: Floats, format: str) -> tuple[float, float]:
    """Returns the scale that gives the largest weight the level of the format, and the zero point.

    A positive level is that of max(|w|); a negative one that of the weight with its sign.
    """
    row = FORMATS[format]
    low, high = min(float(w.min()), 0.0), max(float(w.max()), 0.0)
    largest = max(high, -low) if row.absmax > 0 else high if high >= -low else low
    return largest / row.absmax, float(-row.levels[0])


def absmax_asymmetric(w: Floats, top: int) -> tuple[float, float]:
    """Returns (max − min) / top and the zero point nearest to −min / scale; the range holds 0."""
    low, high = min(float(w.min()), 0.0), max(float(w.max()), 0.0)
    scale = (high - low) / top
    return scale, float(np.clip(np.rint(-low / scale), 0, top))


def best_even(
    w: Floats,
    format: str,
    symmetric: bool,
    importance: Floats | None = None,
    scale_dtype: str = "float32",
) -> tuple[float, float]:
    """Returns the scale and zero point with the least squared error, of all scales > 0.

    Codes are within [−zero_point, n − 1 − zero_point], n being the number of levels.
    :class:`ScaleSearch` finds their best scale. Pairs of zero points are searched alternately, the
    likely ones first: a good scale found early saves work on the others.

    Symmetric weights have codes −n/2..n/2 − 1 and a scale of either sign. A negative scale s with
    codes q is the positive scale −s with codes −q: zero point n/2 − 1. It is returned as
    (s, n/2).

    Of 256 levels there are fewer searches, each of which takes longer: symmetric codes are −127 to
    127, of a scale > 0, and of all zero points the two around −min / scale of
    :func:`absmax_asymmetric` are tried.

    The scale is the one whose codes have no common divisor, and, for a type of 16 bits, that of its
    two neighbours there which leaves the smaller error.
    """
    search = ScaleSearch(w, importance)
    middle = len(FORMATS[format].levels) // 2
    top = 2 * middle - 1
    many = FORMATS[format].layout == "bytes"
    pairs: list[tuple[int, int | None]]
    if many and symmetric:
        pairs = [(middle - 1, None)]
        top -= 1
    elif many:
        least_w, most_w = min(float(search.w.min()), 0.0), max(float(search.w.max()), 0.0)
        least = min(int(-least_w / ((most_w - least_w) / top)), top - 1)
        pairs = [(least, least + 1)]
    elif symmetric:
        pairs = [(middle, middle - 1)]
    else:
        pairs = [(middle - 1 - step, middle + step) for step in range(middle)]
    for one, two in pairs:
        turns = () if two is None else search.turns(-two, top - two)
        for _ in zip_longest(search.turns(-one, top - one), turns):
            pass
    scale, low = search.scale, search.low
    if scale > 0:
        scale = primitive_scale(search.w, scale, low, low + top)
        scale = better_neighbour(search.w, scale, low, low + top, scale_dtype, importance)
    if symmetric:
        return (-scale if low == 1 - middle and not many else scale), float(middle)
    return scale, float(-low)
