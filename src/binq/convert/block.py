"""One block of rows of a conversion: packed, measured and looked at.

What compiled code can read as it lies in the file is made into floats a tile at a time, while the
cache holds it. The rest, and what is refused, goes by way of a matrix of floats, which words the
errors; both ways give the same bytes.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from binq.array.packed import Packed
from binq.convert.health import moments_of, sample_step
from binq.convert.item import Item
from binq.files.checkpoint import Checkpoint
from binq.methods.measure import stored_errors
from binq.methods.method import Native, Nonfinite, ScaleRange
from binq.methods.quantize import get_method
from binq.storage.rows import StoredRows, values_of


class Block(NamedTuple):
    """Packed rows of one matrix, the errors of their tiles, and what their values look like."""

    packed: Packed
    errors: NDArray[np.float64]
    matrix: int
    moments: NDArray[np.float64]
    nonfinite: int = 0
    correction: NDArray[np.float32] | None = None


def pack_stored(
    source: Checkpoint,
    item: Item,
    matrix: int,
    rows: tuple[int, int],
    scale_dtype: np.dtype[Any],
) -> Block | None:
    """Returns a block of rows that compiled code packs as they lie in the file.

    None for a form or a method that it does not know, for weights that are inf or NaN, and for
    scales that do not fit their type.
    """
    if item.exact is not None:
        if item.exact.packing.rotation is not None:
            return None
        found = item.tensor.exact_stored(source, item.exact, matrix, *rows)
        if found is None:
            return None
        packed, stored = found
        return Block(packed, stored_errors(stored, packed), matrix, _moments(stored))
    assert item.choice is not None
    packing = item.choice.packing
    method = get_method(item.choice.method, packing)
    if not isinstance(method, Native) or item.evidence is not None or packing.rotation is not None:
        return None
    lying = item.tensor.read_stored(source, matrix, *rows)
    if lying is None:
        return None
    try:
        packed, errors = method.quantize_rows(lying, packing, scale_dtype)
    except (Nonfinite, ScaleRange):
        return None
    return Block(packed, errors, matrix, _moments(lying))


def _moments(rows: StoredRows) -> NDArray[np.float64]:
    count, columns = rows.shape
    return moments_of(values_of(rows, sample_step(count * columns)))
