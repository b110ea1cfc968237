"""Products with packed weights, with every choice: linear, prepare and matmul."""

from collections.abc import Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from binq.array.array import QuantizedArray
from binq.array.batch import multiply_each, multiply_experts
from binq.array.choices import ActivationsName
from binq.array.operands import matmul_operands
from binq.array.prepared import DEFAULT_ACTIVATIONS, Prepared
from binq.array.product import multiply
from binq.array.protocols import PackedOperand


@overload
def linear(
    x: ArrayLike | Prepared,
    q: QuantizedArray,
    bias: ArrayLike | None = None,
    activations: ActivationsName = DEFAULT_ACTIVATIONS,
    out: NDArray[np.float32] | None = None,
    *,
    experts: ArrayLike | None = None,
) -> NDArray[np.float32]: ...
@overload
def linear(
    x: ArrayLike | Prepared,
    q: Sequence[QuantizedArray],
    bias: Sequence[ArrayLike | None] | None = None,
    activations: ActivationsName = DEFAULT_ACTIVATIONS,
    out: Sequence[NDArray[np.float32] | None] | None = None,
    *,
    experts: ArrayLike | None = None,
) -> list[NDArray[np.float32]]: ...
def linear(
    x: ArrayLike | Prepared,
    q: QuantizedArray | Sequence[QuantizedArray],
    bias: Any = None,
    activations: ActivationsName = DEFAULT_ACTIVATIONS,
    out: Any = None,
    *,
    experts: ArrayLike | None = None,
) -> NDArray[np.float32] | list[NDArray[np.float32]]:
    """Returns ``x @ q.mT + bias``: a linear layer with packed weights.

    ``y[..., n] = sum_k x[..., k] * w[n, k] + bias[n]``, with w the weights of q.

    - x: real numbers of any dtype and memory layout, ``(..., in_features)``; read as float32. Or
      what :func:`prepare` made of them
    - q: weights ``(out_features, in_features)``, or a stack ``(..., out_features, in_features)``
      whose leading axes broadcast against those of x ``(..., rows, in_features)`` as in np.matmul.
      A list of weights gives the list of their products, with bias and out as lists too: the
      matrices that are packed alike share the work of preparing x, and run as one parallel job
    - bias: None, ``(out_features,)``, or one for each matrix of a stack
    - activations: how exactly x enters the product. ``"float32"``: untouched; ``"int16"``: 14 to
      16 bits with one scale for each row and group, an error of about 1e-4 of the norm of y;
      ``"int8"``: 8 bits, about 6e-3. Outliers in x take several times that (docs/accuracy.md).
      Unless said, ``"int16"`` or the mode that x was prepared for
    - out: a float32 array to write to and return; it may overlap x
    - experts: None, or integers from 0 to ``len(q) - 1``: row i of x is multiplied by matrix
      ``experts[i]`` of a stack ``(matrices, out_features, in_features)``, all of them
      in one parallel job. Their shape broadcasts against the leading axes of x:
      ``(tokens, 1, in_features)`` and ``(tokens, k)`` give ``(tokens, k, out_features)``

    A row of x with inf, NaN or a number of 4e34 or more, or in the integer modes with a group that
    is not zero and has none above 7.9e-31, is computed by float arithmetic, slower, and changes no
    other row. In the integer modes the result is the same to the bit on every machine, for any
    number of threads and any number of rows, and however the products are put together.

    Raises TypeError for types and dtypes, ValueError for shapes, for a number in x that float32
    cannot hold, for an unknown mode, and for weights that x was not prepared for, IndexError for
    an expert that does not exist; the message names the argument.

    >>> import numpy as np, binq
    >>> q = binq.quantize([[1.0, -1.0], [0.0, 2.0]], "ternary", group_size=None)
    >>> binq.linear([[3.0, 1.0]], q, bias=[0.5, 0.0], activations="float32")
    array([[2.5, 2. ]], dtype=float32)
    >>> stack = binq.quantize(np.eye(2)[:, None] * [[[1.0]], [[8.0]]], "ternary")
    >>> binq.linear([[1, 2], [3, 4], [5, 6]], stack, experts=[1, 0, 1], activations="float32")
    array([[16.],
           [ 3.],
           [48.]], dtype=float32)
    """
    if not isinstance(q, QuantizedArray):
        return _linear_each(x, q, bias, activations, out, experts)
    if experts is None:
        return multiply(x, q._data, bias, activations, out)
    if q.ndim != 3:
        raise ValueError(
            "q must be a stack (matrices, out_features, in_features) where experts are given, "
            f"got shape {q.shape}"
        )
    if isinstance(x, Prepared):
        raise TypeError("x must be an array where experts are given, got a prepared one")
    data = q._data
    return multiply_experts(
        x, data.matrices(), data.shape, experts, bias, activations, out, data.packing.rotation
    )


