"""quantize_: packs the layers of a model that is in memory already."""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any, TypeVar

import torch
from torch import nn

from binq.array import QuantizedArray
from binq.array.choices import DEFAULT_GROUP_SIZE
from binq.array.packing import Packing
from binq.methods.quantize import quantize
from binq.torch.cells import Cell
from binq.torch.experts import is_experts, lies_input_major, pack_experts
from binq.torch.modules import PackedModule, check_activations, check_plain, pack_module

_Model = TypeVar("_Model", bound=nn.Module)
# Small layers that choose: which expert, how much of a branch. Their errors cost the most.
_ROUTERS = ("router", "gate", "shared_expert_gate")


def quantize_(
    model: _Model,
    format: str,
    group_size: int | None = DEFAULT_GROUP_SIZE,
    *,
    activations: str = "int16",
    filter: Callable[[str, nn.Module], bool] | None = None,
    **settings: Any,
) -> _Model:
    """Returns the model, whose linear layers and experts are packed from now on, in place.

    - model: any module on the CPU, an encoder or a decoder, trained and ready
    - format, group_size: as in :func:`binq.quantize`, and ``settings`` are its other arguments
    - activations: how exactly x enters products, as in :func:`binq.linear`
    - filter: ``filter(name, module)`` says of each nn.Linear, nn.Embedding and module of experts
      whether to pack it. None: all linear layers and experts but the output head of a transformers
      model, layers whose weight is that of an embedding too, and routers; no embedding

    An embedding and the head that shares its weight are packed as one where the filter wants both.
    Raises as quantize does, naming the module, before anything is changed.

    >>> import torch, binq.torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU())
    >>> binq.torch.quantize_(model, "int4", 32)
    Sequential(
      (0): QuantizedLinear(64, 64, int4 g32, bias=True)
      (1): ReLU()
    )
    """
    check_activations(activations)
    if "return_bias" in settings:
        raise TypeError("return_bias is not for quantize_: correct biases with binq.quantize")
    wanted = _default_filter(model) if filter is None else filter
    chosen = {
        name: module
        for name, module in model.named_modules()
        if not isinstance(module, PackedModule)
        and (isinstance(module, nn.Linear | nn.Embedding) or is_experts(module))
        and wanted(name, module)
    }
    packed: dict[int, QuantizedArray] = {}
    plans = []
    for name, module in chosen.items():
        arrays = {}
        for key, weight in _weights(module).items():
            if id(weight) not in packed:
                packed[id(weight)] = _quantized(name, module, weight, format, group_size, settings)
            arrays[key] = packed[id(weight)]
        plans.append((module, arrays))
    cells: dict[int, Cell] = {}
    for module, arrays in plans:
        _pack(module, arrays, cells).activations = activations
    if hasattr(model, "save_pretrained") and find_spec("transformers"):
        import_module("binq.torch.plugin").mark(
            model, format, Packing.checked(format, group_size).group_size
        )
    return model


def _weights(module: nn.Module) -> dict[str, torch.Tensor]:
    """Returns the parameters of a module that are to be packed, by name."""
    names = ("weight", "gate_up_proj", "up_proj", "down_proj")
    return {name: w for name in names if (w := module._parameters.get(name)) is not None}


def _quantized(
    name: str,
    module: nn.Module,
    weight: torch.Tensor,
    format: str,
    group_size: int | None,
    settings: dict[str, Any],
) -> QuantizedArray:
    check_plain(name, module)
    w = weight.detach().float()
    if lies_input_major(module):
        w = w.mT
    try:
        packed: Any = quantize
        return packed(w.contiguous().numpy(), format, group_size=group_size, **settings)
    except ValueError as error:
        error.add_note(f"in module {name!r}")
        raise


def _pack(
    module: nn.Module, arrays: dict[str, QuantizedArray], cells: dict[int, Cell]
) -> PackedModule:
    dtype = next(iter(_weights(module).values())).dtype
    if "weight" not in arrays:
        stacks = {name: Cell([q], [name]) for name, q in arrays.items()}
        return pack_experts(module, stacks, dtype)
    q = arrays["weight"]
    tied = id(q) in cells
    return pack_module(module, cells.setdefault(id(q), Cell([q])), dtype, tied=tied)


def _default_filter(model: nn.Module) -> Callable[[str, nn.Module], bool]:
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None

    def wanted(name: str, module: nn.Module) -> bool:
        if isinstance(module, nn.Embedding) or module is head:
            return False
        if name.rpartition(".")[2] in _ROUTERS or ".router." in f".{name}.":
            return False
        return not isinstance(module, nn.Linear) or id(module.weight) not in embeddings

    return wanted
