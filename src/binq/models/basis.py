"""Refuses weights in a rotated basis, which their metadata tells: no type of tensor does.

Where weights were multiplied by a Hadamard (or another orthogonal) matrix, the activations must be
too. Taken for ordinary weights they load without a complaint and give a model that speaks garbage.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from binq.errors import UnsupportedFormatError
from binq.files.checkpoint import Checkpoint

_ROTATED = re.compile(
    r"hadamard|quarot|spinquant|walsh|(^|[._])(rotated|rotation|incoherence)([._]|$)", re.IGNORECASE
)
_DEEPEST = 8


def check_basis(source: Checkpoint, *understood: str) -> None:
    """Raises UnsupportedFormatError, naming the key, where the configuration speaks of a rotation.

    A key that is false, null, empty or 0 speaks of none.

    - understood: what keys begin with that another module reads
    """
    kind = source.config.get("model_type")
    if isinstance(kind, str) and _ROTATED.search(kind) and "model_type" not in understood:
        raise UnsupportedFormatError(
            f"{source.path}: model_type {kind!r}: weights in a rotated basis that is not known are "
            "not supported: take the model's GGUF file"
        )
    for key, value in _entries(source.config, "", 0):
        if key.startswith(understood):
            continue
        if _ROTATED.search(key) and value not in (None, False, 0, "", "none", [], {}):
            raise UnsupportedFormatError(
                f"{source.path}: its metadata has {key!r}: weights in a rotated basis are not "
                "supported, because the activations must be rotated too"
            )


def _entries(config: Mapping[Any, Any], prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        name = f"{prefix}{key}"
        yield name, value
        if isinstance(value, Mapping) and depth < _DEEPEST:
            yield from _entries(value, f"{name}.", depth + 1)
