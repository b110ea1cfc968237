"""Reads a safetensors file: by pread, which a shrinking file cannot crash, or mapped in memory."""

import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binq.errors import FormatError, UnsupportedFormatError
from binq.files.dtypes import array_form, numpy_dtype
from binq.files.header import LENGTH_BYTES, header_length, parse_header
from binq.files.signs import SIGN_BYTES, what_it_is
from binq.files.tensor_file import TensorFile


class SafetensorsFile(TensorFile):
    """An open safetensors file; its metadata are the strings of ``__metadata__``."""

    metadata: dict[str, str]

    def _read_header(self) -> int:
        size = self.size
        start = self._file.read(0, min(SIGN_BYTES, size), "header")
        # Behind the length, the header's first brace.
        first = start[LENGTH_BYTES : LENGTH_BYTES + 1]
        what = what_it_is(start) if first and first != b"{" else ""
        if what:
            raise FormatError(f"{self.path}: not a safetensors file but {what}")
        length = header_length(start[:LENGTH_BYTES], size, self.path)
        data = LENGTH_BYTES + length
        text = self._file.read(LENGTH_BYTES, length, "header")
        self.tensors, self.metadata = parse_header(text, size - data, self.path)
        return data

    def read_rows(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """Returns ``tensor[start:stop]`` along the first axis as a new array."""
        info = self.info(name)
        dtype = self._dtype(name)
        row = info.nbytes // info.shape[0] if info.shape[0] else 0
        part = self.read_bytes(name, start * row, stop * row)
        return part.view(dtype).reshape(stop - start, *info.shape[1:])

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
