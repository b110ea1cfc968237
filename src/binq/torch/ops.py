"""Products on tensors: plain functions for eager code, operators for torch.compile and autograd.

The operators are opaque to the compiler and differentiable in x. They are defined on a Library and
not by custom_op, whose every call costs tens of microseconds; eager code without gradients calls
the functions and pays nothing for the dispatcher.
"""

from typing import Any

import numpy as np
import torch

from binq.array.batch import multiply_experts
from binq.array.product import multiply
from binq.torch.cells import Cell, cell_of

_LIBRARY = torch.library.Library("binq", "DEF")
_LIBRARY.define("linear(Tensor x, int weight, int out_features, str activations) -> Tensor")
_LIBRARY.define("linear_back(Tensor dy, int weight, int in_features) -> Tensor")
_LIBRARY.define("lookup(Tensor ids, int weight, int width, ScalarType dtype) -> Tensor")
_LIBRARY.define(
    "experts(Tensor x, Tensor ids, int weight, int out_features, str activations) -> Tensor"
)
_LIBRARY.define("experts_back(Tensor dy, Tensor ids, int weight, int in_features) -> Tensor")


def linear(x: torch.Tensor, cell: Cell, activations: str) -> torch.Tensor:
    """Returns ``x @ w.T`` in the dtype of x, for an x without gradient."""
    if x.dtype is torch.float32:
        return torch.from_numpy(multiply(x.numpy(), cell.q, None, activations))
    return torch.from_numpy(multiply(x.float().numpy(), cell.q, None, activations)).to(x.dtype)


def linear_back(dy: torch.Tensor, cell: Cell) -> torch.Tensor:
    """Returns the gradient of x: ``dy @ w``."""
    return dy @ torch.from_numpy(cell.dequantize()).to(dy.dtype)


def lookup(ids: torch.Tensor, cell: Cell, dtype: torch.dtype) -> torch.Tensor:
    """Returns rows of the weight as floats, ``(*ids.shape, width)``."""
    rows = ids.numpy()
    count = cell.q.shape[0]
    if rows.size and not 0 <= rows.min() <= rows.max() < count:
        wrong = rows[(rows < 0) | (rows >= count)]
        raise IndexError(f"ids must be from 0 to {count - 1}, got {wrong.flat[0]}")
    # Not made as packed weights in between: only these rows are ever unpacked.
    floats = cell.arrays[0][np.atleast_1d(rows)].dequantize()
    return torch.from_numpy(floats.reshape(*rows.shape, cell.q.shape[1])).to(dtype)


def experts(x: torch.Tensor, ids: torch.Tensor, cell: Cell, activations: str) -> torch.Tensor:
    """Returns each row of x by the matrix of its expert; ids broadcast against the rows."""
    floats = x if x.dtype is torch.float32 else x.float()
    y = multiply_experts(
        floats.numpy(),
        cell.matrices,
        cell.shape,
        ids.numpy(),
        None,
        activations,
        rotation=cell.q.packing.rotation,
    )
    return torch.from_numpy(y).to(x.dtype)


def experts_back(dy: torch.Tensor, ids: torch.Tensor, cell: Cell) -> torch.Tensor:
    """Returns the gradient of each row ``(*ids.shape, in_features)``, expert by expert."""
    flat = ids.reshape(-1)
    rows = dy.reshape(len(flat), -1)
    dx = rows.new_empty(len(flat), cell.shape[-1])
    for expert in np.unique(flat.numpy()).tolist():
        chosen = (flat == expert).nonzero()[:, 0]
        w = torch.from_numpy(cell.matrix(expert).dequantize()).to(dy.dtype)
        dx[chosen] = rows[chosen] @ w
    return dx.reshape(*ids.shape, -1)


def _linear(x: torch.Tensor, weight: int, out_features: int, activations: str) -> torch.Tensor:
    return linear(x.detach(), cell_of(weight), activations)


def _linear_back(dy: torch.Tensor, weight: int, in_features: int) -> torch.Tensor:
    return linear_back(dy, cell_of(weight))


def _lookup(ids: torch.Tensor, weight: int, width: int, dtype: torch.dtype) -> torch.Tensor:
    return lookup(ids, cell_of(weight), dtype)


def _experts(
    x: torch.Tensor, ids: torch.Tensor, weight: int, out_features: int, activations: str
) -> torch.Tensor:
    return experts(x.detach(), ids, cell_of(weight), activations)


def _experts_back(
    dy: torch.Tensor, ids: torch.Tensor, weight: int, in_features: int
) -> torch.Tensor:
    return experts_back(dy, ids, cell_of(weight))


for _name, _function in (
    ("linear", _linear),
    ("linear_back", _linear_back),
    ("lookup", _lookup),
    ("experts", _experts),
    ("experts_back", _experts_back),
):
    _LIBRARY.impl(_name, _function, "CPU")


# What the compiler needs to know: shapes and dtypes.


@torch.library.register_fake("binq::linear", lib=_LIBRARY)
def _(x: Any, weight: Any, out_features: Any, activations: Any) -> Any:
    return x.new_empty(*x.shape[:-1], out_features)


@torch.library.register_fake("binq::linear_back", lib=_LIBRARY)
def _(dy: Any, weight: Any, in_features: Any) -> Any:
    return dy.new_empty(*dy.shape[:-1], in_features)


@torch.library.register_fake("binq::lookup", lib=_LIBRARY)
def _(ids: Any, weight: Any, width: Any, dtype: Any) -> Any:
    return ids.new_empty(*ids.shape, width, dtype=dtype)


@torch.library.register_fake("binq::experts", lib=_LIBRARY)
def _(x: Any, ids: Any, weight: Any, out_features: Any, activations: Any) -> Any:
    return x.new_empty(*torch.broadcast_shapes(x.shape[:-1], ids.shape), out_features)


@torch.library.register_fake("binq::experts_back", lib=_LIBRARY)
def _(dy: Any, ids: Any, weight: Any, in_features: Any) -> Any:
    return dy.new_empty(*ids.shape, in_features)


# Gradients, of x alone: the weights are what they are.


def _keep_weight(ctx: Any, inputs: Any, output: Any) -> None:
    x, ctx.weight = inputs[0], inputs[1]
    ctx.in_features = x.shape[-1]


def _linear_gradient(ctx: Any, dy: Any) -> Any:
    return torch.ops.binq.linear_back(dy, ctx.weight, ctx.in_features), None, None, None


def _keep_experts(ctx: Any, inputs: Any, output: Any) -> None:
    x, ids, ctx.weight = inputs[:3]
    ctx.x_shape = x.shape
    ctx.save_for_backward(ids.expand(output.shape[:-1]))


def _experts_gradient(ctx: Any, dy: Any) -> Any:
    (ids,) = ctx.saved_tensors
    dx = torch.ops.binq.experts_back(dy, ids, ctx.weight, ctx.x_shape[-1])
    return dx.sum_to_size(ctx.x_shape), None, None, None, None


torch.library.register_autograd(
    "binq::linear", _linear_gradient, setup_context=_keep_weight, lib=_LIBRARY
)
torch.library.register_autograd(
    "binq::experts", _experts_gradient, setup_context=_keep_experts, lib=_LIBRARY
)
