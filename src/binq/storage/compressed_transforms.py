"""Rotations of a compressed-tensors configuration: ``transform_config``.

What is folded into weights (``weight_input``, ``weight_output``) is done when they are stored. What
is left for the running model to do to x (``input``) is a Hadamard matrix of Sylvester of the whole
row, or of heads. Source: the compressed-tensors library, its room transform.
"""

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from binq.array.rotation import Rotation
from binq.errors import FormatError, UnsupportedFormatError
from binq.storage.base import Storage
from binq.storage.patterns import matches
from binq.storage.rotated import Rotated

if TYPE_CHECKING:
    from binq.files.checkpoint import Checkpoint

_FOLDED = ("weight_input", "weight_output")
_FIELDS = {"type", "apply", "randomize", "requires_grad", "head_dim", "precision"}
_APPLIED = {"targets", "location", "inverse", "ignore"}


@dataclass(frozen=True)
class _Online:
    """A transform of the inputs of some modules: of blocks of ``size``, None for the whole row."""

    group: str
    size: int | None
    targets: tuple[str, ...]
    ignore: tuple[str, ...]

    def names(self, source: "Checkpoint", module: str) -> bool:
        return _named(source, self.targets, module) and not _named(source, self.ignore, module)


def rotated(
    source: "Checkpoint",
    config: Mapping[str, Any],
    found: Mapping[str, Storage],
    names: Set[str],
) -> dict[str, Storage]:
    """Returns packed weights, those that multiply a transformed x in the basis that they are in.

    Raises UnsupportedFormatError for transforms of any other kind, and for those of weights that
    are not packed, which would be taken for plain ones; FormatError for sizes that do not fit.
    """
    inner = config.get("quantization_config")
    said = config.get("transform_config") or (
        inner.get("transform_config") if isinstance(inner, Mapping) else None
    )
    online = list(_online(source, said))
    result = dict(found)
    for transform in online:
        kept = f".{transform.group}_input."
        for name in sorted(names - found.keys()):
            module, _, part = name.rpartition(".")
            if part == "weight" and kept not in name and transform.names(source, module):
                raise UnsupportedFormatError(
                    f"{source.path}: {name!r} multiplies a transformed x, but is not "
                    "packed: not supported"
                )
        for name, storage in result.items():
            module = name.removesuffix(".weight")
            if not transform.names(source, module):
                continue
            if isinstance(storage, Rotated):
                raise UnsupportedFormatError(f"{source.path}: {name!r} has two transforms of x")
            size = transform.size or storage.shape[-1]
            try:
                rotation = Rotation.of(size, np.ones(storage.shape[-1], np.int8))
            except (TypeError, ValueError) as error:
                raise FormatError(f"{source.path}: the transform of {name!r}: {error}") from None
            matrix = f"{module}.{transform.group}_input.weight"
            stored = (matrix,) if matrix in names else ()
            if stored and source.info(matrix).shape != (size, size):
                raise FormatError(
                    f"{source.path}: {matrix!r} has shape {source.info(matrix).shape}, expected "
                    f"{(size, size)}"
                )
            result[name] = Rotated(storage, rotation, stored)
    return result


def _online(source: "Checkpoint", said: Any) -> Iterator[_Online]:
    if not said:
        return
    groups = said.get("config_groups") if isinstance(said, Mapping) else None
    if not isinstance(groups, Mapping):
        raise FormatError(f"{source.path}: transform_config without config_groups")
    for name, group in groups.items():
        if not isinstance(group, Mapping) or not isinstance(group.get("apply"), list):
            raise _refused(source, name, group)
        if not set(group) <= _FIELDS:
            raise _refused(source, name, sorted(set(group) - _FIELDS)[0])
        for applied in group["apply"]:
            if not isinstance(applied, Mapping) or not set(applied) <= _APPLIED:
                strange = set(applied) - _APPLIED if isinstance(applied, Mapping) else applied
                raise _refused(source, name, strange)
            if applied.get("location") in _FOLDED:
                continue
            if applied.get("location") != "input":
                raise _refused(source, name, f"location {applied.get('location')!r}")
            if group.get("type") != "hadamard" or group.get("randomize") not in (None, False):
                raise _refused(source, name, f"type {group.get('type')!r}, or randomize")
            yield _Online(
                name,
                group.get("head_dim"),
                _patterns(source, applied.get("targets")),
                _patterns(source, applied.get("ignore") or []),
            )


def _patterns(source: "Checkpoint", listed: Any) -> tuple[str, ...]:
    listed = [listed] if isinstance(listed, str) else listed
    if not isinstance(listed, list) or not all(isinstance(entry, str) for entry in listed):
        raise FormatError(f"{source.path}: transform_config has targets {listed!r}")
    return tuple(listed)


def _named(source: "Checkpoint", patterns: tuple[str, ...], module: str) -> bool:
    """Returns whether a pattern is a module's name, or its class: all that is packed is Linear."""
    return any(
        matches(source, "targets", pattern[3:], module, begin=True)
        if pattern.startswith("re:")
        else pattern == "Linear" or module == pattern or module.endswith("." + pattern)
        for pattern in patterns
    )


def _refused(source: "Checkpoint", group: str, what: object) -> UnsupportedFormatError:
    return UnsupportedFormatError(
        f"{source.path}: compressed-tensors with a transform_config: {group!r}: {str(what)[:80]}: "
        "not supported"
    )
