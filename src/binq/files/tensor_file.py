"""The one face of files that hold tensors, whatever their format."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from binq.array.checks import check_path
from binq.files.dtypes import array_form
from binq.files.header import TensorInfo
from binq.files.reading import ReadableFile


class TensorFile(ABC):
    """An open file whose header has been checked against its size.

    - path, size: the file and its bytes
    - tensors: name -> TensorInfo, in the order of the data
    - metadata: what the file says of itself

    Raises FormatError for a file that is malformed in any way, before any memory of a declared
    size is asked for. Safe to read from several threads at once. Derived classes read the header.
    """

    tensors: dict[str, TensorInfo]
    metadata: dict[str, Any]

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = check_path("path", path)
        self._file = ReadableFile(self.path)
        self.size = self._file.size
        try:
            self._data = self._read_header()
        except BaseException:
            self.close()
            raise

    @abstractmethod
    def _read_header(self) -> int:
        """Sets tensors and metadata; returns where in the file the places of tensors count from."""

    def close(self) -> None:
        """Closes the file; arrays that map it stay valid."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
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

    def read_bytes(self, name: str, start: int, stop: int) -> NDArray[np.uint8]:
        """Returns bytes ``[start, stop)`` of a tensor. Raises FormatError where they are gone."""
        at = self._place(name, start, stop)
        return self._file.read_array(at, stop - start, f"tensor {name!r}")

    def read_into(self, name: str, start: int, data: NDArray[np.uint8]) -> None:
        """Fills ``data`` with the bytes of a tensor from ``start`` on; as :meth:`read_bytes`."""
        at = self._place(name, start, start + data.nbytes)
        self._file.read_into(data.data, at, f"tensor {name!r}")

    def _place(self, name: str, start: int, stop: int) -> int:
        """Returns where in the file bytes ``[start, stop)`` of a tensor begin."""
        info = self.info(name)
        if not 0 <= start <= stop <= info.nbytes:
            raise IndexError(f"bytes {start} to {stop} are not within tensor {name!r}")
        return self._data + info.start + start
