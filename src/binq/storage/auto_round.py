"""AutoRound: the tensors of GPTQ or AWQ under a name of its own.

``packing_format`` says which: ``auto_round:auto_awq`` is AWQ, ``auto_round:auto_gptq`` GPTQ whose
zeros are those of version 1, ``auto_round`` and ``auto_round:gptqmodel`` GPTQ of version 2.
``extra_config`` has settings of single modules. Source: the exporters of auto-round.
"""

from collections.abc import Mapping, Set
from typing import TYPE_CHECKING, Any

from binq.errors import FormatError, UnsupportedFormatError
from binq.storage import awq, gptq
from binq.storage.base import Storage
from binq.storage.patterns import matches

if TYPE_CHECKING:
    from binq.files.checkpoint import Checkpoint

METHODS = ("auto-round", "auto_round", "intel/auto-round")
_GPTQ = {
    "auto_round": "gptq_v2",
    "auto_round:gptqmodel": "gptq_v2",
    "auto_round:auto_gptq": "gptq",
    "auto_round:gptq": "gptq",
}
_AWQ = ("auto_round:auto_awq", "auto_round:awq")


def collect(source: "Checkpoint", config: Mapping[str, Any], names: Set[str]) -> dict[str, Storage]:
    """Returns the packed weights of a checkpoint by name."""
    packing = config.get("packing_format", config.get("backend", "auto_round"))
    kind = config.get("data_type", "int")
    if kind != "int" or packing not in (*_GPTQ, *_AWQ):
        raise UnsupportedFormatError(
            f"{source.path}: AutoRound's packing_format {packing!r} of data_type {kind!r}"
        )
    extra = config.get("extra_config") or {}
    if not isinstance(extra, Mapping) or not all(isinstance(e, Mapping) for e in extra.values()):
        raise FormatError(f"{source.path}: extra_config is {extra!r}")
    found: dict[str, Storage] = {}
    for name in sorted(names):
        module = name.removesuffix(".qweight")
        if module == name:
            continue
        settings = {**config, **_own(source, extra, module)}
        common = {key: settings.get(key) for key in ("bits", "group_size")}
        if packing in _AWQ:
            found |= awq.collect(source, {**common, "zero_point": True}, _parts(names, module))
            continue
        own = {**common, "sym": settings.get("sym"), "checkpoint_format": _GPTQ[packing]}
        found |= gptq.collect(source, own, _parts(names, module))
    return found


def _own(source: "Checkpoint", extra: Mapping[str, Any], module: str) -> Mapping[str, Any]:
    """Returns the settings of a module: under its own name, or else by the first pattern."""
    if module in extra:
        own: Mapping[str, Any] = extra[module]
        return own
    return next(
        (own for key, own in extra.items() if matches(source, "extra_config", key, module)), {}
    )


def _parts(names: Set[str], module: str) -> Set[str]:
    """Returns the names of the tensors of a module."""
    parts = ("qweight", "qzeros", "scales", "g_idx")
    return names & {f"{module}.{part}" for part in parts}
