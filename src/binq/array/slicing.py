"""Which part of packed weights ``q[key]`` is, as stored arrays: views wherever tiles stay whole."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from binq.array.packed import Packed
from binq.array.selection import SelectedMatrices, SelectedRows, row_numbers, take_rows
from binq.formats import TILE_ROWS

_ALL = slice(None)


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
    items[at : at + 1] = [_ALL] * (ndim - given)
    *lead, rows, columns = items
    if not (isinstance(columns, slice) and columns == _ALL):
        raise TypeError(
            "columns of packed weights cannot be selected (the groups of a row share scales): "
            "use q.dequantize()[..., columns]"
        )
    lists = [item for item in lead if not isinstance(item, slice) and not _is_number(item)]
    for item in lists:
        if not isinstance(item, list | np.ndarray):
            raise TypeError(f"leading axes take integers, slices and arrays, got {item!r}")
    if len(lists) > 1 or (lists and not isinstance(rows, slice)):
        raise TypeError(
            "one axis at a time is selected by an array: select from what the first one gives"
        )
    if _is_number(rows):
        rows = int(rows)
        one = f"q[{'..., ' if lead else ''}{rows}:{'' if rows == -1 else rows + 1}]"
        raise TypeError(
            f"one row of packed weights is still a matrix: use {one}, or {one}.dequantize() "
            "for its floats"
        )
    return tuple(lead), rows


def _is_number(item: Any) -> bool:
    if isinstance(item, np.ndarray):
        return item.ndim == 0 and item.dtype.kind in "iu"
    return isinstance(item, int | np.integer) and not isinstance(item, bool)


def select(data: Packed, key: Any) -> Packed:
    """Returns the part of packed weights that ``q[key]`` is.

    Raises TypeError and IndexError as :func:`split_key` and :func:`row_numbers` do.
    """
    shape = data.shape
    if type(key) is np.ndarray and len(shape) == 2 and key.ndim:
        # Looking up embeddings: a few microseconds count.
        return _rows_of_matrix(data, key)
    lead, rows = split_key(key, len(shape))
    if isinstance(data, SelectedRows):
        return _select_again(data, lead, rows)
    selected = _select_lead(data, lead)
    if isinstance(rows, slice) and rows == _ALL:
        return selected
    return select_rows(selected, rows)


def _select_lead(data: Packed, lead: tuple[Any, ...]) -> Packed:
    """Returns some matrices of a stack."""
    if all(isinstance(item, slice) and item == _ALL for item in lead):
        return data
    axis = next((i for i, item in enumerate(lead) if isinstance(item, list | np.ndarray)), None)
    if axis is not None and np.ndim(lead[axis]):
        numbers = row_numbers("matrices", lead[axis], data.shape[axis])
        # The other axes first; the array's own has moved by those that integers took away.
        others = (*lead[:axis], _ALL, *lead[axis + 1 :])
        data = _select_lead(data, others)
        axis -= _dropped(lead[:axis])
        if axis == 0:
            return SelectedMatrices(data, numbers)
        shape = (*data.shape[:axis], *numbers.shape, *data.shape[axis + 1 :])
        parts = [np.take(part, numbers, axis) for part in data.parts]
        return Packed(data.packing, shape, *parts)
    lead = tuple(item if isinstance(item, slice) else int(item) for item in lead)
    if isinstance(data, SelectedMatrices):
        # Other items of the same stack.
        items = data.items[lead[: data.items.ndim]]
        rest = lead[data.items.ndim :]
        if items.ndim == 0:
            return _select_lead(data.base, (int(items), *rest))
        data = SelectedMatrices(data.base, np.ascontiguousarray(items))
        lead = (*[_ALL] * items.ndim, *rest)
        if all(item == _ALL for item in lead):
            return data
    parts = [part[lead] for part in data.parts]
    shape = (*parts[0].shape[: len(data.shape) - 2 - _dropped(lead)], *data.shape[-2:])
    # One matrix of a stack keeps its native form: experts are chosen once a token.
    native = None
    if len(lead) == 1 and data.native and not isinstance(lead[0], slice):
        native = (data.native[lead[0]],)
    zeros = parts[2] if len(parts) > 2 else None
    return Packed(data.packing, shape, parts[0], parts[1], zeros, native=native)


def _dropped(lead: tuple[Any, ...]) -> int:
    """Returns how many axes the integers of a key take away."""
    return sum(not isinstance(item, slice) for item in lead)


def _rows_of_matrix(data: Packed, key: Any) -> Packed:
    numbers = row_numbers("rows", key, data.shape[0])
    if isinstance(data, SelectedRows):
        return SelectedRows(data.base, data.rows[numbers])
    return SelectedRows(data, numbers)


def _select_again(data: SelectedRows, lead: tuple[Any, ...], rows: Any) -> Packed:
    """Returns part of rows that were selected: other rows of the same matrix."""
    for axis, item in enumerate(lead):
        if isinstance(item, list | np.ndarray) and np.ndim(item):
            numbers = row_numbers("matrices", item, data.shape[axis])
            lead = (*lead[:axis], numbers, *lead[axis + 1 :])
    kept = data.rows[lead]
    if not isinstance(rows, slice):
        rows = row_numbers("rows", rows, data.shape[-2])
    return SelectedRows(data.base, np.ascontiguousarray(kept[..., rows]))


def select_rows(data: Packed, rows: Any) -> Packed:
    """Returns some rows of each matrix.

    rows: a slice, or an array of integers or a mask. A slice with step 1 whose ends fall on tiles
    (multiples of 32 rows, or the last row) gives views; other slices give copies.
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
        numbers: NDArray[np.int64] = np.arange(start, stop, step, dtype=np.int64)
    elif not lead:
        return _rows_of_matrix(data, rows)
    else:
        numbers = row_numbers("rows", rows, out_features)
    shape = (*lead, *numbers.shape, in_features)
    return Packed(data.packing, shape, *take_rows(data, numbers))
