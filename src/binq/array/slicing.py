"""Which part of packed weights ``q[key]`` is, as stored arrays: views wherever tiles stay whole."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from binq.array.packed import Packed
from binq.formats import TILE_ROWS, take_rows
from binq.formats.zeros import pack_zeros, unpack_zeros


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


def select(data: Packed, key: Any) -> Packed:
    """Returns the part of packed weights that ``q[key]`` is.

    Raises TypeError and IndexError as :func:`split_key` does.
    """
    lead, rows = split_key(key, len(data.shape))
    parts = [part[lead] for part in data.parts]
    shape = (*parts[0].shape[: len(data.shape) - 2 - _dropped(lead)], *data.shape[-2:])
    if isinstance(rows, slice) and rows == slice(None):
        # One matrix of a stack keeps its native form: experts are chosen once a token.
        native = None
        if len(lead) == 1 and data.native and not isinstance(lead[0], slice):
            native = (data.native[lead[0]],)
        zeros = parts[2] if len(parts) > 2 else None
        return Packed(data.packing, shape, parts[0], parts[1], zeros, native=native)
    return select_rows(Packed(data.packing, shape, *parts), rows)


def _dropped(lead: tuple[Any, ...]) -> int:
    """Returns how many axes the integers of a key take away."""
    return sum(not isinstance(item, slice) for item in lead)


def select_rows(data: Packed, rows: Any) -> Packed:
    """Returns some rows of each matrix.

    rows: a slice, or a 1-D sequence of integers or bools. A slice with step 1 whose ends fall on
    tiles (multiples of 32 rows, or the last row) gives views; all else gives copies.
    """
    *lead, out_features, in_features = data.shape
    if isinstance(rows, slice):
        start, stop, step = rows.indices(out_features)
        stop = max(start, stop) if step > 0 else stop
        ends_on_tile = stop % TILE_ROWS == 0 or stop == out_features
        if step == 1 and start % TILE_ROWS == 0 and ends_on_tile:
            first, last = start // TILE_ROWS, -(-stop // TILE_ROWS)
            tiles = (slice(None),) * len(lead) + (slice(first, max(first, last)),)
            shape = (*lead, stop - start, in_features)
            return Packed(data.packing, shape, *(part[tiles] for part in data.parts))
        index = np.arange(start, stop, step)
    else:
        index = _row_index(rows, out_features)
    shape = (*lead, len(index), in_features)
    axis = len(lead)
    packing = data.packing
    parts = [
        take_rows(data.packed, axis, packing.kind.packed_row_axis, index),
        take_rows(data.scales, axis, -1, index),
    ]
    if data.zeros is not None:
        values = unpack_zeros(packing.zero, data.zeros, data.geometry)[..., index, :]
        parts.append(pack_zeros(packing.zero, values, packing.geometry(shape)))
    return Packed(packing, shape, *parts)


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
