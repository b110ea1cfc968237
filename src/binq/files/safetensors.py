"""Reads a safetensors file: by pread, which a shrinking file cannot crash, or mapped in memory."""

import errno
import mmap
import os
import stat
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from binq.array.checks import check_path
from binq.errors import FormatError, UnsupportedFormatError
from binq.files.dtypes import numpy_dtype
from binq.files.header import LENGTH_BYTES, TensorInfo, header_length, parse_header

_PIECE = 1 << 26  # one read call takes at most this much: some systems stop at 2 GiB


class SafetensorsFile:
    """An open safetensors file whose header has been checked against its size.

    - path: the file
    - tensors: name -> TensorInfo, in the order of the data
    - metadata: the strings of ``__metadata__``

    Raises FormatError for a header that is malformed in any way, before any memory of a declared
    size is asked for. Safe to read from several threads at once.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = check_path("path", path)
        flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
        self._file = os.open(self.path, flags)
        try:
            status = os.fstat(self._file)
            if stat.S_ISDIR(status.st_mode):
                raise IsADirectoryError(errno.EISDIR, "a folder, not a file", str(self.path))
            size = status.st_size
            length = header_length(self._pread(0, min(LENGTH_BYTES, size)), size, self.path)
            self._data = LENGTH_BYTES + length
            self.size = size
            text = self._pread(LENGTH_BYTES, length)
            self.tensors, self.metadata = parse_header(text, size - self._data, self.path)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Closes the file; arrays made by map_all stay valid."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __contains__(self, name: object) -> bool:
        return name in self.tensors

    def info(self, name: str) -> TensorInfo:
        """Returns type, shape and place of a tensor. Raises KeyError naming file and tensor."""
        try:
            return self.tensors[name]
        except KeyError:
            raise KeyError(f"{self.path}: no tensor {name!r}") from None

    def read(self, name: str) -> NDArray[Any]:
        """Returns a whole tensor as a new array."""
        info = self.info(name)
        dtype = self._dtype(name)
        return self.read_bytes(name, 0, info.nbytes).view(dtype).reshape(info.shape)

    def read_rows(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """Returns ``tensor[start:stop]`` along the first axis as a new array."""
        info = self.info(name)
        dtype = self._dtype(name)
        row = info.nbytes // info.shape[0] if info.shape[0] else 0
        part = self.read_bytes(name, start * row, stop * row)
        return part.view(dtype).reshape(stop - start, *info.shape[1:])

    def read_bytes(self, name: str, start: int, stop: int) -> NDArray[np.uint8]:
        """Returns bytes ``[start, stop)`` of a tensor. Raises FormatError where they are gone."""
        info = self.info(name)
        if not 0 <= start <= stop <= info.nbytes:
            raise IndexError(f"bytes {start} to {stop} are not within tensor {name!r}")
        buffer = np.empty(stop - start, np.uint8)
        self._pread_into(self._data + info.start + start, buffer.data, name)
        return buffer

    def map_all(self) -> dict[str, NDArray[Any]]:
        """Returns every tensor as a read-only array that shares memory with the file."""
        data = np.zeros(0, np.uint8)
        if self.size > self._data:
            mapped = mmap.mmap(self._file, 0, access=mmap.ACCESS_READ)
            data = np.frombuffer(mapped, np.uint8)
        arrays = {}
        for name, info in self.tensors.items():
            part = data[self._data + info.start : self._data + info.stop]
            if info.nbytes == 0:
                part = np.zeros(0, np.uint8)
                part.flags.writeable = False
            arrays[name] = part.view(self._dtype(name)).reshape(info.shape)
        return arrays

    def _dtype(self, name: str) -> np.dtype[Any]:
        try:
            return numpy_dtype(self.tensors[name].dtype)
        except UnsupportedFormatError as error:
            raise UnsupportedFormatError(f"{self.path}: tensor {name!r}: {error}") from None

    def _pread(self, offset: int, length: int) -> bytes:
        buffer = bytearray(length)
        self._pread_into(offset, memoryview(buffer), None)
        return bytes(buffer)

    def _pread_into(self, offset: int, buffer: memoryview, name: str | None) -> None:
        done = 0
        while done < len(buffer):
            try:
                got = _read_at(self._file, buffer[done : done + _PIECE], offset + done)
            except OSError as error:
                error.filename = f"{self.path} (reading at byte {offset + done})"
                raise
            if got == 0:
                what = "header" if name is None else f"tensor {name!r}"
                raise FormatError(
                    f"{self.path}: {what}: the file ends at byte {offset + done}: it was "
                    "shortened while it was read"
                )
            done += got


def _read_at(file: int, buffer: memoryview, offset: int) -> int:
    """Reads into ``buffer`` from a place in the file; returns how many bytes came."""
    if hasattr(os, "preadv"):
        return os.preadv(file, [buffer], offset)
    # Windows has no pread: the position is shared, so threads must not share the file there.
    os.lseek(file, offset, os.SEEK_SET)
    part = os.read(file, len(buffer))
    buffer[: len(part)] = part
    return len(part)
