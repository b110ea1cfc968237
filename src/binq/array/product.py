"""The product ``x @ q.mT`` and everything numpy may hand over for it.

linear.py and array.py are its two faces; this module knows neither.
"""

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binq import _core
from binq.array.checks import as_float32, check_choice, check_out
from binq.array.packed import Packed
from binq.array.prepared import DEFAULT_ACTIVATIONS, Prepared, check_in_features

_FLOAT32 = np.dtype(np.float32)
_MODES = _core.ACTIVATIONS


def multiply(
    x: Any,
    q: Packed,
    bias: Any = None,
    activations: str = DEFAULT_ACTIVATIONS,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Returns ``np.matmul(x, q.mT) + bias`` in float32, computed on the packed weights.

    A small product costs about as much in this function as in compiled code: its lines are
    ordered so that a plain float32 x and a matrix q pass few checks.
    """
    try:
        mode = _MODES[activations]
    except (KeyError, TypeError):
        check_choice("activations", activations, _MODES)
        raise
    prepared = None
    if not (
        type(x) is np.ndarray
        and x.dtype == _FLOAT32
        and (flags := x.flags).c_contiguous
        and flags.aligned
    ):
        if isinstance(x, Prepared):
            prepared, x = x, x.floats(q, activations)
            mode = _MODES[prepared.activations]
        else:
            x = as_float32("x", x)
    q_shape = q.shape
    shape = x.shape
    if not shape or shape[-1] != q_shape[-1]:
        check_in_features(shape, q_shape)
    is_stack = len(q_shape) > 2
    if is_stack:
        shape = stack_shape(shape, q_shape)
    result_shape = (*shape[:-1], q_shape[-2])
    if bias is not None:
        bias = check_bias(bias, q_shape, x.ndim > 1)
    if out is None:
        y = target = np.empty(result_shape, _FLOAT32)
    else:
        target = check_out(out, result_shape, _FLOAT32)
        if bias is not None and np.may_share_memory(target, bias):
            bias = bias.copy()
        y = target if _writable_in_place(target, x) else np.empty(result_shape, _FLOAT32)
    matrices = q.native or q.matrices()
    if q.packing.rotation is not None and prepared is None:
        x = q.packing.rotation.forward(x)
    if not matrices:
        y.fill(0.0)
    elif is_stack:
        _multiply_stack(x, q_shape, matrices, y, mode)
    elif prepared is not None:
        prepared.multiply(matrices, (y.reshape(-1, q_shape[-2]),))
    elif len(shape) == 2:
        matrices[0].multiply(x, y, mode)
    else:
        rows = y.size // q_shape[-2]
        matrices[0].multiply(x.reshape(rows, q_shape[-1]), y.reshape(rows, q_shape[-2]), mode)
    if bias is not None:
        y += bias
    if y is not target:
        target[...] = y
    return target


def stack_shape(x_shape: tuple[int, ...], q_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shape of x broadcast against the leading axes of a stack."""
    try:
        batch = np.broadcast_shapes(x_shape[:-2], q_shape[:-2])
    except ValueError:
        raise ValueError(
            f"the leading axes of x {x_shape} do not broadcast against those of the weights "
            f"{q_shape}"
        ) from None
    return (*batch, *x_shape[-2:])


def _multiply_stack(
    x: NDArray[np.float32],
    q_shape: tuple[int, ...],
    matrices: tuple[_core.PackedMatrix, ...],
    y: NDArray[np.float32],
    mode: int,
) -> None:
    """Writes ``x @ q.mT`` for a stack q into y, matrix by matrix."""
    if not y.size:
        return
    *lead, out_features, in_features = q_shape
    # Without a row axis x is one vector for all matrices.
    rows, batch = (x.shape[-2], y.shape[:-2]) if x.ndim > 1 else (1, y.shape[:-1])
    blocks = x.reshape(-1, rows, in_features)
    targets = y.reshape(-1, rows, out_features)
    for target, block, matrix in zip(
        targets,
        _broadcast_indices(x.shape[:-2], batch),
        _broadcast_indices(tuple(lead), batch),
        strict=True,
    ):
        matrices[matrix].multiply(blocks[block], target, mode)


def _broadcast_indices(shape: tuple[int, ...], batch: tuple[int, ...]) -> list[int]:
    """Returns which of the items of ``shape``, counted in C order, belongs to each of ``batch``."""
    items = np.arange(prod(shape)).reshape(shape)
    indices: list[int] = np.broadcast_to(items, batch).reshape(-1).tolist()
    return indices


def check_bias(bias: Any, q_shape: tuple[int, ...], has_rows: bool) -> NDArray[np.float32]:
    """Returns the bias as float32, ready to be added to y."""
    array = as_float32("bias", bias)
    per_matrix = q_shape[:-1]
    if array.shape == per_matrix[-1:]:
        return array
    if array.shape == per_matrix:
        return array[..., None, :] if has_rows else array
    allowed = f"{per_matrix[-1:]}" + (f" or {per_matrix}" if len(per_matrix) > 1 else "")
    raise ValueError(f"bias must have shape {allowed}, got {array.shape}")


def _writable_in_place(out: NDArray[np.float32], x: NDArray[np.float32]) -> bool:
    """Returns whether compiled code can write the result straight into ``out``."""
    flags = out.flags
    return bool(flags.c_contiguous and flags.aligned) and not np.may_share_memory(out, x)