def prepare(
    x: ArrayLike, *, like: QuantizedArray, activations: ActivationsName = "int16"
) -> Prepared:
    """Returns x prepared for products with weights packed as ``like``.

    A product first turns its rows of x into integers or tables. Matrices that multiply the same x,
    as the query, key and value weights of attention do, need that once::

        p = binq.prepare(x, like=query)
        q, k, v = (binq.linear(p, w) for w in (query, key, value))

    - x: as for :func:`linear`; copied, so that later writes to it change nothing
    - like: weights of the format, group size and in_features of those to come
    - activations: the mode of the products, as for :func:`linear`

    The products are the same to the bit as those of x itself. For more than a few hundred rows,
    or a stack, each product prepares x anew: it then costs next to nothing.

    Raises TypeError and ValueError as linear does; linear itself raises ValueError for weights of
    another format, group size or symmetry.

    >>> import numpy as np, binq
    >>> q = binq.quantize(np.eye(64), "ternary", group_size=64)
    >>> p = binq.prepare(np.ones((2, 64)), like=q, activations="int8")
    >>> p
    Prepared(shape=(2, 64), ternary g64, int8)
    >>> bool((binq.linear(p, q) == binq.linear(np.ones((2, 64)), q, activations="int8")).all())
    True
    """
    if isinstance(x, Prepared):
        raise TypeError("x must be an array, got a prepared one")
    return Prepared(x, _weights("like", like)._data, activations)


def _linear_each(
    x: Any, qs: Any, bias: Any, activations: ActivationsName, out: Any, experts: Any
) -> list[NDArray[np.float32]]:
    """Returns the products of x with each of a list of weights."""
    if not isinstance(qs, list | tuple):
        _weights("q", qs)
    for number, q in enumerate(qs):
        if not isinstance(q, QuantizedArray):
            _weights(f"q[{number}]", q)
    biases, outs = _spread("bias", bias, len(qs)), _spread("out", out, len(qs))
    if experts is None:
        return multiply_each(x, [q._data for q in qs], biases, activations, outs)
    return [
        linear(x, q, one_bias, activations, one_out, experts=experts)
        for q, one_bias, one_out in zip(qs, biases, outs, strict=True)
    ]


def _spread(name: str, values: Any, count: int) -> list[Any]:
    """Returns one value for each of the weights."""
    if values is None:
        return [None] * count
    if not isinstance(values, list | tuple) or len(values) != count:
        got = f"{len(values)}" if isinstance(values, list | tuple) else type(values).__name__
        raise ValueError(f"{name} must be a list of {count}, one for each of q, got {got}")
    return list(values)


def _weights(name: str, q: Any) -> QuantizedArray:
    """Returns q. Raises TypeError unless it is packed weights."""
    if not isinstance(q, QuantizedArray):
        hint = f": pass {name}, not {name}.T" if isinstance(q, PackedOperand) else ""
        raise TypeError(f"{name} must be a QuantizedArray, got {type(q).__name__}{hint}")
    return q


def matmul(
    a: Any,
    b: Any,
    *,
    activations: ActivationsName = "int16",
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Returns ``a @ b`` where one of the two is packed, with numpy.matmul's rules for shapes.

    ``x @ q.T``, ``x @ q.mT`` for a stack, or ``q @ x``. The arguments are those of
    :func:`linear`; ``np.matmul`` and ``@`` do the same with the default mode.

    Raises TypeError for other pairs, such as ``x @ q``, and as linear does.

    >>> import numpy as np, binq
    >>> q = binq.quantize([[1.0, -1.0], [0.0, 2.0]], "ternary", group_size=None)
    >>> binq.matmul([3.0, 1.0], q.T, activations="float32")
    array([2., 2.], dtype=float32)
    """
    y: NDArray[np.float32] = matmul_operands(a, b, activations, out)
    return y
