"""Which part of packed weights ``q[key]`` is, as stored arrays: views wherever tiles stay whole."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from binq.formats import TILE_ROWS, Format, Geometry, take_rows

Stored = tuple[NDArray[np.uint8], NDArray[Any], NDArray[Any] | None]


def split_key(key: Any, ndim: int) -> tuple[tuple[Any, ...], Any]:
    """Returns the key of the leading axes and the key of the rows.

    Raises TypeError for a key that selects columns or is of no supported kind, IndexError for too
    many axes.
    """
    items = list(key) if isinstance(key, tuple) else [key]
    if sum(item is Ellipsis for item in items) > 1:
        raise IndexError("an index can only have a single ellipsis ('...')")
    if any(item is None for item in items):
        raise TypeError("packed weights take no new axes: call .dequantize() for a float array")
    present = [item is Ellipsis for item in items]
    given = len(items) - sum(present)
    if given > ndim:
        raise IndexError(f"too many indices: the array has {ndim} axes, {given} were indexed")
    at = present.index(True) if True in present else len(items)
    items[at : at + 1] = [slice(None)] * (ndim - given)
    *lead, rows, columns = items
    if not (isinstance(columns, slice) and columns == slice(None)):
        raise TypeError(
            "columns of packed weights cannot be selected (the groups of a row share scales): "
            "use q.dequantize()[..., columns]"
        )
    for item in lead:
        if not isinstance(item, slice | int | np.integer) or isinstance(item, bool):
            raise TypeError(f"leading axes take integers and slices, got {item!r}")
    if isinstance(rows, int | np.integer) and not isinstance(rows, bool):
        one = f"q[{'..., ' if lead else ''}{rows}:{'' if rows == -1 else rows + 1}]"
        raise TypeError(
            f"one row of packed weights is still a matrix: use {one}, or {one}.dequantize() "
            "for its floats"
        )
    return tuple(lead), rows


def select_rows(
    format: Format, geometry: Geometry, stored: Stored, rows: Any
) -> tuple[Geometry, Stored]:
    """Returns the geometry and the stored arrays of some rows.

    rows: a slice, or a 1-D sequence of integers or bools. A slice with step 1 whose ends fall on
    tiles (multiples of 32 rows, or the last row) gives views; all else gives copies.
    """
    packed, scales, zero_points = stored
    tile_axis = scales.ndim - 3
    if isinstance(rows, slice):
        start, stop, step = rows.indices(geometry.out_features)
        stop = max(start, stop) if step > 0 else stop
        ends_on_tile = stop % TILE_ROWS == 0 or stop == geometry.out_features
        if step == 1 and start % TILE_ROWS == 0 and ends_on_tile:
            part = Geometry(stop - start, geometry.in_features, geometry.group_size)
            tiles = (slice(None),) * tile_axis + (
                slice(start // TILE_ROWS, start // TILE_ROWS + part.tiles),
            )
            return part, (
                packed[tiles],
                scales[tiles],
                None if zero_points is None else zero_points[tiles],
            )
        index = np.arange(start, stop, step)
    else:
        index = _row_index(rows, geometry.out_features)
    part = Geometry(len(index), geometry.in_features, geometry.group_size)
    if zero_points is not None:
        values = format.unpack_zero_points(zero_points, geometry)[..., index, :]
        zero_points = format.pack_zero_points(values, part)
    return part, (
        take_rows(packed, tile_axis, format.packed_row_axis, index),
        take_rows(scales, tile_axis, -1, index),
        zero_points,
    )


def _row_index(rows: Any, out_features: int) -> NDArray[np.intp]:
    """Returns a list or array of rows as indices >= 0, numpy's rules for them included."""
    array = np.asarray(rows)
    if array.size == 0 and not isinstance(rows, np.ndarray):
        array = array.astype(np.intp)
    if array.ndim != 1 or array.dtype.kind not in "iub":
        raise TypeError(f"rows are selected by a slice or a 1-D array of integers, got {rows!r}")
    # numpy itself applies masks, wraps negative indices and words the IndexErrors.
    index: NDArray[np.intp] = np.arange(out_features)[array]
    return index
