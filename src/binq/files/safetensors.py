"""Reads a safetensors file: by pread, which a shrinking file cannot crash, or mapped in memory."""

import mmap
import os
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from binq.array.checks import check_path
from binq.errors import FormatError, UnsupportedFormatError
from binq.files.dtypes import array_form, numpy_dtype
from binq.files.header import LENGTH_BYTES, TensorInfo, header_length, parse_header
from binq.files.reading import ReadableFile
from binq.files.signs import SIGN_BYTES, what_it_is


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
        self._file = ReadableFile(self.path)
        self.size = size = self._file.size
        try:
            start = self._file.read(0, min(SIGN_BYTES, size), "header")
            # Behind the length, the header's first brace.
            first = start[LENGTH_BYTES : LENGTH_BYTES + 1]
            what = what_it_is(start) if first and first != b"{" else ""
            if what:
                raise FormatError(f"{self.path}: not a safetensors file but {what}")
            length = header_length(start[:LENGTH_BYTES], size, self.path)
            self._data = LENGTH_BYTES + length
            text = self._file.read(LENGTH_BYTES, length, "header")
            self.tensors, self.metadata = parse_header(text, size - self._data, self.path)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Closes the file; arrays made by map_all stay valid."""
        self._file.close()

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
        dtype, shape = array_form(info.dtype, info.shape)
        return self.read_bytes(name, 0, info.nbytes).view(dtype).reshape(shape)

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
        at = self._data + info.start + start
        return self._file.read_array(at, stop - start, f"tensor {name!r}")

    def map_all(self) -> dict[str, NDArray[Any]]:
        """Returns every tensor as a read-only array that shares memory with the file."""
        data = np.zeros(0, np.uint8)
        if self.size > self._data:
            with self._file.used() as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            data = np.frombuffer(mapped, np.uint8)
        arrays = {}
        for name, info in self.tensors.items():
            part = data[self._data + info.start : self._data + info.stop]
            if info.nbytes == 0:
                part = np.zeros(0, np.uint8)
                part.flags.writeable = False
            dtype, shape = array_form(info.dtype, info.shape)
            arrays[name] = part.view(dtype).reshape(shape)
        return arrays

    def _dtype(self, name: str) -> np.dtype[Any]:
        try:
            return numpy_dtype(self.tensors[name].dtype)
        except UnsupportedFormatError as error:
            raise UnsupportedFormatError(f"{self.path}: tensor {name!r}: {error}") from None
