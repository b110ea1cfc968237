"""Writes safetensors files that are either whole or not there.

Everything goes to a temporary file in the same folder, then fsync, rename, fsync of the folder:
whoever opens the final name finds a complete file, whatever happened in between.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from binq._memory import as_bytes
from binq.files.header import LENGTH_BYTES, TensorInfo, checked_nbytes

# Names that temporary_path gives.
TEMPORARY = re.compile(r"\..+\.\d+-[0-9a-f]{8}\.tmp")
ALIGNMENT = 64  # the data begins at a multiple of this: arrays mapped from the file are aligned


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives the path of a temporary file beside ``path`` that becomes ``path`` at the end.

    On any exception, Ctrl-C included, the temporary file is removed and ``path`` is as it was. An
    OSError that names no file, as those of a full disk, gets the name of this one.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "no such folder", str(path.parent))
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "a folder, not a file", str(path))
    temporary = temporary_path(path)
    try:
        with naming(path):
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def temporary_path(path: Path) -> Path:
    """Returns a new name beside ``path``, which :data:`TEMPORARY` matches."""
    # Names have 255 bytes at most.
    name = path.name if len(os.fsencode(path.name)) <= 200 else path.name[:50]
    return path.with_name(f".{name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


@contextlib.contextmanager
def naming(path: object) -> Iterator[None]:
    """Gives an OSError that names no file, as those of a full disk, the name of ``path``."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def create_file(path: Path, text: str) -> bool:
    """Makes a file that holds ``text`` from its first moment on; False where there is one."""
    temporary = temporary_path(path)
    try:
        with naming(path):
            temporary.write_text(text)
        return link_new(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def link_new(source: Path, path: Path) -> bool:
    """Gives a small file a second name; False where that name is taken.

    Where the file system has no links, makes a copy, which a kill may leave empty.
    """
    try:
        os.link(source, path)
    except FileExistsError:
        return False
    except FileNotFoundError:
        raise
    except OSError:
        content = source.read_bytes()
        try:
            file = path.open("xb")
        except FileExistsError:
            return False
        try:
            with naming(path), file:
                file.write(content)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    return True


def sync_folder(folder: Path) -> None:
    """Makes a rename in ``folder`` survive a loss of power, where the system can."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with naming(folder):
            os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise
    finally:
        os.close(descriptor)


def header_room(names: Iterable[str]) -> int:
    """Returns the bytes of a header that tensors of these names may take."""
    # A name stands in the header, in the hashes and in the description of a packed tensor,
    # each time with its quotes escaped; numbers and words take the rest.
    return sum(600 + 4 * len(json.dumps(name)) for name in names)


class AppendWriter:
    """A safetensors file written tensor by tensor, piece by piece, in bounded memory.

    - path: where the file is written; not renamed, that is :func:`replacing`'s work
    - names: the names that will be written, so that room for the header can be left

    Types, shapes and hashes are known at the end only, so the header is written last, into the
    room left for it, and padded with spaces, as the format allows.
    """

    def __init__(self, path: Path, names: Iterable[str]) -> None:
        room = 8192 + header_room(names)
        self._room = room + (-(LENGTH_BYTES + room) % ALIGNMENT)
        self._infos: dict[str, TensorInfo] = {}
        self._hashes: dict[str, Any] = {}
        self._name = ""
        self._written = 0
        self._path = path
        self._file = path.open("xb")
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
        self._hashes[self._name].update(part.data)
        with naming(f"{self._path} (writing at byte {at})"):
            self._file.write(part.data)

    def mark(self) -> int:
        """Returns a number by which :meth:`rewind` knows this point between two tensors."""
        self._check_finished()
        return len(self._infos)

    def rewind(self, mark: int) -> None:
        """Forgets all that was written since ``mark``."""
        while len(self._infos) > mark:
            name, _ = self._infos.popitem()
            del self._hashes[name]
        self._file.seek(LENGTH_BYTES + self._room + self._stop())
        self._file.truncate()
        self._name = next(reversed(self._infos), "")
        self._written = self._infos[self._name].nbytes if self._infos else 0

    def close(self, metadata: Mapping[str, str]) -> None:
        """Writes the header. The JSON under the key ``"binq"`` gets the sha256 of every tensor."""
        self._check_finished()
        hashes = {name: digest.hexdigest() for name, digest in self._hashes.items()}
        strings = dict(metadata)
        if "binq" in strings:
            strings["binq"] = with_hashes(strings["binq"], hashes)
        entries: dict[str, Any] = {"__metadata__": strings}
        for name, info in self._infos.items():
            entries[name] = {
                "dtype": info.dtype,
                "shape": list(info.shape),
                "data_offsets": [info.start, info.stop],
            }
        text = json.dumps(entries, separators=(",", ":")).encode()
        if len(text) > self._room:
            raise RuntimeError(f"the header takes {len(text)} bytes, {self._room} were left for it")
        self._file.seek(0)
        self._file.write(struct.pack("<Q", self._room) + text.ljust(self._room))
        self._file.close()

    def abandon(self) -> None:
        """Closes the file as it is, also on a disk that is full."""
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


def write_safetensors(
    arrays: Mapping[str, NDArray[Any]], path: Path, metadata: Mapping[str, str]
) -> None:
    """Writes contiguous little-endian arrays through the safetensors library."""
    from safetensors.numpy import save_file

    # The library makes files that only their owner may read: give it those of any new file.
    path.touch(exist_ok=False)
    mode = path.stat().st_mode
    save_file(dict(arrays), path, dict(metadata))
    path.chmod(mode)


def sha256(array: NDArray[Any]) -> str:
    """Returns the sha256 of a contiguous array's bytes, in hex."""
    return hashlib.sha256(as_bytes(array).data).hexdigest()


def with_hashes(text: str, hashes: Mapping[str, str]) -> str:
    """Returns binq's metadata JSON with the sha256 of every stored tensor."""
    return json.dumps(json.loads(text) | {"sha256": dict(hashes)}, separators=(",", ":"))
