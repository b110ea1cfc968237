"""QuantizedExperts: the routed experts of a mixture, every family's, in one call a projection.

transformers writes its families' experts in one way: a class with ``gate_up_proj`` and
``down_proj`` stacked over the experts, marked by a decorator that says what else it has (biases,
a gate of its own, a norm). The packed class keeps that class's gate, biases and norms and does the
products. Llama 4's class alone has another forward.
"""

from typing import Any

import torch
from torch import nn

from binq.torch import ops
from binq.torch.cells import Cell
from binq.torch.modules import PackedModule, WeightView, packed_class


class QuantizedExperts(PackedModule):
    """Experts with packed weights, made in place of a class of transformers.

    The weights stay as a file has them: one stack for all experts, or one matrix for each, gate
    and up apart. Every token's rows are multiplied by the matrices of the experts it chose, all of
    them in one parallel job, without a copy of weights.
    """

    _replaced = ("gate_up_proj", "up_proj", "down_proj")

    @property
    def gate_up_proj(self) -> Any:
        """Returns the description of the packed gate and up weights."""
        return self._view("gate_proj" if "gate_proj" in self._cells else "gate_up_proj")

    @property
    def up_proj(self) -> Any:
        """Returns the description of the packed up weights."""
        return self._view("up_proj")

    @property
    def down_proj(self) -> Any:
        """Returns the description of the packed down weights."""
        return self._view("down_proj")

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Returns the weighted sum of each token's experts.

        - hidden_states: ``(tokens, hidden)``
        - then, under the names of the family: the experts ``(tokens, k)`` and their weights
        """
        this: Any = self
        chosen, weights = (*args, *kwargs.values())
        tokens, k = chosen.shape
        ids = chosen.reshape(-1)
        if this.has_gate:
            h = self._gate_up(hidden_states[:, None], chosen).reshape(tokens * k, -1)
            if this.has_bias:
                h = h + this.gate_up_proj_bias[ids]
            h = this._apply_gate(h)
        else:
            h = self._product("up_proj", hidden_states[:, None], chosen).reshape(tokens * k, -1)
            h = this.act_fn(h + this.up_proj_bias[ids] if this.has_bias else h)
        y = self._product("down_proj", h, ids)
        if this.has_bias:
            y = y + this.down_proj_bias[ids]
        if this.has_post_expert_norm:
            y = this.post_expert_norm(y)
        y = y.reshape(tokens, k, -1) * weights[..., None]
        return y.sum(dim=1).to(hidden_states.dtype)

    def _gate_up(self, x: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Returns gate and up side by side, as the stack of both has them."""
        if "gate_up_proj" in self._cells:
            return self._product("gate_up_proj", x, ids)
        return torch.cat([self._product(name, x, ids) for name in ("gate_proj", "up_proj")], -1)

    def _product(self, name: str, x: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        cell = self._cells[name]
        if torch.compiler.is_compiling() or (torch.is_grad_enabled() and x.requires_grad):
            y: torch.Tensor = torch.ops.binq.experts(
                x, ids, cell.handle, cell.shape[1], self.activations
            )
            return y
        return ops.experts(x.detach(), ids, cell, self.activations)

    def extra_repr(self) -> str:
        return ", ".join(
            f"{name}={tuple(cell.shape)} {cell.label}" for name, cell in self._cells.items()
        )

    def _floats(self) -> dict[str, torch.Tensor]:
        floats = {name: WeightView(c, self._dtype).dequantize() for name, c in self._cells.items()}
        if "gate_proj" in floats:
            both = [floats.pop("gate_proj"), floats.pop("up_proj")]
            floats = {"gate_up_proj": torch.cat(both, 1), **floats}
        if lies_input_major(self):
            floats = {name: w.mT.contiguous() for name, w in floats.items()}
        return floats


class QuantizedLlama4Experts(QuantizedExperts):
    """The experts of Llama 4, whose forward gets every token once for each expert.

    Tokens that an expert was not chosen for come as rows of zeros, and are skipped.
    """

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Returns the output of each row ``(experts * tokens, hidden)``."""
        this: Any = self
        count = self._cells["down_proj"].shape[0]
        x = hidden_states.reshape(-1, hidden_states.shape[-1])
        ids = torch.arange(count).repeat_interleave(len(x) // count)
        everything = torch.compiler.is_compiling() or x.requires_grad
        rows = slice(None) if everything else x.any(dim=-1).nonzero()[:, 0]
        gate, up = self._gate_up(x[rows], ids[rows]).chunk(2, dim=-1)
        y = self._product("down_proj", up * this.act_fn(gate), ids[rows])
        if everything:
            return y
        out = y.new_zeros(len(x), y.shape[-1])
        out[rows] = y
        return out


QuantizedExperts._base = QuantizedExperts
QuantizedLlama4Experts._base = QuantizedLlama4Experts


def is_experts(module: nn.Module) -> bool:
    """Returns whether a module is a class of experts that can be packed."""
    return (hasattr(module, "_apply_gate") and hasattr(module, "has_gate")) or _is_llama4(module)


def pack_experts(module: nn.Module, cells: dict[str, Cell], dtype: torch.dtype) -> PackedModule:
    """Returns a module of experts, packed in place.

    - cells: gate_up_proj or gate_proj and up_proj, and down_proj, of shape
      ``(experts, out_features, in_features)``

    Raises ValueError for shapes other than those of the module's float weights.
    """
    base = QuantizedLlama4Experts if _is_llama4(module) else QuantizedExperts
    input_major = lies_input_major(module)
    for name, parameter in list(module._parameters.items()):
        if name not in base._replaced or parameter is None:
            continue
        count, rows, columns = parameter.shape
        expected = (count, columns, rows) if input_major else (count, rows, columns)
        if name in cells:
            shape = tuple(cells[name].shape)
        else:
            shape = tuple(cells["gate_proj"].shape)
            shape = (shape[0], shape[1] + cells["up_proj"].shape[1], shape[2])
        if shape != expected:
            raise ValueError(f"{name} must have shape {expected}, got packed weights of {shape}")
    return packed_class(type(module), base).adopt(module, cells, dtype)


def _is_llama4(module: nn.Module) -> bool:
    return any(cls.__name__ == "Llama4TextExperts" for cls in type(module).__mro__)


def lies_input_major(module: nn.Module) -> bool:
    """Returns whether float weights lie as ``(experts, in_features, out_features)``."""
    return bool(getattr(module, "is_transposed", False)) or _is_llama4(module)
