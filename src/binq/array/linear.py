"""Products with packed weights, with every choice: linear and matmul."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from binq.array.array import QuantizedArray
from binq.array.choices import ActivationsName
from binq.array.product import multiply
from binq.array.protocols import PackedOperand, matmul_operands


def linear(
    x: ArrayLike,
    q: QuantizedArray,
    bias: ArrayLike | None = None,
    activations: ActivationsName = "int16",
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Returns ``x @ q.mT + bias``: a linear layer with packed weights.

    ``y[..., n] = sum_k x[..., k] * w[n, k] + bias[n]``, with w the weights of q.

    - x: real numbers of any dtype and memory layout, ``(..., in_features)``; read as float32
    - q: weights ``(out_features, in_features)``, or a stack ``(..., out_features, in_features)``
      whose leading axes broadcast against those of x ``(..., rows, in_features)`` as in np.matmul
    - bias: None, ``(out_features,)``, or one for each matrix of a stack
    - activations: how exactly x enters the product. ``"float32"``: untouched; ``"int16"``: 14 to
      16 bits with one scale for each row and group, an error of about 1e-4 of the norm of y;
      ``"int8"``: 8 bits, about 6e-3. Outliers in x take several times that (docs/accuracy.md)
    - out: a float32 array to write to and return; it may overlap x

    A row of x with inf, NaN or a number of 4e34 or more, or in the integer modes with a group that
    is not zero and has none above 7.9e-31, is computed by float arithmetic, slower, and changes no
    other row. In the integer modes the result is the same to the bit on every machine, for any
    number of threads and any number of rows.

    Raises TypeError for types and dtypes, ValueError for shapes, for a number in x that float32
    cannot hold, and for an unknown mode; the message names the argument.

    >>> import numpy as np, binq
    >>> q = binq.quantize([[1.0, -1.0], [0.0, 2.0]], "ternary", group_size=None)
    >>> binq.linear([[3.0, 1.0]], q, bias=[0.5, 0.0], activations="float32")
    array([[2.5, 2. ]], dtype=float32)
    """
    if not isinstance(q, QuantizedArray):
        hint = ": pass q, not q.T" if isinstance(q, PackedOperand) else ""
        raise TypeError(f"q must be a QuantizedArray, got {type(q).__name__}{hint}")
    return multiply(x, q._data, bias, activations, out)


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
