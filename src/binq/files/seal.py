"""The sha256 of a file's header, by which ``binq verify`` knows that nothing in it has changed.

The hashes of the tensors say nothing of what the header says of them: names, types, shapes, places
and how weights are packed. docs/formats.md is normative.
"""

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from binq.files.header import METADATA, TensorInfo

SEAL = "binq.sha256"


def header_entries(
    tensors: Mapping[str, TensorInfo], metadata: Mapping[str, str]
) -> dict[str, Any]:
    """Returns the object that a header is, with the metadata first."""
    entries: dict[str, Any] = {METADATA: dict(metadata)}
    for name, info in tensors.items():
        entries[name] = {
            "dtype": info.dtype,
            "shape": list(info.shape),
            "data_offsets": [info.start, info.stop],
        }
    return entries


def header_sha256(tensors: Mapping[str, TensorInfo], metadata: Mapping[str, str]) -> str:
    """Returns the sha256, in hex, of a header without its key ``"binq.sha256"``.

    That of the JSON text with sorted keys, no spaces, and escapes for all that is not ASCII.
    """
    strings = {key: value for key, value in metadata.items() if key != SEAL}
    entries = header_entries(tensors, strings)
    return sha256(json.dumps(entries, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
