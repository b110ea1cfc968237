"""Writes safetensors files tensor by tensor, in bounded memory."""

import contextlib
import hashlib
import json
import struct
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from binq._memory import as_bytes
from binq.files.dtypes import dtype_name
from binq.files.header import (
    LENGTH_BYTES,
    MAX_HEADER,
    MAX_TENSORS,
    TensorInfo,
    checked_nbytes,
)
from binq.files.metadata import KEY
from binq.files.replacing import naming
from binq.files.seal import SEAL, header_entries, header_sha256

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

ALIGNMENT = 64  # the data begins at a multiple of this: arrays mapped from the file are aligned
_PIECE_BYTES = 1 << 26  # what is not written as it lies in memory is copied in pieces of this many
# Pieces of these sizes are hashed and written beside the caller, and so many bytes wait for that.
_LEAST, _MOST = 1 << 20, 1 << 26


def header_room(names: Iterable[str]) -> int:
    """Returns the bytes of a header that tensors of these names may take."""
    return 8192 + sum(map(name_room, names))


def name_room(name: str) -> int:
    """Returns the bytes of a header that a tensor of this name may take."""
    # A name stands in the header, in the hashes and in the description of a packed tensor,
    # each time with its quotes escaped; numbers and words take the rest.
    return 600 + 4 * len(json.dumps(name))


class _Waiting(NamedTuple):
    task: "Future[None]"
    nbytes: int


