"""Modules with packed weights: made of torch's own in place, and floats again by dequantize()."""

from functools import cache
from typing import Any, ClassVar, Self, TypeVar

import torch
from torch import nn

from binq import _core
from binq.array import QuantizedArray
from binq.array.checks import check_choice
from binq.torch import ops
from binq.torch.cells import Cell

_Model = TypeVar("_Model", bound=nn.Module)
_compiling = torch.compiler.is_compiling
_gradients = torch.is_grad_enabled


class WeightView:
    """What ``module.weight`` is of a packed module: a description, and the way to the floats.

    - shape, dtype, device, requires_grad: as of a float weight; dtype is that of the results
    - array: the QuantizedArray

    >>> import torch, binq.torch
    >>> layer = binq.torch.quantize_(torch.nn.Linear(64, 32), "int4", group_size=64)
    >>> layer.weight
    WeightView(QuantizedArray(int4, shape=(32, 64), group_size=64, 4.25 bits/weight, 1.1 KiB))
    """

    # transformers initializes what it did not load, unless it bears this mark.
    _is_hf_initialized = True
    requires_grad = False
    is_meta = False
    device = torch.device("cpu")

    def __init__(self, cell: Cell, dtype: torch.dtype) -> None:
        self._cell = cell
        self.dtype = dtype
        self.shape = torch.Size(cell.shape)
        self.ndim = len(self.shape)

    def __repr__(self) -> str:
        return f"WeightView({self.array!r})"

    @property
    def array(self) -> QuantizedArray:
        """Returns the packed weights, of the first expert where each has its own."""
        return self._cell.arrays[0]

    def size(self, axis: int | None = None) -> Any:
        """Returns the shape, or one size of it."""
        return self.shape if axis is None else self.shape[axis]

    def numel(self) -> int:
        """Returns the number of weights."""
        return self.shape.numel()

    def __getitem__(self, key: Any) -> torch.Tensor:
        """Returns part of the float weights; of one row or slice of rows, nothing else is made."""
        rows, *rest = key if isinstance(key, tuple) else (key,)
        if self.ndim != 2 or not isinstance(rows, int | slice):
            return self.dequantize()[key]
        count = self.shape[0]
        if isinstance(rows, slice):
            floats = self.array[rows].dequantize()
            rest = [slice(None), *rest]
        elif -count <= rows < count:
            floats = self.array[[rows]].dequantize()[0]
        else:
            raise IndexError(f"row must be from {-count} to {count - 1}, got {rows}")
        return torch.from_numpy(floats).to(self.dtype)[tuple(rest) or ...]

    def dequantize(self) -> torch.Tensor:
        """Returns the weights as floats of the module's dtype."""
        return torch.from_numpy(self._cell.dequantize()).to(self.dtype)


