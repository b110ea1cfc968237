"""save_packed: a model with packed weights as a folder that binq and from_pretrained read."""

import json
import re
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightRenaming,
    apply_renamings,
    revert_weight_conversion,
)

from binq.array import QuantizedArray
from binq.files import save_file
from binq.files.checkpoint import INDEX
from binq.files.replacing import replacing
from binq.torch.cells import as_array
from binq.torch.modules import PackedModule

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_SHARD = "model-{:05d}-of-{:05d}.safetensors"
Tensors = dict[str, QuantizedArray | NDArray[Any]]


def save_packed(
    model: Any,
    save_directory: Any,
    is_main_process: bool = True,
    state_dict: Any = None,
    push_to_hub: bool = False,
    max_shard_size: int | str = "50GB",
    **arguments: Any,
) -> None:
    """Writes the configuration and the weights of a model, packed as they are; returns None.

    The arguments are those of transformers' save_pretrained. Files have the names that ``binq
    quantize`` gives, so that no other library takes them for plain weights.

    Raises ValueError for arguments that packed folders do not have.
    """
    refused = {"state_dict": state_dict, "push_to_hub": push_to_hub or None} | {
        name: arguments.get(name) for name in ("variant", "distributed_checkpoint")
    }
    for name, value in refused.items():
        if value:
            raise ValueError(f"{name} is not for packed models, got {value!r:.80}")
    if not is_main_process:
        return
    folder = Path(save_directory)
    folder.mkdir(parents=True, exist_ok=True)
    model.config.dtype = str(model.dtype).removeprefix("torch.")
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)
    shards = _shards(_tensors(model), _bytes_of(max_shard_size))
    places = {}
    for number, shard in enumerate(shards):
        name = _SHARD.format(number + 1, len(shards))
        save_file(shard, folder / name, {"format": "pt"})
        places.update(dict.fromkeys(_stored_names(shard), name))
    size = sum(tensor.nbytes for shard in shards for tensor in shard.values())
    index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(places.items()))}
    earlier = _shards_of_index(folder / INDEX)
    with replacing(folder / INDEX) as temporary:
        Path(temporary).write_text(json.dumps(index, indent=2) + "\n")
    for name in earlier - set(places.values()):
        (folder / name).unlink(missing_ok=True)  # of a save in more shards


def _shards_of_index(path: Path) -> set[str]:
    """Returns the files that an index of ours places tensors in: none where there is no index."""
    try:
        names = json.loads(path.read_text())["weight_map"].values()
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return set()
    pattern = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
    return {name for name in names if isinstance(name, str) and pattern.fullmatch(name)}


def _tensors(model: Any) -> Tensors:
    """Returns what is to be stored, by the names that files of this family have."""
    packed: Tensors = {}
    keys: set[str] = set()
    renamings = _reverse_renamings(model)
    for path, module in model.named_modules():
        if not isinstance(module, PackedModule) or module._is_tied:
            continue
        for cell in module._cells.values():
            keys.update(f"{path}.{name}" for name in cell.tensors())
            named = [apply_renamings(f"{path}.{name}", renamings) for name in cell.names]
            for name, array in zip(cell.stored_names or named, cell.arrays, strict=True):
                packed[name] = array
    state = {name: w for name, w in model.state_dict().items() if name not in keys}
    for target in model.all_tied_weights_keys:
        state.pop(target, None)
    kept = revert_weight_conversion(model, state)
    return packed | {name: as_array(tensor) for name, tensor in kept.items()}


def _reverse_renamings(model: Any) -> list[Any]:
    mapping = getattr(model, "_weight_conversions", None)
    if mapping is None:
        mapping = get_model_conversion_mapping(model, add_legacy=False)
    return [
        entry.reverse_transform() for entry in mapping[::-1] if isinstance(entry, WeightRenaming)
    ]


def _stored_names(shard: Tensors) -> list[str]:
    return [
        stored
        for name, tensor in shard.items()
        for stored in (
            [f"{name}.{part}" for part in tensor._data.packing.part_names()]
            if isinstance(tensor, QuantizedArray)
            else [name]
        )
    ]


def _shards(tensors: Tensors, most: int) -> list[Tensors]:
    """Returns the tensors in shards of at most so many bytes, or of one tensor each."""
    shards: list[Tensors] = [{}]
    size = 0
    for name, tensor in sorted(tensors.items()):
        if shards[-1] and size + tensor.nbytes > most:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    return shards


def _bytes_of(size: int | str) -> int:
    """Returns a size such as 1000 or ``"5GB"`` in bytes."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?B?)", str(size).upper())
    if match is None or match[2] not in _UNITS:
        raise ValueError(f"max_shard_size must be bytes or text such as '5GB', got {size!r}")
    return int(float(match[1]) * _UNITS[match[2]])