class AppendWriter:
    """A safetensors file written tensor by tensor, piece by piece, in bounded memory.

    - path: where the file is written; not renamed, that is :func:`replacing`'s work
    - room: the bytes to leave for the header; more than it takes are filled with spaces

    Types, shapes and hashes are known at the end only, so the header is written last, into the
    room left for it, and padded with spaces, as the format allows.

    The caller makes the next piece while a thread hashes and writes the last: arrays must stay as
    they are until :meth:`close`. What fails there is raised by a later call.
    """

    def __init__(self, path: Path, room: int) -> None:
        self._room = room + (-(LENGTH_BYTES + room) % ALIGNMENT)
        self._infos: dict[str, TensorInfo] = {}
        self._hashes: dict[str, Any] = {}
        self._name = ""
        self._written = 0
        self._path = path
        self._thread: ThreadPoolExecutor | None = None
        self._waiting: deque[_Waiting] = deque()
        self._alone = False
        self._file = path.open("wb")
        self._file.seek(LENGTH_BYTES + self._room)

    @property
    def sizes(self) -> dict[str, int]:
        """Returns the bytes of each tensor by name."""
        return {name: info.nbytes for name, info in self._infos.items()}

    def begin(self, name: str, dtype: str, shape: tuple[int, ...]) -> None:
        """Starts the next tensor, of a safetensors type and a shape."""
        self._check_finished()
        if name in self._infos:
            raise ValueError(f"two tensors would be stored as {name!r}")
        start = self._stop()
        nbytes = checked_nbytes(dtype, shape)
        self._infos[name] = TensorInfo(dtype, tuple(shape), start, start + nbytes)
        self._hashes[name] = hashlib.sha256()
        self._name, self._written = name, 0

    def write(self, data: NDArray[Any]) -> None:
        """Appends an array's bytes, in C order, to the tensor that was begun."""
        part = as_bytes(data)
        at = LENGTH_BYTES + self._room + self._infos[self._name].start + self._written
        self._written += part.nbytes
        digest = self._hashes[self._name]
        while self._waiting and sum(w.nbytes for w in self._waiting) + part.nbytes > _MOST:
            self._waiting.popleft().task.result()
        if not (self._waiting or _LEAST <= part.nbytes <= _MOST) or self._alone:
            self._put(part, digest, at)
            return
        try:
            if self._thread is None:
                from concurrent.futures import ThreadPoolExecutor

                self._thread = ThreadPoolExecutor(1)
            task = self._thread.submit(self._put, part, digest, at)
        except RuntimeError:  # there are no more threads, or Python ends
            self._settle()
            self._alone, self._thread = True, None
            self._put(part, digest, at)
        else:
            self._waiting.append(_Waiting(task, part.nbytes))

    def _put(self, part: NDArray[np.uint8], digest: Any, at: int) -> None:
        digest.update(part.data)
        with naming(f"{self._path} (writing at byte {at})"):
            self._file.write(part.data)

    def _settle(self) -> None:
        """Waits until all is written. Raises what failed."""
        while self._waiting:
            self._waiting.popleft().task.result()

    def mark(self) -> int:
        """Returns a number by which :meth:`rewind` knows this point between two tensors."""
        self._check_finished()
        return len(self._infos)

    def rewind(self, mark: int) -> None:
        """Forgets all that was written since ``mark``."""
        self._settle()
        while len(self._infos) > mark:
            name, _ = self._infos.popitem()
            del self._hashes[name]
        self._file.seek(LENGTH_BYTES + self._room + self._stop())
        self._file.truncate()
        self._name = next(reversed(self._infos), "")
        self._written = self._infos[self._name].nbytes if self._infos else 0

    def close(self, metadata: Mapping[str, str]) -> None:
        """Writes the header; ``"binq"`` gets the sha256 of each tensor and one of the header."""
        self._check_finished()
        self._settle()
        if self._thread is not None:
            self._thread.shutdown()
        hashes = {name: digest.hexdigest() for name, digest in self._hashes.items()}
        text = _header_text(self._infos, metadata, hashes)
        if len(text) > self._room:
            raise RuntimeError(f"the header takes {len(text)} bytes, {self._room} were left for it")
        with naming(self._path):
            self._file.seek(0)
            self._file.write(struct.pack("<Q", self._room) + text.ljust(self._room))
            self._file.close()

    def abandon(self) -> None:
        """Closes the file as it is, also on a disk that is full."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
        with contextlib.suppress(OSError):
            self._file.close()

    def _stop(self) -> int:
        """Returns where the data ends: behind the tensor that was begun last."""
        return self._infos[next(reversed(self._infos))].stop if self._infos else 0

    def _check_finished(self) -> None:
        if self._infos and self._written != self._infos[self._name].nbytes:
            raise RuntimeError(
                f"tensor {self._name!r} has {self._infos[self._name].nbytes} bytes, "
                f"{self._written} were written"
            )


def write_arrays(
    arrays: Mapping[str, NDArray[Any]], path: Path, metadata: Mapping[str, str]
) -> None:
    """Writes arrays of any memory layout and byte order, those of the largest elements first."""
    order = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    writer = AppendWriter(path, _exact_room(arrays, metadata))
    try:
        for name in order:
            writer.begin(name, dtype_name(arrays[name].dtype), arrays[name].shape)
            for piece in _pieces(arrays[name]):
                writer.write(piece)
        writer.close(metadata)
    except BaseException:
        writer.abandon()
        raise


def check_room(arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> None:
    """Raises ValueError where the header would be larger than any reader takes."""
    if len(arrays) > MAX_TENSORS:
        raise ValueError(f"a file holds {MAX_TENSORS} tensors at most, got {len(arrays)}")
    room = _exact_room(arrays, metadata)
    if room + ALIGNMENT > MAX_HEADER:
        raise ValueError(
            f"the header would take {room} bytes, more than the {MAX_HEADER} that can be read: "
            "shorten the metadata, or save to several files"
        )


def _exact_room(arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> int:
    at = 0
    infos = {}
    for name in sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name)):
        array = arrays[name]
        infos[name] = TensorInfo(dtype_name(array.dtype), array.shape, at, at + array.nbytes)
        at += array.nbytes
    return len(_header_text(infos, metadata, dict.fromkeys(infos, "0" * 64)))


def _pieces(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Yields an array's elements in C order, little-endian: what must be copied, in pieces."""
    stored = array.dtype.newbyteorder("<")
    if (array.flags.c_contiguous and array.dtype == stored) or not array.size or not array.ndim:
        yield array.astype(stored, copy=False)
        return
    step = max(1, _PIECE_BYTES // (array.nbytes // len(array)))
    for start in range(0, len(array), step):
        yield np.ascontiguousarray(array[start : start + step], stored)


def _header_text(
    infos: Mapping[str, TensorInfo], metadata: Mapping[str, str], hashes: Mapping[str, str]
) -> bytes:
    """Returns a header's JSON, with the sha256 of every tensor and of the header itself."""
    strings = dict(metadata)
    if KEY in strings:
        content = json.loads(strings[KEY]) | {"sha256": dict(hashes)}
        strings[KEY] = json.dumps(content, separators=(",", ":"))
        strings[SEAL] = header_sha256(infos, strings)
    return json.dumps(header_entries(infos, strings), separators=(",", ":")).encode()