class PackedModule(nn.Module):
    """Base of modules with packed weights: state dicts, dtypes, copies.

    - activations: how exactly x enters products, as in :func:`binq.linear`
    """

    activations: str = "int16"
    # Names of the parameters that cells stand in for.
    _replaced: ClassVar[tuple[str, ...]] = ("weight",)
    # The class that a module had, and the class of this package that packs it.
    _original: ClassVar[type[nn.Module]] = nn.Module
    _base: ClassVar[type["PackedModule"]]
    _cells: dict[str, Cell]
    _dtype: torch.dtype
    # A tied module's cell is saved under the name of the module that it is tied to.
    _is_tied: bool
    # While transformers loads a model, packed weights are in no state dict: it need not read them.
    _is_loading: bool = False

    @classmethod
    def adopt(
        cls, module: nn.Module, cells: dict[str, Cell], dtype: torch.dtype, *, tied: bool = False
    ) -> Self:
        """Returns the module itself, which is packed from now on: hooks, bias, mode stay."""
        for name in cls._replaced:
            module._parameters.pop(name, None)
        module.__class__ = cls
        packed: Any = module
        packed.__dict__.update(_cells=cells, _dtype=dtype, _is_tied=tied)
        packed._after_cells()
        return packed

    def _after_cells(self) -> None:
        """Keeps what forward needs where it costs least to reach."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._after_cells()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _blank, (type(self)._original, type(self)._base), self.__dict__.copy()

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        probe = fn(torch.empty(0, dtype=self._dtype))
        if probe.device.type not in ("cpu", "meta"):
            raise RuntimeError(
                f"packed weights multiply on the CPU: leave the module there, got {probe.device}; "
                "dequantize() makes a float module that moves"
            )
        self._dtype = probe.dtype
        return super()._apply(fn, recurse)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if not (self._is_tied or self._is_loading):
            for cell in self._cells.values():
                for name, tensor in cell.tensors().items():
                    destination[prefix + name] = tensor

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        names = {name for cell in self._cells.values() for name in cell.tensors()}
        if self._is_tied:
            names = set()
        # The rest alone: to torch the names of parts look like those of a missing submodule.
        rest = {
            name: tensor
            for name, tensor in state_dict.items()
            if name.startswith(prefix) and name[len(prefix) :] not in names
        }
        super()._load_from_state_dict(
            rest, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        absent = [prefix + name for name in sorted(names) if prefix + name not in state_dict]
        if absent:
            missing_keys.extend(absent)
            return
        assign = local_metadata.get("assign_to_params_buffers", False)
        for cell in self._cells.values() if names else ():
            given = {name: state_dict[prefix + name] for name in cell.tensors()}
            try:
                cell.load(given, copy=not assign)
            except (TypeError, ValueError) as error:
                error_msgs.append(f"{prefix.removesuffix('.')}: {error}")

    def _view(self, name: str) -> WeightView:
        try:
            return WeightView(self._cells[name], self._dtype)
        except KeyError:
            raise AttributeError(f"{type(self).__name__} has no weight {name!r}") from None

    def _floats(self) -> dict[str, torch.Tensor]:
        """Returns the float parameters that the original module has."""
        return {"weight": self._view("weight").dequantize()}

    def dequantize(self) -> nn.Module:
        """Returns a module of the original class with float weights; this one stays packed."""
        state = self.__dict__.copy()
        for name in ("_cells", "_dtype", "_is_tied", "_is_loading", "activations", "_cell"):
            state.pop(name, None)
        floats = {name: nn.Parameter(w) for name, w in self._floats().items()}
        state["_parameters"] = floats | self._parameters
        for name in ("_buffers", "_modules"):
            state[name] = state[name].copy()
        original: Any = self._original
        module = original.__new__(original)
        nn.Module.__init__(module)
        module.__dict__.update(state)
        return module


class QuantizedLinear(PackedModule, nn.Linear):
    """A linear layer with packed weights: ``y = x @ w.T + bias``, in the dtype of x.

    The state dict has ``weight.packed``, ``weight.scales`` and, where there are any,
    ``weight.zero_points``, as files do; the bias is a parameter as ever. Gradients reach x and the
    bias. Runs on the CPU.

    - q: weights ``(out_features, in_features)``
    - bias: None or a tensor ``(out_features,)``
    - activations: how exactly x enters, as in :func:`binq.linear`

    Raises TypeError and ValueError for a wrong q, bias or mode.

    >>> import numpy as np, torch, binq, binq.torch
    >>> q = binq.quantize(np.eye(32), "ternary", group_size=32)
    >>> layer = binq.torch.QuantizedLinear(q)
    >>> layer(torch.ones(2, 32)).shape
    torch.Size([2, 32])
    """

    _original = nn.Linear

    def __init__(
        self,
        q: QuantizedArray,
        bias: torch.Tensor | None = None,
        activations: str = "int16",
    ) -> None:
        check_matrix(q)
        nn.Module.__init__(self)
        self.out_features, self.in_features = q.shape
        if bias is not None and bias.shape != (q.shape[0],):
            raise ValueError(f"bias must have shape ({q.shape[0]},), got {tuple(bias.shape)}")
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias))
        dtype = torch.float32 if bias is None else bias.dtype
        self.adopt(self, {"weight": Cell([q])}, dtype)
        self.activations = check_activations(activations)

    def _after_cells(self) -> None:
        self.__dict__["_cell"] = self._cells["weight"]

    @property
    def weight(self) -> Any:
        """Returns the description of the packed weight."""
        return self._view("weight")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns ``x @ w.T + bias`` of the shape ``(..., out_features)``."""
        bias = self._parameters["bias"]
        if _compiling() or (
            _gradients() and (x.requires_grad or (bias is not None and bias.requires_grad))
        ):
            y = torch.ops.binq.linear(x, self._cell.handle, self.out_features, self.activations)
            return y if bias is None else y + bias
        y = ops.linear(x.detach() if x.requires_grad else x, self._cell, self.activations)
        return y if bias is None else y.add_(bias)

    def extra_repr(self) -> str:
        bias = self.bias is not None
        return f"{self.in_features}, {self.out_features}, {self._cell.label}, bias={bias}"


