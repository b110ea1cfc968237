"""Weights of GGUF files in a rotated basis, as PrismML's Bonsai 2 has them: ``prism.hadamard.*``.

A weight W' that the metadata name stands for ``W' H S``: signs S and a normalized Walsh-Hadamard
transform H of blocks of the inputs. Source: PrismML's llama.cpp, src/llama-model.cpp, of 2026.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binq.array.rotation import Rotation
from binq.errors import FormatError, UnsupportedFormatError
from binq.files.checkpoint import Checkpoint
from binq.storage.base import Storage
from binq.storage.rotated import Rotated

PREFIX = "prism.hadamard."
_KEYS = {
    "version", "block_size", "transform", "axis", "sign_mode", "sign_widths", "sign_values",
    "weight_names", "inverse_weight_names", "tied_output", "gdn_v_grouped",
}  # fmt: skip
_FIXED = {"transform": "normalized-sylvester-walsh-hadamard", "axis": "input-last-dimension"}
_ROLES = ("linear", "expert", "embedding", "head")
_TYPES = ("PQ2_0", "PTQ1_0")
_EMBEDDING = "token_embd.weight"


def rotations_of(source: Checkpoint) -> Mapping[str, Rotation]:
    """Returns the rotation of each weight that has one, by the name it is stored under.

    Raises UnsupportedFormatError for metadata that are not known, naming the key, and for weights
    of a type of PrismML's without such metadata: those would be taken for what they are not.
    """
    if not source.is_gguf:
        return {}
    return source.once("rotations of GGUF", lambda: _read(source))


def rotated(
    source: Checkpoint, name: str, storage: Storage, rotation: Rotation, role: str
) -> Storage:
    """Returns a weight that the metadata name, as it is meant. Raises for one that cannot be."""
    if role not in _ROLES or len(storage.shape) < 2:
        raise UnsupportedFormatError(
            f"{source.path}: {name!r} is in a rotated basis, which is supported for matrices of "
            "products and embeddings only"
        )
    return Rotated(storage, rotation)


def is_grouped(source: Checkpoint) -> bool:
    """Returns whether inputs of linear attention's last product lie as Hugging Face has them."""
    return source.is_gguf and source.config.get(f"{PREFIX}gdn_v_grouped") is True


def _read(source: Checkpoint) -> dict[str, Rotation]:
    said = {k.removeprefix(PREFIX): v for k, v in source.config.items() if k.startswith(PREFIX)}
    if not any(value not in (None, False, 0, "", []) for value in said.values()):
        for name in source:
            if source.info(name).dtype in _TYPES:
                raise UnsupportedFormatError(
                    f"{source.path}: tensor {name!r} has type {source.info(name).dtype}, whose "
                    f"weights are in a rotated basis, and nothing says in which: no {PREFIX}* keys"
                )
        return {}
    _check(source, said)
    names = _names(source, "weight_names") + _names(source, "inverse_weight_names")
    strange = [name for name in _names(source, "inverse_weight_names") if name != _EMBEDDING]
    if strange:
        raise _refused(source, "inverse_weight_names", strange[0])
    signs = _signs(source, said)
    found = {}
    for name in names:
        if name not in source:
            raise FormatError(f"{source.path}: {PREFIX}weight_names has no tensor {name!r}")
        width = source.info(name).shape[-1:]
        try:
            ones = np.ones(width, np.int8) if signs is None else signs[width[0]]
            found[name] = Rotation.of(said["block_size"], ones)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise FormatError(f"{source.path}: the rotation of {name!r}: {error}") from None
    return found


def _check(source: Checkpoint, said: Mapping[str, Any]) -> None:
    for key, value in said.items():
        if key not in _KEYS or (key in _FIXED and value != _FIXED[key]):
            raise _refused(source, key, value)
    for key in ("version", "block_size", *_FIXED):
        if key not in said:
            raise UnsupportedFormatError(
                f"{source.path}: its metadata has '{PREFIX}{next(iter(said))}' and no "
                f"'{PREFIX}{key}': such weights in a rotated basis are not supported"
            )
    tied = said.get("tied_output", False)
    if (said["version"], tied) not in ((1, False), (2, True)):
        raise _refused(source, "version", said["version"])
    if tied and "output.weight" in source:
        raise _refused(source, "tied_output", tied)


def _refused(source: Checkpoint, key: str, value: object) -> UnsupportedFormatError:
    return UnsupportedFormatError(
        f"{source.path}: its metadata has '{PREFIX}{key}' = {repr(value)[:80]}: such weights in a "
        "rotated basis are not supported"
    )


def _names(source: Checkpoint, key: str) -> list[str]:
    if f"{PREFIX}{key}" not in source.config:
        return []
    names = source.array(f"{PREFIX}{key}")
    if not isinstance(names, list):
        raise FormatError(f"{source.path}: {PREFIX}{key} are not names")
    return names


def _signs(source: Checkpoint, said: Mapping[str, Any]) -> dict[int, NDArray[Any]] | None:
    """Returns the signs for each number of inputs, None where there are none."""
    mode = said.get("sign_mode")
    if mode == "identity":
        return None
    if mode != "explicit":
        raise _refused(source, "sign_mode", mode)
    widths = source.array(f"{PREFIX}sign_widths")
    values = source.array(f"{PREFIX}sign_values")
    if not isinstance(widths, np.ndarray) or not isinstance(values, np.ndarray):
        raise FormatError(f"{source.path}: {PREFIX}sign_widths and sign_values are not numbers")
    sizes = [int(width) for width in widths]
    if any(size < 1 for size in sizes) or sum(sizes) != len(values) or len(set(sizes)) < len(sizes):
        raise FormatError(f"{source.path}: {PREFIX}sign_widths do not fit {len(values)} signs")
    ends = np.cumsum(sizes)[:-1]
    return dict(zip(sizes, np.split(values, ends), strict=True))
