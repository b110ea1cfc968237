"""The best scales, and codes, where the error of each input has an importance of its own."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from binq._native import _search
from binq.array.packed import Packed
from binq.array.packing import Packing
from binq.formats.scales import E8M0, scale_number
from binq.formats.zeros import CODE, OFFSET
from binq.methods.affine import best_affine
from binq.methods.levels import best_level_scales
from binq.methods.powers import best_powers
from binq.methods.signals import Nonfinite
from binq.methods.stored import (
    LARGEST_LEVEL,
    Floats,
    group_starts,
    lane_sums,
    nearest_codes,
    stored_scales,
)

# Levels with offsets are found in blocks of about this many weights at a time.
_BLOCK = 1 << 20


def quantize_weighted(
    weights: NDArray[Any],
    packing: Packing,
    scale_dtype: np.dtype[Any],
    importance: NDArray[np.float32],
) -> Packed:
    """Returns weights ``(..., rows, columns)``, packed with the least sum of importance · error².

    Of all scales (and zero points, or pairs of levels), for each group.
    Raises Nonfinite for weights that float32 does not hold, and ScaleRange where a scale does not
    fit scale_dtype.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        w = np.ascontiguousarray(weights, np.float32).reshape(-1, weights.shape[-1])
    if not np.isfinite(w).all():
        raise Nonfinite
    best, best_zeros = _best(w, packing, importance, scale_dtype)
    used = np.logical_or.reduceat(w != 0, group_starts(packing, w.shape[1]), axis=1)
    scales, zeros = stored_scales(best, best_zeros, used, packing, scale_dtype)
    codes = nearest_codes(w, scales, zeros, packing)
    lead = weights.shape[:-1]
    return Packed.of_codes(
        packing,
        codes.reshape(weights.shape),
        scales.reshape(*lead, -1),
        None if zeros is None else zeros.reshape(*lead, -1),
    )