class QuantizedEmbedding(PackedModule, nn.Embedding):
    """A table of packed rows: ``ids`` of any shape give ``(*ids.shape, embedding_dim)``.

    - q: weights ``(num_embeddings, embedding_dim)``
    - dtype: that of the results

    Raises TypeError and ValueError for a wrong q; IndexError, in forward, for ids out of range.

    >>> import numpy as np, torch, binq, binq.torch
    >>> table = binq.torch.QuantizedEmbedding(binq.quantize(np.eye(32), "ternary", group_size=32))
    >>> table(torch.tensor([3, 0])).argmax(-1)
    tensor([3, 0])
    """

    _original = nn.Embedding

    def __init__(self, q: QuantizedArray, dtype: torch.dtype = torch.float32) -> None:
        check_matrix(q)
        nn.Module.__init__(self)
        self.num_embeddings, self.embedding_dim = q.shape
        self.padding_idx = self.max_norm = None
        self.norm_type, self.scale_grad_by_freq, self.sparse = 2.0, False, False
        self.adopt(self, {"weight": Cell([q])}, dtype)

    def _after_cells(self) -> None:
        self.__dict__["_cell"] = self._cells["weight"]

    @property
    def weight(self) -> Any:
        """Returns the description of the packed weight."""
        return self._view("weight")

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Returns the rows of ids as floats."""
        if _compiling():
            result: torch.Tensor = torch.ops.binq.lookup(
                ids, self._cell.handle, self.embedding_dim, self._dtype
            )
            return result
        return ops.lookup(ids, self._cell, self._dtype)

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, {self._cell.label}"


def packed_class(original: Any, base: Any) -> type[PackedModule]:
    """Returns the packed form of a class of modules.

    A subclass of nn.Linear or nn.Embedding keeps its own forward, which finds the packed one where
    it calls that of its parent.
    """
    made: type[PackedModule] = _packed_class(original, base)
    return made


@cache
def _packed_class(original: Any, base: Any) -> Any:
    if original is base._original:
        return base
    derived = base._original is not nn.Module and issubclass(original, base._original)
    bases = (original, base) if derived else (base, original)
    name = f"Quantized{original.__name__}"
    return type(name, bases, {"_original": original, "__module__": base.__module__})


def _blank(original: type[nn.Module], base: type[PackedModule]) -> nn.Module:
    """Returns a packed module without any state, for copies and pickles to fill."""
    cls = packed_class(original, base)
    return cls.__new__(cls)


QuantizedLinear._base = QuantizedLinear
QuantizedEmbedding._base = QuantizedEmbedding


def check_matrix(q: Any) -> None:
    """Raises TypeError or ValueError unless q is one packed matrix."""
    if not isinstance(q, QuantizedArray):
        raise TypeError(f"q must be a QuantizedArray, got {type(q).__name__}")
    if q.ndim != 2:
        raise ValueError(f"q must be one matrix (out_features, in_features), got shape {q.shape}")


def check_activations(activations: Any) -> str:
    """Returns the mode. Raises TypeError or ValueError for another word."""
    return check_choice("activations", activations, _core.ACTIVATIONS)


def set_activations(model: _Model, activations: str) -> _Model:
    """Returns the model, all packed modules of which have the mode from now on.

    - activations: ``"float32"``, ``"int16"`` or ``"int8"``, as in :func:`binq.linear`

    Raises TypeError or ValueError for another word.

    >>> import torch, binq.torch
    >>> layer = binq.torch.quantize_(torch.nn.Linear(64, 64), "int4", 32)
    >>> binq.torch.set_activations(layer, "int8").activations
    'int8'
    """
    check_activations(activations)
    for module in model.modules():
        if isinstance(module, PackedModule):
            module.activations = activations
    return model


def check_plain(name: str, module: nn.Module) -> None:
    """Raises ValueError for an embedding that does more to its rows than to look them up."""
    if isinstance(module, nn.Embedding) and module.max_norm is not None:
        raise ValueError(f"{name}: an embedding with max_norm changes its weights: not packed")


def pack_module(
    module: nn.Module, cell: Cell, dtype: torch.dtype, *, tied: bool = False
) -> PackedModule:
    """Returns a linear layer or an embedding, packed in place."""
    base = QuantizedEmbedding if isinstance(module, nn.Embedding) else QuantizedLinear
    return packed_class(type(module), base).adopt(module, {"weight": cell}, dtype, tied=tied)
