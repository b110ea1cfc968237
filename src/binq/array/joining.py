"""concatenate and stack: packed weights put together without being unpacked."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binq.array.array import QuantizedArray
from binq.array.checks import check_int
from binq.array.packed import Packed
from binq.array.selection import take_rows
from binq.formats import TILE_ROWS, tile_rows, untile_rows
from binq.formats.scales import scale_values
from binq.formats.zeros import OFFSET


def concatenate(arrays: Sequence[QuantizedArray], axis: int = 0) -> QuantizedArray:
    """Returns packed weights joined along an axis, as numpy.concatenate does: the same weights.

    Codes and scales are copied as they are. Scales become float32 where two arrays have scales of
    different types. Rows of any number join; columns join where groups end: all but the last array
    must have whole groups.

    - arrays: QuantizedArrays of one format, group size and kind of zero, with the same shape but
      for the axis
    - axis: 0 by default; −2 are the rows, −1 the columns

    Raises TypeError for what is not a QuantizedArray, ValueError for arrays that do not fit,
    naming the first.

    >>> import numpy as np, binq
    >>> gate, up = (binq.quantize(np.eye(48, 64), "int4") for _ in range(2))
    >>> binq.concatenate([gate, up]).shape
    (96, 64)
    """
    parts = _check_arrays(arrays)
    first = parts[0]
    ndim = len(first.shape)
    axis = _check_axis(axis, ndim)
    for number, part in enumerate(parts):
        if [*part.shape[:axis], *part.shape[axis + 1 :]] != [
            *first.shape[:axis],
            *first.shape[axis + 1 :],
        ]:
            raise ValueError(
                f"arrays[{number}] must have the shape of arrays[0], {first.shape}, but for axis "
                f"{axis}, got {part.shape}"
            )
    shape = list(first.shape)
    shape[axis] = sum(part.shape[axis] for part in parts)
    if axis == ndim - 1:
        _check_columns(parts)
    # Stored arrays have their tiles where the rows are, and groups where the columns are.
    joined = tuple(
        np.concatenate(same, axis) for same in zip(*(p.parts for p in parts), strict=True)
    )
    if axis == ndim - 2 and any(part.shape[axis] % TILE_ROWS for part in parts[:-1]):
        joined = _without_padding(parts, joined, axis)
    return QuantizedArray._of(Packed(first.packing, tuple(shape), *joined))


def stack(arrays: Sequence[QuantizedArray], axis: int = 0) -> QuantizedArray:
    """Returns packed weights of one shape along a new leading axis, as numpy.stack does.

    - arrays: QuantizedArrays of one format, group size, kind of zero and shape
    - axis: where the new axis is, before the rows: 0 by default

    Raises TypeError and ValueError as :func:`concatenate` does.

    >>> import numpy as np, binq
    >>> experts = [binq.quantize(np.eye(48, 64) * n, "int4") for n in (1, 2, 3)]
    >>> binq.stack(experts).shape
    (3, 48, 64)
    """
    parts = _check_arrays(arrays)
    first = parts[0]
    axis = _check_axis(axis, len(first.shape) + 1)
    if axis > len(first.shape) - 2:
        raise ValueError(
            f"axis must be a leading one, from 0 to {len(first.shape) - 2}, got {axis}: packed "
            "weights end with rows and columns"
        )
    for number, part in enumerate(parts):
        if part.shape != first.shape:
            raise ValueError(
                f"arrays[{number}] must have the shape of arrays[0], {first.shape}, got "
                f"{part.shape}"
            )
    shape = (*first.shape[:axis], len(parts), *first.shape[axis:])
    stacked = [np.stack(same, axis) for same in zip(*(p.parts for p in parts), strict=True)]
    return QuantizedArray._of(Packed(first.packing, shape, *stacked))


def _check_arrays(arrays: Any) -> list[Packed]:
    """Returns the insides of arrays of one packing, all with one dtype of the scales."""
    if isinstance(arrays, QuantizedArray) or not isinstance(arrays, Sequence):
        raise TypeError(
            f"arrays must be a sequence of QuantizedArrays, got {type(arrays).__name__}"
        )
    if not arrays:
        raise ValueError("arrays must hold at least one QuantizedArray, got none")
    for number, q in enumerate(arrays):
        if not isinstance(q, QuantizedArray):
            raise TypeError(f"arrays[{number}] must be a QuantizedArray, got {type(q).__name__}")
    parts = [q._data for q in arrays]
    packing = parts[0].packing
    for number, part in enumerate(parts):
        if part.packing != packing:
            raise ValueError(
                f"arrays must be of one format, group size, kind of zero and rotation: arrays[0] "
                f"is {packing}, arrays[{number}] {part.packing}"
            )
    floats = [1, 2] if packing.zero == OFFSET else [1]
    for index in floats:
        if len({part.parts[index].dtype for part in parts}) > 1:
            parts = [_widened(part, index) for part in parts]
    return parts


def _widened(data: Packed, index: int) -> Packed:
    arrays, geometry = list(data.parts), data.geometry
    # Through rows: padding is 0, also where a byte of 0 is a power of two.
    values = scale_values(untile_rows(arrays[index], geometry), data.packing.kind.bias)
    arrays[index] = tile_rows(values, geometry)
    return Packed(data.packing, data.shape, *arrays)


def _check_axis(axis: object, ndim: int) -> int:
    return check_int("axis", axis, -ndim, ndim - 1) % ndim


def _check_columns(parts: Sequence[Packed]) -> None:
    group = parts[0].packing.group_size
    if parts[0].packing.rotation is not None and len(parts) > 1:
        raise ValueError("arrays in a rotated basis do not join along columns: dequantize them")
    for number, part in enumerate(parts[:-1]):
        if group is None or part.shape[-1] % group:
            groups = "a scale a row (group_size=None)" if group is None else f"groups of {group}"
            raise ValueError(
                f"arrays join along columns where groups end: arrays[{number}] of shape "
                f"{part.shape} has {groups}"
            )


def _without_padding(
    parts: Sequence[Packed], joined: Sequence[NDArray[Any]], axis: int
) -> tuple[NDArray[Any], ...]:
    """Returns joined tiles, of which some are not full, with the rows close together."""
    numbers = []
    tiles = 0
    for part in parts:
        numbers.append(np.arange(part.shape[axis]) + tiles * TILE_ROWS)
        tiles += part.geometry.tiles
    shape = (*parts[0].shape[:axis], tiles * TILE_ROWS, parts[0].shape[-1])
    whole = Packed(parts[0].packing, shape, *joined)
    return take_rows(whole, np.concatenate(numbers).astype(np.int64))
