"""Reads bytes of a file at given places, from any number of threads, and never waits for a pipe."""

import errno
import io
import os
import stat
import threading
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from binq.errors import FormatError

_PIECE = 1 << 26  # one read call takes at most this much: some systems stop at 2 GiB
# Opening a pipe would wait for a writer.
_FLAGS = os.O_RDONLY
for _name in ("O_CLOEXEC", "O_BINARY", "O_NONBLOCK", "O_NOCTTY"):
    _FLAGS |= getattr(os, _name, 0)


class ReadableFile:
    """A regular file that is open for reading. Safe to share among threads.

    - path: the file
    - size: its bytes when it was opened

    Raises FormatError for what is no regular file: a pipe, a device, a socket.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        _check_regular(path.stat(), path)
        self._file = io.FileIO(os.open(path, _FLAGS))
        # Without preadv the file has one position, which threads would move under each other.
        self._lock = threading.Lock()
        try:
            status = os.fstat(self._file.fileno())
            _check_regular(status, path)
        except BaseException:
            self._file.close()
            raise
        self.size = status.st_size

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def fileno(self) -> int:
        """Returns the descriptor, to map the file."""
        return self._file.fileno()

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
        if hasattr(os, "preadv"):
            return os.preadv(self._file.fileno(), [buffer], start)
        with self._lock:  # Windows
            self._file.seek(start)
            return self._file.readinto(buffer) or 0


def _check_regular(status: os.stat_result, path: Path) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "a folder, not a file", str(path))
    if not stat.S_ISREG(status.st_mode):
        kinds = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
        what = kinds.get(stat.S_IFMT(status.st_mode), "a device")
        raise FormatError(f"{path}: {what}, not a regular file")
