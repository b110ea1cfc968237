"""``np.einsum`` of a plain product with packed weights: ``"bi,oi->bo"`` and the like."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from binq.array.checks import plain_array
from binq.array.operands import Operand
from binq.array.product import multiply

_ONLY = (
    "numpy.einsum multiplies packed weights where it sums over in_features alone, as 'bi,oi->bo' "
    "does: call .dequantize() for all else"
)


def einsum(subscripts: Any, *operands: Any, out: Any = None, optimize: Any = False) -> Any:
    """Returns the product of x and packed weights that the subscripts spell.

    Raises TypeError for subscripts that spell anything but a product, ValueError for sizes that
    differ.
    """
    if not isinstance(subscripts, str) or len(operands) != 2:
        raise TypeError(_ONLY)
    inputs, arrow, result = subscripts.replace(" ", "").partition("->")
    labels = inputs.split(",")
    if len(labels) != 2 or "." in subscripts:
        raise TypeError(_ONLY)
    if not arrow:
        both = "".join(labels)
        result = "".join(sorted(letter for letter in set(both) if both.count(letter) == 1))
    a, b = operands
    if isinstance(a, Operand):
        a, b = b, a
        labels.reverse()
    if isinstance(a, Operand):
        raise TypeError(
            "the product of two packed arrays is not supported: call .dequantize() on one"
        )
    y = _product(plain_array("x", a), b, labels[0], labels[1], result)
    if out is None:
        return y
    out[...] = y
    return out


def _product(x: NDArray[Any], q: Operand, of_x: str, of_q: str, result: str) -> NDArray[np.float32]:
    """Returns x times q, whose axes have these labels."""
    for name, labels, array in (("x", of_x, x), ("q", of_q, q)):
        if len(labels) != len(array.shape):
            raise ValueError(
                f"einsum: {labels!r} has other axes than {name} of shape {array.shape}"
            )
    if any(len(set(labels)) != len(labels) for labels in (of_x, of_q, result)):
        raise TypeError(_ONLY)
    *batch, row, column = list(of_q)
    if q._is_transposed:
        row, column = column, row
    rows = [label for label in of_x if label not in of_q]
    plain = (
        column in of_x
        and row not in of_x
        and all(label in of_x for label in batch)
        and set(result) == {*batch, *rows, row}
    )
    if not plain:
        raise TypeError(_ONLY)
    sizes = dict(zip(of_q, q.shape, strict=True))
    for label, size in zip(of_x, x.shape, strict=True):
        if sizes.get(label, size) != size:
            raise ValueError(
                f"einsum: axis {label!r} has {size} in x of shape {x.shape} and {sizes[label]} in "
                f"the weights of shape {q.shape}"
            )
    order = [of_x.index(label) for label in (*batch, *rows, column)]
    turned = x.transpose(order)
    middle = turned.shape[len(batch) : -1]
    lead = turned.shape[: len(batch)]
    flat = turned.reshape(*lead, int(np.prod(middle)), turned.shape[-1])
    y = multiply(flat, q._data).reshape(*lead, *middle, sizes[row])
    axes = [*batch, *rows, row]
    return y.transpose([axes.index(label) for label in result])
