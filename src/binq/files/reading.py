"""Reads bytes of a file at given places, from any number of threads, and never waits for a pipe."""

import errno
import io
import os
import stat
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from binq.errors import FormatError

_PIECE = 1 << 26  # one read call takes at most this much: some systems stop at 2 GiB
# Opening a pipe would wait for a writer.
_FLAGS = os.O_RDONLY
for _name in ("O_CLOEXEC", "O_BINARY", "O_NONBLOCK", "O_NOCTTY"):
    _FLAGS |= getattr(os, _name, 0)


# Of all files that are read, how many are open at a time: systems allow 256 and more.
_MOST_OPEN = 96


class ReadableFile:
    """A regular file that is read at places. Safe to share among threads.

    - path: the file
    - size: its bytes when it was first opened

    Files that were not read for long are closed where many are in use, and opened again when they
    are: it must be the same file then. Raises FormatError for what is not a regular file: a pipe, a
    device, a socket.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        _check_regular(path.stat(), path)
        self.users = 0
        self.file: io.FileIO | None = None
        # Without preadv the file has one position, which threads would move under each other.
        self._lock = threading.Lock()
        self._closed = False
        self._identity: tuple[int, ...] | None = None
        with self.used():
            pass

    def close(self) -> None:
        """Closes the file."""
        self._closed = True
        _pool.forget(self)

    @contextmanager
    def used(self) -> Iterator[io.FileIO]:
        """Gives the open file, which stays so at least until the end."""
        if self._closed:
            raise ValueError(f"{self.path} was closed")
        file = _pool.take(self)
        try:
            yield file
        finally:
            _pool.give_back(self)

    def open(self) -> io.FileIO:
        """Returns the file, opened; the pool's business."""
        file = io.FileIO(os.open(self.path, _FLAGS))
        try:
            status = os.fstat(file.fileno())
            _check_regular(status, self.path)
            identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
            if self._identity not in (None, identity):
                raise FormatError(f"{self.path}: it changed while it was read")
        except BaseException:
            file.close()
            raise
        self._identity, self.size = identity, status.st_size
        return file

    def read(self, start: int, length: int, what: str) -> bytes:
        """Returns bytes; as :meth:`read_into`."""
        buffer = bytearray(length)
        self.read_into(memoryview(buffer), start, what)
        return bytes(buffer)

    def read_array(self, start: int, length: int, what: str) -> NDArray[np.uint8]:
        """Returns bytes as a new array; as :meth:`read_into`."""
        buffer = np.empty(length, np.uint8)
        self.read_into(buffer.data, start, what)
        return buffer

    def read_into(self, buffer: memoryview, start: int, what: str) -> None:
        """Fills ``buffer`` with the bytes from ``start`` on.

        Raises FormatError, naming ``what`` was read, where the file has become too short.
        """
        done = 0
        while done < len(buffer):
            try:
                got = self._read_once(buffer[done : done + _PIECE], start + done)
            except OSError as error:
                error.filename = f"{self.path} (reading at byte {start + done})"
                raise
            if not got:
                raise FormatError(
                    f"{self.path}: {what}: the file ends at byte {start + done}: it was "
                    "shortened while it was read"
                )
            done += got

    def _read_once(self, buffer: memoryview, start: int) -> int:
        with self.used() as file:
            if hasattr(os, "preadv"):
                return os.preadv(file.fileno(), [buffer], start)
            with self._lock:  # Windows
                file.seek(start)
                return file.readinto(buffer) or 0


class _Pool:
    """The files that are open, those that were used last at the end.

    Any line here may make the garbage collector run, which may close files that nobody uses: the
    lock lets its own thread in again, and nothing is taken for granted after it.
    """

    def __init__(self) -> None:
        self._guard = threading.RLock()
        self._open: OrderedDict[int, weakref.ref[ReadableFile]] = OrderedDict()

    def take(self, owner: ReadableFile) -> io.FileIO:
        with self._guard:
            owner.users += 1
            try:
                if owner.file is None:
                    owner.file = owner.open()
                    self._open[id(owner)] = weakref.ref(owner)
                self._open.move_to_end(id(owner))
                if len(self._open) > _MOST_OPEN:
                    self._shrink()
            except BaseException:
                owner.users -= 1
                raise
            return owner.file

    def give_back(self, owner: ReadableFile) -> None:
        with self._guard:
            owner.users -= 1

    def forget(self, owner: ReadableFile) -> None:
        """Closes a file for good."""
        with self._guard:
            self._open.pop(id(owner), None)
            file, owner.file = owner.file, None
            if file is not None:
                file.close()

    def _shrink(self) -> None:
        """Closes the files that were not used for longest, but none that is in use."""
        for key in list(self._open)[: len(self._open) - _MOST_OPEN]:
            reference = self._open.get(key)
            owner = reference() if reference else None
            if owner is None:  # its file was closed with it
                self._open.pop(key, None)
            elif not owner.users:
                self._open.pop(key, None)
                file, owner.file = owner.file, None
                if file is not None:
                    file.close()

    def reset(self) -> None:
        """A forked child has no thread that could hold the lock."""
        self._guard = threading.RLock()


_pool = _Pool()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.reset)


def _check_regular(status: os.stat_result, path: Path) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "a folder, not a file", str(path))
    if not stat.S_ISREG(status.st_mode):
        kinds = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
        what = kinds.get(stat.S_IFMT(status.st_mode), "a device")
        raise FormatError(f"{path}: {what}, not a regular file")
