"""Tensors that a folder of binq keeps as its source stored them: float8 and its scales, for one."""

from collections.abc import Iterable, Mapping
from typing import Any, cast

from binq.files.checkpoint import Checkpoint
from binq.models.family import Family
from binq.models.tensor import LogicalTensor
from binq.storage import collect_storage
from binq.storage.plain import Plain

_BEFORE = "source_quantization_config"


class _View:
    """Some tensors of a checkpoint, under the settings of the checkpoint that they came from."""

    def __init__(self, source: Checkpoint, names: Iterable[str], settings: Any) -> None:
        self._source = source
        self.names = tuple(names)
        self.config = {key: v for key, v in source.config.items() if key != "quantization_config"}
        if settings is not None:
            self.config["quantization_config"] = settings

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def __contains__(self, name: object) -> bool:
        return name in self.names


def settings_of(source: Checkpoint) -> Mapping[str, Any]:
    """Returns binq's own settings in the configuration of a folder, {} where it has none."""
    settings = source.config.get("quantization_config")
    ours = isinstance(settings, Mapping) and settings.get("quant_method") == "binq"
    return settings if ours and isinstance(settings, Mapping) else {}


def kept_tensors(source: Checkpoint, names: Iterable[str], family: Family) -> list[LogicalTensor]:
    """Returns what stored tensors of a folder of binq are: weights in the way of the source.

    - names: the stored tensors that are no part of a packed one
    - family: says which plain stacks lie transposed

    Raises FormatError and UnsupportedFormatError as :func:`binq.models.logical_tensors` does.
    """
    settings = settings_of(source)
    if not settings:  # a file of save_file: arrays, of no model
        infos = {name: source.info(name) for name in names}
        return [LogicalTensor(n, Plain(n, info.shape, info.dtype)) for n, info in infos.items()]
    view = _View(source, names, settings.get(_BEFORE))
    found = collect_storage(cast(Checkpoint, view), family.is_input_major)
    return [LogicalTensor(name, storage) for name, storage in found.items()]
