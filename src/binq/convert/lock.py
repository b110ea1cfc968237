"""Tells processes that work on the same output folder of each other."""

import os
import re
import socket
import threading
from contextlib import suppress
from pathlib import Path

from binq.files.holding import hold, is_alive, is_held, release, try_lock
from binq.files.replacing import link_new, naming, temporary_path

WHOLE = "binq-conversion.lock"
# Names that locks have.
LOCK_NAMES = re.compile(r"binq-conversion(-\d+-of-\d+)?\.lock")
_PARTS = "binq-conversion-*-of-*.lock"
_CLOEXEC = getattr(os, "O_CLOEXEC", 0)
# What this process holds: a lock of an earlier process may bear the same host and number, as those
# of containers do.
_HELD: dict[Path, "Lock"] = {}
_GUARD = threading.Lock()


class Lock:
    """A file that says which process works in a folder; one of a dead process counts for none.

    - folder: the folder, which exists by the time the lock is entered
    - part: (i, n) for one part of a job. Parts work side by side, and a part that was killed may
      begin again anywhere: what it writes is the same. A whole job wants the folder for itself.
    - dead: the number of the killed process whose lock it was, or None

    The process holds its file locked by the system as well, where the file system can do that: so
    the living are told from the dead also where containers share a host's name but not its numbers.
    The lock is a shared one, since a file under the other kind cannot be read everywhere; whoever
    wants to know tries for the other kind.

    Entering raises FileExistsError where another living conversion holds what this one needs.
    """

    def __init__(self, folder: Path, part: tuple[int, int] | None = None) -> None:
        self.folder = folder
        self.is_whole = part is None
        name = WHOLE if part is None else f"binq-conversion-{part[0]}-of-{part[1]}.lock"
        self.path = folder / name
        self.text = f"{socket.gethostname()} {os.getpid()}"
        self.dead: int | None = None
        self._file: int | None = None

    def __enter__(self) -> None:
        try:
            self._take()
            # Whoever comes second sees the other's file, since each makes its own first.
            others = sorted(self.folder.glob(_PARTS)) if self.is_whole else [self.folder / WHOLE]
            for path in others:
                self._check_dead(path, _read(path))
        except FileNotFoundError:
            raise FileExistsError(
                f"{self.folder}: another process completed the work there just now"
            ) from None
        except BaseException:
            self._release()
            raise

    def __exit__(self, *_: object) -> None:
        self._release()

    def _take(self) -> None:
        temporary = temporary_path(self.path)
        try:
            with naming(self.path):
                temporary.write_text(self.text)
            # Before it has its name: whoever finds it finds it locked.
            first = hold(temporary)
            try:
                self._name(temporary)
                # Open under this name only: network file systems keep a name that is deleted for
                # as long as it is open.
                self._file = hold(self.path)
            finally:
                release(first)
        finally:
            temporary.unlink(missing_ok=True)

    def _name(self, temporary: Path) -> None:
        """Gives the temporary file the name of the lock, which is free or that of the dead."""
        while True:
            with _GUARD:
                if link_new(temporary, self.path):
                    _HELD[self.path] = self
                    return
            text = _read(self.path)
            if text is None:
                continue
            if self.is_whole:
                self._check_dead(self.path, text)
                self._take_away(text)
                continue
            # The same part once more, as a cluster's second try: both write the same bytes.
            if self._is_dead(self.path, text):
                self.dead = _owner(text)[1]
            with _GUARD:
                temporary.replace(self.path)
                _HELD[self.path] = self
            return

    def _take_away(self, dead: str) -> None:
        """Removes a dead lock, unless another process did so and has its own there by now."""
        with suppress(FileNotFoundError):
            file = os.open(self.path, os.O_RDWR | _CLOEXEC)
            try:
                # Of those who find it dead, one at a time.
                if try_lock(file, exclusive=True) is False:
                    return
                same = os.path.samestat(os.fstat(file), self.path.stat())
                if same and _read(self.path) == dead and self.path not in _HELD:
                    self.path.unlink()
                    self.dead = _owner(dead)[1]
            finally:
                os.close(file)

    def _check_dead(self, path: Path, text: str | None) -> None:
        if text is not None and not self._is_dead(path, text):
            host, pid = _owner(text)
            raise FileExistsError(
                f"{self.folder}: process {pid or '?'} on {host or '?'} works there; "
                f"if it is dead, delete {path}"
            )

    def _is_dead(self, path: Path, text: str) -> bool:
        """Returns whether a lock is one of a process that is certain to be gone."""
        host, pid = _owner(text)
        if host != socket.gethostname() or not pid:
            return False
        if text == self.text and path in _HELD:
            return False
        return not is_held(path) and (text == self.text or not is_alive(pid))

    def _release(self) -> None:
        with _GUARD:
            if _HELD.get(self.path) is self:
                del _HELD[self.path]
                if self._is_mine():
                    self.path.unlink(missing_ok=True)
            release(self._file)
            self._file = None

    def _is_mine(self) -> bool:
        """Returns whether the file of this name is still the one that was made here."""
        with suppress(FileNotFoundError):
            if self._file is not None:
                return os.path.samestat(os.fstat(self._file), self.path.stat())
            return _read(self.path) == self.text
        return False


def _forget_in_child() -> None:
    """A worker that outlives its parent must not look like it."""
    _HELD.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)


def _owner(text: str) -> tuple[str, int]:
    """Returns host and number of the process that a lock names, "" and 0 where it is damaged."""
    host, _, number = text.partition(" ")
    known = host.isprintable() and number.isdecimal() and number.isascii() and len(number) < 10
    return (host, int(number)) if known and int(number) else ("", 0)


def _read(path: Path) -> str | None:
    """Returns what a lock says, nothing where it may not be read, None where there is none."""
    try:
        return path.read_bytes()[:1000].decode("utf-8", "replace")
    except FileNotFoundError:
        return None
    except PermissionError:
        return ""