def _best(
    w: NDArray[np.float32],
    packing: Packing,
    importance: NDArray[np.float32],
    dtype: np.dtype[Any],
) -> tuple[Floats, Floats | None]:
    """Returns the best scales of all groups, and their zero points or offsets."""
    if packing.format == "binary" or packing.zero == OFFSET:
        best = _best_binary if packing.format == "binary" else _best_offsets
        blocks = max(1, _BLOCK // w.shape[1])
        parts = [
            best(w[start : start + blocks], packing, importance)
            for start in range(0, len(w), blocks)
        ]
        scales, zeros = (np.concatenate(part) for part in zip(*parts, strict=True))
        return scales, None if packing.symmetric else zeros
    codes = packing.kind.codes(packing.zero)
    if dtype == E8M0:
        return _best_powers(w, packing, importance), None
    if not packing.kind.spec.even and packing.format != "ternary":
        return best_level_scales(w, packing, importance, dtype), None
    ranges, span = _ranges(codes, packing)
    groups = len(group_starts(packing, w.shape[1]))
    scales = np.zeros((len(w), groups))
    lows = np.zeros((len(w), groups), np.int16)
    _search.best_scales(
        w,
        importance,
        packing.group_size or 0,
        np.asarray(ranges, np.int32),
        span,
        -1 if packing.format == "ternary" else scale_number(dtype, 127),
        scales,
        lows,
    )
    if packing.zero == CODE:
        return scales, -lows.astype(np.float64)
    return np.where(lows == ranges[0], scales, -scales), None


def _ranges(codes: tuple[int, ...], packing: Packing) -> tuple[list[int], int]:
    """Returns the lowest codes of the ranges that are searched, in pairs, and their span.

    None of them: the two whose zero points are next to that of the largest-magnitude rule.
    """
    span = codes[-1] - codes[0]
    many = packing.bits == 8
    if packing.zero == CODE:
        # Zero points in the order they are tried: the likely ones first.
        middle = len(codes) // 2
        tried = [-zero for step in range(middle) for zero in (middle - 1 - step, middle + step)]
        return [] if many else tried, span
    if many:
        return [codes[0] + 1] * 2, span - 1  # as many of either sign
    # A negative scale is a positive one and codes of other signs.
    return [codes[0], -codes[-1]], span


def _best_powers(
    w: NDArray[np.float32], packing: Packing, importance: NDArray[np.float32]
) -> Floats:
    """Returns the best powers of two of all groups, block by block."""
    codes = packing.kind.codes(packing.zero)
    blocks = max(1, _BLOCK // w.shape[1])
    found = []
    for start in range(0, len(w), blocks):
        values, h = _in_groups(w[start : start + blocks], packing, importance)
        flat = values.reshape(-1, values.shape[2])
        scales = best_powers(flat, np.broadcast_to(h, values.shape).reshape(flat.shape), codes)
        found.append(scales.reshape(values.shape[:2]))
    return np.concatenate(found)


def _best_binary(
    w: NDArray[np.float32], packing: Packing, importance: NDArray[np.float32]
) -> tuple[Floats, Floats]:
    """Returns the scales of the levels ±scale and zeros, or those of two free levels.

    Sums are made in binq.reference's order: eight running sums, or along the sorted weights.
    """
    values, h = _in_groups(w, packing, importance)
    columns, (_, groups, size) = w.shape[1], values.shape
    if packing.symmetric:
        return lane_sums(h * np.abs(values)) / lane_sums(h), np.zeros((len(w), groups))
    scales, middles = np.zeros((2, len(w), groups))
    for group in range(groups):
        count = min(size, columns - group * size)
        scales[:, group], middles[:, group] = _two_levels(
            values[:, group, :count], h[:, group, :count]
        )
    return scales, middles


def _best_offsets(
    w: NDArray[np.float32], packing: Packing, importance: NDArray[np.float32]
) -> tuple[Floats, Floats]:
    """Returns the scales of weights with codes from 0 and the offsets of their groups."""
    values, h = _in_groups(w, packing, importance)
    lead = values.shape[:2]
    # Padding is of no importance, whatever stands for a group in which nothing is.
    h = np.broadcast_to(h, values.shape).copy()
    h.reshape(len(w), -1)[:, w.shape[1] :] = 0
    scales, offsets = best_affine(
        values.reshape(-1, values.shape[2]),
        h.reshape(-1, values.shape[2]),
        packing.kind.codes(packing.zero)[-1],
    )
    return scales.reshape(lead), offsets.reshape(lead)


def _in_groups(
    w: NDArray[np.float32], packing: Packing, importance: NDArray[np.float32]
) -> tuple[Floats, Floats]:
    """Returns weights and their importance ``(rows, groups, size)``, zeros behind the last.

    In a group where nothing but zeros is of any importance, all weights count alike.
    """
    columns = w.shape[1]
    size = packing.group_size or columns
    groups = -(-columns // size)
    values = np.zeros((len(w), groups * size))
    values[:, :columns] = w
    h = np.zeros(groups * size)
    h[:columns] = importance
    values, h = values.reshape(-1, groups, size), h.reshape(groups, size)
    matters = ((values != 0) & (h > 0)).any(axis=2, keepdims=True)
    ones = (np.arange(groups * size) < columns).reshape(groups, size).astype(np.float64)
    return values, np.where(matters, h, ones)


def _two_levels(w: Floats, h: Floats) -> tuple[Floats, Floats]:
    """Returns half the distance and the middle of the best two levels of each row."""
    order = np.argsort(w, axis=1, kind="stable")
    counts = np.add.accumulate(np.take_along_axis(h, order, 1), axis=1)
    sums = np.add.accumulate(np.take_along_axis(h * w, order, 1), axis=1)
    mean = sums[:, -1:] / counts[:, -1:]
    below, count = sums[:, :-1], counts[:, :-1]
    rest = counts[:, -1:] - count
    excess = below - count * mean
    both = (count > 0) & (rest > 0)
    gain = np.where(both, excess * excess / np.where(both, count * rest, 1.0), 0.0)
    limit = LARGEST_LEVEL
    middle = np.clip(mean[:, 0], -limit, limit)
    if w.shape[1] == 1:
        return np.zeros(len(w)), middle
    rows = np.arange(len(w))
    best = gain.argmax(axis=1)
    found = gain[rows, best] > 0
    split = below[rows, best], count[rows, best], rest[rows, best]
    low = np.clip(split[0] / np.where(found, split[1], 1.0), -limit, limit)
    high = np.clip((sums[:, -1] - split[0]) / np.where(found, split[2], 1.0), -limit, limit)
    distance = np.where(found, np.maximum(high - low, 0.0) * 0.5, 0.0)
    return distance, np.where(found, (low + high) * 0.5, middle)
