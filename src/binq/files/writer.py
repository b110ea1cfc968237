"""Writes safetensors files that are either whole or not there.

Everything goes to a temporary file in the same folder, then fsync, rename, fsync of the folder:
whoever opens the final name finds a complete file, whatever happened in between.
"""

import contextlib
import errno
import hashlib
import json
import os
import secrets
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binq.files.header import LENGTH_BYTES, TensorInfo, checked_nbytes

ALIGNMENT = 64  # the data begins at a multiple of this: arrays mapped from the file are aligned
_NO_HASH = "0" * 64


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives the path of a temporary file beside ``path`` that becomes ``path`` at the end.

    On any exception, Ctrl-C included, the temporary file is removed and ``path`` is as it was.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "no such folder", str(path.parent))
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes a rename in ``folder`` survive a loss of power, where the system can."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class StreamWriter:
    """A safetensors file written tensor by tensor, piece by piece, in the order of ``tensors``.

    - path: where the file is written; not renamed, that is :func:`replacing`'s work
    - tensors: name -> (safetensors dtype, shape)
    - metadata: strings for ``__metadata__``; its ``"binq"`` text is JSON and gets the sha256 of
      every tensor, which are only known at the end

    The header has its final length from the start, so that the data is written once.
    """

    def __init__(
        self,
        path: Path,
        tensors: Mapping[str, tuple[str, tuple[int, ...]]],
        metadata: Mapping[str, str],
    ) -> None:
        self._infos: dict[str, TensorInfo] = {}
        end = 0
        for name, (dtype, shape) in tensors.items():
            nbytes = checked_nbytes(dtype, shape)
            self._infos[name] = TensorInfo(dtype, shape, end, end + nbytes)
            end += nbytes
        self._metadata = dict(metadata)
        self._hashes = dict.fromkeys(self._infos, _NO_HASH)
        self._pending = iter(self._infos.items())
        self._hash: Any = None
        self._left = 0
        self._name = ""
        header = self._header()
        self.data_bytes = end
        self._file = path.open("xb")
        self._file.write(header)

    def begin(self, name: str) -> None:
        """Starts the next tensor, which must be ``name``."""
        self._finish_tensor()
        expected, info = next(self._pending)
        if expected != name:
            raise RuntimeError(f"the next tensor of the file is {expected!r}, not {name!r}")
        self._name, self._left, self._hash = name, info.nbytes, hashlib.sha256()

    def write(self, data: NDArray[Any]) -> None:
        """Appends an array's bytes, in C order, to the tensor that was begun."""
        part = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        if part.nbytes > self._left:
            raise RuntimeError(f"tensor {self._name!r} got more bytes than its shape has")
        self._left -= part.nbytes
        self._hash.update(part.data)
        self._file.write(part.data)

    def close(self) -> None:
        """Writes the final header. Raises RuntimeError where a tensor is missing or short."""
        self._finish_tensor()
        if missing := next(self._pending, None):
            raise RuntimeError(f"tensor {missing[0]!r} was never written")
        self._file.seek(0)
        self._file.write(self._header())
        self._file.close()

    def abandon(self) -> None:
        """Closes the file as it is."""
        self._file.close()

    def _finish_tensor(self) -> None:
        if self._left:
            raise RuntimeError(f"tensor {self._name!r} lacks {self._left} bytes")
        if self._hash is not None:
            self._hashes[self._name] = self._hash.hexdigest()

    def _header(self) -> bytes:
        metadata = dict(self._metadata)
        if "binq" in metadata:
            metadata["binq"] = with_hashes(metadata["binq"], self._hashes)
        entries: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
        for name, info in self._infos.items():
            entries[name] = {
                "dtype": info.dtype,
                "shape": list(info.shape),
                "data_offsets": [info.start, info.stop],
            }
        text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-(LENGTH_BYTES + len(text)) % ALIGNMENT)
        return struct.pack("<Q", len(text)) + text


def write_safetensors(
    arrays: Mapping[str, NDArray[Any]], path: Path, metadata: Mapping[str, str]
) -> None:
    """Writes contiguous little-endian arrays through the safetensors library."""
    from safetensors.numpy import save_file

    save_file(dict(arrays), path, dict(metadata))


def sha256(array: NDArray[Any]) -> str:
    """Returns the sha256 of a contiguous array's bytes, in hex."""
    return hashlib.sha256(array.reshape(-1).view(np.uint8).data).hexdigest()


def with_hashes(text: str, hashes: Mapping[str, str]) -> str:
    """Returns binq's metadata JSON with the sha256 of every stored tensor."""
    return json.dumps(json.loads(text) | {"sha256": dict(hashes)}, separators=(",", ":"))
