"""Attachment: the packed tensors of files, given to the modules of a model that they belong to."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    Concatenate,
    MergeModulelist,
    WeightConverter,
    WeightRenaming,
    apply_renamings,
    rename_source_key,
)

from binq.array import QuantizedArray
from binq.errors import FormatError, UnsupportedFormatError
from binq.files import metadata as binq_metadata
from binq.files.safetensors import SafetensorsFile
from binq.torch.cells import Cell, as_torch
from binq.torch.experts import is_experts, pack_experts
from binq.torch.modules import PackedModule, check_plain, pack_module

_FLOATS = {"F64", "F32", "F16", "BF16"}
# The leaf of a module of experts by the place of a stored name among those that are joined in it.
_ROLES = {
    "gate_up_proj": ("gate_proj", "up_proj"),
    "up_proj": ("up_proj",),
    "down_proj": ("down_proj",),
}

# Stacks of experts that transformers has no name for: as MLX has them.
_STACK = re.compile(r"(.+\.)(?:experts\.)?switch_(?:mlp|glu)\.((?:gate|up|down)_proj)\.weight")


class Files:
    """The tensors of safetensors files: packed ones mapped, of the others the types.

    Raises FormatError where a packed tensor lacks parts or does not fit them.
    """

    def __init__(self, paths: Iterable[Any]) -> None:
        self.packed: dict[str, QuantizedArray] = {}
        self.kept: dict[str, str] = {}
        self._holders: dict[str, SafetensorsFile] = {}
        arrays: dict[str, NDArray[Any]] = {}
        described: dict[str, tuple[binq_metadata.Description, Any]] = {}
        for path in paths:
            file = SafetensorsFile(path)
            found = binq_metadata.described(file.metadata, path)[0]
            described.update((name, (d, path)) for name, d in found.items())
            parts = binq_metadata.stored_names(found)
            mapped = file.map_all() if parts else {}
            arrays.update((name, mapped[name]) for name in parts if name in mapped)
            for name, info in file.tensors.items():
                if name not in parts:
                    self.kept[name] = info.dtype
                    self._holders[name] = file
        for name, (d, path) in described.items():
            self.packed[name] = binq_metadata.assemble(name, d, arrays, path)

    def close(self) -> None:
        """Closes the files; packed tensors stay mapped."""
        for file in {id(file): file for file in self._holders.values()}.values():
            file.close()

    def state_dict(self) -> dict[str, "KeptTensor"]:
        """Returns the kept tensors, each read when it is asked for."""
        return {n: KeptTensor(self._holders[n], n, dtype) for n, dtype in self.kept.items()}


class KeptTensor:
    """A stored tensor as transformers takes those of safetensors: read by ``tensor[...]``."""

    def __init__(self, file: SafetensorsFile, name: str, dtype: str) -> None:
        self._file = file
        self._name = name
        self._dtype = dtype

    def get_dtype(self) -> str:
        """Returns the safetensors name of the type, such as ``"BF16"``."""
        return self._dtype

    def __getitem__(self, key: Any) -> torch.Tensor:
        return as_torch(self._file.read(self._name))[key]


class Attachment:
    """Packs the modules of a model that is about to be loaded, and completes it afterwards.

    - model: of transformers, on the meta device
    - paths: the files of its weights
    - said: ``quantization_config`` of the folder

    Raises FormatError for weights that the model needs and the files lack, ValueError for shapes
    that do not fit, UnsupportedFormatError for kept weights in another tool's format. What the
    model has no place for is named in ``unused``.
    """

    def __init__(self, model: Any, paths: Iterable[Any], said: Mapping[str, Any]) -> None:
        self.model = model
        self.said = said
        self.unused: list[str] = []
        self._modules: dict[str, nn.Module] = dict(model.named_modules())
        self._floats: list[tuple[str, QuantizedArray, bool]] = []
        self._packed: list[PackedModule] = []
        self._experts: dict[str, dict[str, dict[int, tuple[str, QuantizedArray]]]]
        self._experts = defaultdict(lambda: defaultdict(dict))
        mapping = get_model_conversion_mapping(model)
        self._renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
        self._converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
        self.files = files = Files(paths)
        for stored, q in files.packed.items():
            self._place(stored, q)
        for path, roles in self._experts.items():
            self._pack_experts(path, roles)
        self._tie(files)
        for module in self._packed:
            module._is_loading = True
        self._check_kept(files)
        filled = {re.escape(name) + "$" for name, _, _ in self._floats}
        model._keys_to_ignore_on_load_missing = {
            *filled,
            *(model._keys_to_ignore_on_load_missing or ()),
        }

    def finish(self) -> None:
        """Completes the model: packed weights enter its state dict, unpackable ones are floats."""
        self.files.close()
        for module in self._packed:
            module._is_loading = False
        for name, q, transposed in self._floats:
            path, _, leaf = name.rpartition(".")
            old: Any = self.model.get_submodule(path)._parameters[leaf]
            w = q.dequantize()
            w = w.mT if transposed else w
            floats = torch.from_numpy(w).contiguous().reshape(old.shape).to(old.dtype)
            self._modules[path]._parameters[leaf] = nn.Parameter(floats, old.requires_grad)

    def _place(self, stored: str, q: QuantizedArray) -> None:
        """Gives one packed tensor to its module, or remembers it for its experts."""
        renamed = apply_renamings(stored, self._renamings)
        for name in self._candidates(renamed):
            path, _, leaf = name.rpartition(".")
            module = self._modules.get(path)
            if module is None or leaf not in module._parameters:
                continue
            if is_experts(module):
                self._experts[path][leaf][0] = stored, q
            elif leaf == "weight" and isinstance(module, nn.Linear | nn.Embedding):
                self._pack(path, module, Cell([q], stored_names=[stored]))
            else:
                self._keep_float(name, module._parameters[leaf], stored, q)
            return
        if not self._place_expert(renamed, stored, q) and not self._is_ignored(renamed):
            self.unused.append(stored)

    def _candidates(self, name: str) -> list[str]:
        """Returns a name as it is, and with the prefix of the base model added or removed."""
        prefix = f"{self.model.base_model_prefix}."
        return [name, name.removeprefix(prefix), prefix + name]

    def _is_ignored(self, name: str) -> bool:
        patterns = self.model._keys_to_ignore_on_load_unexpected or ()
        return any(re.search(pattern, name) for pattern in patterns)

    def _pack(self, path: str, module: nn.Module, cell: Cell, *, tied: bool = False) -> None:
        check_plain(path, module)
        weight: Any = module.weight
        if tuple(weight.shape) != cell.shape:
            raise ValueError(
                f"{path}.weight must have shape {tuple(weight.shape)}, got packed weights of "
                f"{cell.shape}"
            )
        self._packed.append(pack_module(module, cell, weight.dtype, tied=tied))

    def _keep_float(self, name: str, old: Any, stored: str, q: QuantizedArray) -> None:
        """Remembers weights of a module that cannot be packed: they become floats."""
        transposed = stored in self.said.get("transposed", ())
        flat = stored in self.said.get("flattened", {})
        shape = (*q.shape[:-2], q.shape[-1], q.shape[-2]) if transposed else q.shape
        if shape != tuple(old.shape) and not (flat and old.numel() == q.size):
            raise ValueError(f"{name} must have shape {tuple(old.shape)}, got {shape}")
        self._floats.append((name, q, transposed))

    def _place_expert(self, renamed: str, stored: str, q: QuantizedArray) -> bool:
        """Remembers one expert's matrix, where transformers joins those to a stack, or a stack."""
        stack = _STACK.fullmatch(renamed)
        if stack is not None and q.ndim == 3:
            for path in self._candidates(f"{stack[1]}experts"):
                if path in self._modules and is_experts(self._modules[path]):
                    self._experts[path][stack[2]][0] = stored, q
                    return True
        for converter in self._converters:
            name, pattern = converter.rename_source_key(renamed)
            if pattern is None or not _joins_experts(converter):
                continue
            for candidate in self._candidates(name):
                path, _, leaf = candidate.rpartition(".")
                module = self._modules.get(path)
                if module is None or leaf not in module._parameters or not is_experts(module):
                    continue
                role = _ROLES[leaf][converter.source_patterns.index(pattern)]
                number = int(re.findall(r"\.(\d+)\.", stored)[-1])
                self._experts[path][role][number] = stored, q
                return True
        return False

    def _pack_experts(
        self, path: str, roles: dict[str, dict[int, tuple[str, QuantizedArray]]]
    ) -> None:
        cells = {}
        for role, found in roles.items():
            numbers = sorted(found)
            if numbers != list(range(len(numbers))):
                raise FormatError(f"{path}: {role} has experts {numbers}: some are missing")
            stored, arrays = zip(*(found[n] for n in numbers), strict=True)
            stacked = arrays[0].ndim == 3
            # As the file names them, below this module.
            names = [role] if stacked else [".".join(s.rsplit(".", 3)[1:]) for s in stored]
            cells[role] = Cell(arrays, names, stored)
        module = self._modules[path]
        dtype = next(w.dtype for n, w in module._parameters.items() if n in _ROLES)
        try:
            module = pack_experts(module, cells, dtype)
        except (KeyError, ValueError) as error:
            raise FormatError(f"{path}: {error}") from None
        self._packed.append(module)

    def _tie(self, files: Files) -> None:
        """Shares packed weights with the modules that are tied to them."""
        tied: dict[str, str] = self.model.all_tied_weights_keys
        for target, source in self.said.get("tied", {}).items():
            tied.setdefault(self._name(target), self._name(source))
        for target, source in list(tied.items()):
            here, there = (self._modules.get(n.rpartition(".")[0]) for n in (target, source))
            if isinstance(here, PackedModule) and not isinstance(there, PackedModule):
                here, there, target, source = there, here, source, target
            if not isinstance(there, PackedModule):
                continue
            tied.pop(target, None)
            tied.pop(source, None)
            if here is not None and not isinstance(here, PackedModule) and not _has(files, target):
                path = target.rpartition(".")[0]
                self._pack(path, here, there._cells["weight"], tied=True)

    def _name(self, stored: str) -> str:
        """Returns the name in the model of a stored weight."""
        renamed = apply_renamings(stored, self._renamings)
        for name in self._candidates(renamed):
            if name.rpartition(".")[0] in self._modules:
                return name
        return renamed

    def _check_kept(self, files: Files) -> None:
        """Raises for what the model needs and would be made up, or read as what it is not."""
        expected = self.model.state_dict()
        found = {name for name, _, _ in self._floats}
        prefix = self.model.base_model_prefix
        for stored, dtype in files.kept.items():
            name, pattern = rename_source_key(
                stored, self._renamings, self._converters, prefix, expected
            )
            names = {name}
            if pattern is not None:
                converter = next(c for c in self._converters if pattern in c.source_patterns)
                first = converter.target_patterns[0]
                names |= {name.replace(first, other) for other in converter.target_patterns}
            for name in names & expected.keys():
                if expected[name].is_floating_point() and dtype not in _FLOATS:
                    raise UnsupportedFormatError(
                        f"{stored}: kept as {dtype}, of another tool's format: pack it too, or "
                        "convert with --part to floats"
                    )
            found |= names
        base = "" if self.model.base_model is self.model else f"{prefix}."
        patterns = self.model._keys_to_ignore_on_load_missing or ()
        missing = [
            name
            for name in expected.keys() - found - self.model.all_tied_weights_keys.keys()
            if name.startswith(base) and not any(re.search(p, name) for p in patterns)
        ]
        if missing:
            raise FormatError(
                f"{len(missing)} weights of {type(self.model).__name__} are not in the files: "
                f"{', '.join(sorted(missing)[:5])}"
            )


def _joins_experts(converter: WeightConverter) -> bool:
    """Returns whether a converter stacks experts, gate before up, and does nothing else."""
    kinds = [type(operation) for operation in converter.operations]
    return len(converter.target_patterns) == 1 and kinds in (
        [MergeModulelist],
        [MergeModulelist, Concatenate],
    )


def _has(files: Files, name: str) -> bool:
    return name in files.packed or name in files.kept
