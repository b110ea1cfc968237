"""Writes GGUF files (version 3, little-endian), tensor by tensor, in bounded memory.

Types, shapes and metadata are known before the first tensor is written, so the header comes first.
Source: the GGUF specification of ggml.
"""

import contextlib
import struct
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from binq._memory import as_bytes
from binq.files.gguf import MAGIC, MAX_AXES, MAX_NAME, TYPES
from binq.files.replacing import naming

ALIGNMENT = 32
_VERSION = 3
_IDS = {name: number for number, (name, _, _) in TYPES.items()}
_SIZES = {name: (weights, nbytes) for name, weights, nbytes in TYPES.values()}
_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9

# What a value of the metadata may be: an int is an unsigned 32-bit number, one in a list a signed.
Value = bool | int | float | str | Sequence[int] | Sequence[float] | Sequence[str]


class Entry(NamedTuple):
    """One tensor of a file: its name, ggml type and shape, as numpy has it."""

    name: str
    type: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        weights, nbytes = _SIZES[self.type]
        return prod(self.shape) // weights * nbytes


class GgufWriter:
    """A GGUF file whose tensors are written in the order in which the header has them.

    - path: where the file is written; not renamed, that is :func:`replacing`'s work
    - metadata: values by key
    - entries: what is written

    Raises ValueError for what GGUF cannot hold.
    """

    def __init__(self, path: Path, metadata: Mapping[str, Value], entries: Sequence[Entry]) -> None:
        header = _header(metadata, entries)
        self._left = list(reversed(entries))
        self._open: Entry | None = None
        self._written = 0
        self._path = path
        self._file = path.open("wb")
        with naming(path):
            self._file.write(header.ljust(_aligned(len(header)), b"\0"))

    def begin(self) -> Entry:
        """Starts the next tensor and returns what it is."""
        self._check_finished()
        self._open, self._written = self._left.pop(), 0
        return self._open

    def write(self, data: NDArray[Any]) -> None:
        """Appends an array's bytes, in C order, to the tensor that was begun."""
        part = as_bytes(data)
        self._written += part.nbytes
        with naming(self._path):
            self._file.write(part.data)

    def close(self) -> None:
        """Closes the file, to which all tensors were written."""
        self._check_finished()
        if self._left:
            raise RuntimeError(f"tensor {self._left[-1].name!r} was not written")
        with naming(self._path):
            self._file.close()

    def abandon(self) -> None:
        """Closes the file as it is, also on a disk that is full."""
        with contextlib.suppress(OSError):
            self._file.close()

    def _check_finished(self) -> None:
        if self._open is None:
            return
        if self._written != self._open.nbytes:
            raise RuntimeError(
                f"tensor {self._open.name!r} has {self._open.nbytes} bytes, "
                f"{self._written} were written"
            )
        with naming(self._path):
            self._file.write(bytes(_aligned(self._written) - self._written))
        self._open = None


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _header(metadata: Mapping[str, Value], entries: Sequence[Entry]) -> bytes:
    names = [entry.name for entry in entries]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"two tensors would be stored as {twice!r}")
    parts = [MAGIC, struct.pack("<IQQ", _VERSION, len(entries), len(metadata))]
    for key, value in metadata.items():
        parts += [_text(key), *_typed(key, value)]
    at = 0
    for entry in entries:
        if len(entry.shape) > MAX_AXES or len(entry.name.encode()) > MAX_NAME:
            raise ValueError(
                f"{entry.name!r} of shape {entry.shape}: GGUF holds {MAX_AXES} axes and names of "
                f"{MAX_NAME} bytes"
            )
        sizes = entry.shape[::-1] or (1,)
        parts += [
            _text(entry.name),
            struct.pack(f"<I{len(sizes)}Q", len(sizes), *sizes),
            struct.pack("<IQ", _IDS[entry.type], at),
        ]
        at += _aligned(entry.nbytes)
    return b"".join(parts)


def _text(text: str) -> bytes:
    data = text.encode("utf-8")
    return struct.pack("<Q", len(data)) + data


def _typed(key: str, value: Value) -> list[bytes]:
    if isinstance(value, bool):
        return [struct.pack("<I?", _BOOL, value)]
    if isinstance(value, int):
        if not 0 <= value < 1 << 32:
            raise ValueError(f"{key} is {value}, not an unsigned 32-bit number")
        return [struct.pack("<II", _UINT32, value)]
    if isinstance(value, float):
        return [struct.pack("<If", _FLOAT32, value)]
    if isinstance(value, str):
        return [struct.pack("<I", _STRING), _text(value)]
    kinds = {type(item) for item in value}
    if kinds <= {str}:
        kind, body = _STRING, b"".join(map(_text, map(str, value)))
    elif kinds == {int}:
        kind, body = _INT32, np.array(value, "<i4").tobytes()
    else:
        kind, body = _FLOAT32, np.array(value, "<f4").tobytes()
    return [struct.pack("<IIQ", _ARRAY, kind, len(value)), body]
