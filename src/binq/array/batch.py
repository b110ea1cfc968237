"""Many products as one parallel job: one x by many matrices, rows of x by their experts."""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binq import _core
from binq.array.checks import as_float32, check_choice, check_out, plain_array
from binq.array.packed import Packed
from binq.array.prepared import DEFAULT_ACTIVATIONS, Prepared, check_in_features
from binq.array.product import check_bias, multiply
from binq.array.rotation import Rotation

_FLOAT32 = np.dtype(np.float32)
_MODES = _core.ACTIVATIONS


def multiply_each(
    x: Any,
    weights: Sequence[Packed],
    biases: Sequence[Any],
    activations: str,
    outs: Sequence[Any],
) -> list[NDArray[np.float32]]:
    """Returns ``x @ q.mT + bias`` for each of several packed weights.

    Matrices of one packing share the prepared rows of x and run as one job.
    """
    if not isinstance(x, Prepared):
        x = as_float32("x", x)
    shape = x.shape
    natives = [q.native or q.matrices() for q in weights]
    if any(len(q.shape) != 2 or not q.native for q in weights) or not prod(shape):
        results = [
            multiply(x, q, bias, activations) for q, bias in zip(weights, biases, strict=True)
        ]
        return _finished(results, [None] * len(results), outs)
    added = []
    lead = shape[:-1]
    results = []
    for number, q in enumerate(weights):
        q_shape = q.shape
        if not shape or shape[-1] != q_shape[1]:
            check_in_features(shape, q_shape, f"q[{number}]")
        bias = biases[number]
        added.append(None if bias is None else check_bias(bias, q_shape, len(shape) > 1))
        results.append(np.empty((*lead, q_shape[0]), _FLOAT32))
    flat = tuple(results)
    if len(shape) != 2:
        flat = tuple(y.reshape(-1, y.shape[-1]) for y in results)
    matrices = tuple(native[0] for native in natives)
    if isinstance(x, Prepared):
        for q in weights:
            x.floats(q, activations)
        x.multiply(matrices, flat)
    else:
        try:
            mode = _MODES[activations]
        except (KeyError, TypeError):
            check_choice("activations", activations, _MODES)
            raise
        rows = x if len(shape) == 2 else x.reshape(-1, shape[-1])
        rotations = {q.packing.rotation for q in weights}
        for rotation in rotations:
            turned = rows if rotation is None else rotation.forward(rows)
            if len(rotations) == 1:
                _core.multiply_shared(matrices, turned, flat, mode)
                break
            same = [n for n, q in enumerate(weights) if q.packing.rotation == rotation]
            those = tuple(matrices[n] for n in same)
            _core.multiply_shared(those, turned, tuple(flat[n] for n in same), mode)
    return _finished(results, added, outs)


def multiply_experts(
    x: Any,
    matrices: tuple[_core.PackedMatrix, ...],
    shape: tuple[int, ...],
    experts: Any,
    bias: Any = None,
    activations: str = DEFAULT_ACTIVATIONS,
    out: Any = None,
    rotation: Rotation | None = None,
) -> NDArray[np.float32]:
    """Returns ``x[i] @ w[experts[i]].T + bias`` for all rows i, as one job.

    - matrices, shape: the matrices ``(out_features, in_features)`` of a stack, and its shape
    - rotation: the basis of the weights
    - experts: integers whose shape broadcasts against the leading axes of x
    """
    mode = _MODES[check_choice("activations", activations, _MODES)]
    x = as_float32("x", x)
    check_in_features(x.shape, shape)
    if rotation is not None:
        x = rotation.forward(x)
    count, out_features, in_features = shape
    ids = _check_experts(experts, count)
    try:
        batch = np.broadcast_shapes(x.shape[:-1], ids.shape)
    except ValueError:
        raise ValueError(
            f"experts must have a shape that broadcasts against the rows of x {x.shape[:-1]}, "
            f"got {ids.shape}"
        ) from None
    added = None if bias is None else _bias_of(bias, shape, ids)
    y = np.empty((*batch, out_features), _FLOAT32)
    if out is not None:
        check_out(out, y.shape, _FLOAT32)
    if in_features and y.size:
        chosen = np.broadcast_to(ids, batch).reshape(-1)
        target = y.reshape(-1, out_features)
        if x.size == in_features:
            ends = np.arange(1, len(chosen) + 1)
            rows = x.reshape(1, in_features)
            _core.multiply_experts(matrices, chosen, ends, rows, target, mode)
        else:
            rows = np.broadcast_to(x, (*batch, in_features)).reshape(-1, in_features)
            _multiply_sorted(rows, matrices, chosen, target, mode)
    else:
        y.fill(0.0)
    return _finished([y], [added], [out])[0]


def _multiply_sorted(
    x: NDArray[np.float32],
    matrices: tuple[_core.PackedMatrix, ...],
    chosen: NDArray[np.int64],
    target: NDArray[np.float32],
    mode: int,
) -> None:
    """Writes the product of each row, those of one expert side by side."""
    order = chosen.argsort(kind="stable")
    experts = chosen[order]
    ends = np.append(np.flatnonzero(experts[1:] != experts[:-1]) + 1, len(experts))
    if len(ends) == len(experts):  # No expert twice: the rows may stay where they are.
        _core.multiply_experts(matrices, np.ascontiguousarray(chosen), ends, x, target, mode)
        return
    y = np.empty_like(target)
    _core.multiply_experts(matrices, experts[ends - 1], ends, x[order], y, mode)
    target[order] = y


def _check_experts(experts: Any, count: int) -> NDArray[np.int64]:
    array = plain_array("experts", experts)
    if array.dtype.kind not in "iu":
        if array.size:
            raise TypeError(f"experts must hold integers, got dtype {array.dtype}")
        array = array.astype(np.int64)
    wrong = (array < 0) | (array >= count)
    if wrong.any():
        index = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise IndexError(f"experts must be from 0 to {count - 1}, got {array[index]} at {index}")
    return array.astype(np.int64, copy=False)


def _bias_of(bias: Any, shape: tuple[int, ...], ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """Returns what is added to each row: one bias for all, or that of its expert."""
    array = as_float32("bias", bias)
    if array.shape == shape[1:2]:
        return array
    if array.shape == shape[:2]:
        return array[ids]
    raise ValueError(f"bias must have shape {shape[1:2]} or {shape[:2]}, got {array.shape}")


def _finished(
    results: list[NDArray[np.float32]], biases: Sequence[Any], outs: Sequence[Any]
) -> list[NDArray[np.float32]]:
    """Returns the results with their biases, in the arrays that were asked for.

    Every sum is made before the first is written: an out may overlap a bias.
    """
    for y, bias, out in zip(results, biases, outs, strict=True):
        if out is not None:
            check_out(out, y.shape, _FLOAT32)
        if bias is not None:
            y += bias
    if not any(out is not None for out in outs):
        return results
    for number, out in enumerate(outs):
        if out is not None:
            out[...] = results[number]
            results[number] = out
    return results
