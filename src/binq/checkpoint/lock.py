"""Tells processes that work on the same output folder of each other."""

import os
import socket
import threading
from contextlib import suppress
from pathlib import Path

from binq.files.writer import link_new, naming, temporary_path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

WHOLE = "binq-conversion.lock"
_PARTS = "binq-conversion-*-of-*.lock"
# What this process holds: a lock of an earlier process may bear the same host and number, as those
# of containers do.
_HELD: set[Path] = set()
_OPEN: set[int] = set()
_GUARD = threading.Lock()


class Lock:
    """A file that says which process works in a folder; one of a dead process counts for none.

    - folder: the folder, which exists by the time the lock is entered
    - part: (i, n) for one part of a job. Parts work side by side, and a part that was killed may
      begin again anywhere: what it writes is the same. A whole job wants the folder for itself.
    - found_dead: whether it was taken over from a process that was killed

    The process holds its file locked by the system as well, where the file system can do that: so
    the living are told from the dead also where containers share a host's name but not its numbers.

    Entering raises FileExistsError where another living conversion holds what this one needs.
    """

    def __init__(self, folder: Path, part: tuple[int, int] | None = None) -> None:
        self.folder = folder
        self.is_whole = part is None
        name = WHOLE if part is None else f"binq-conversion-{part[0]}-of-{part[1]}.lock"
        self.path = folder / name
        self.text = f"{socket.gethostname()} {os.getpid()}"
        self.found_dead = False
        self._is_held = False
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
            self._file = _locked(temporary)
            while True:
                with _GUARD:
                    if link_new(temporary, self.path):
                        self._hold()
                        return
                text = _read(self.path)
                if text is None:
                    continue
                if self.is_whole:
                    self._check_dead(self.path, text)
                    self._take_away(text)
                    continue
                # The same part once more, as a cluster's second try: both write the same bytes.
                self.found_dead = self._is_dead(self.path, text)
                with _GUARD:
                    temporary.replace(self.path)
                    self._hold()
                return
        finally:
            temporary.unlink(missing_ok=True)

    def _take_away(self, dead: str) -> None:
        """Removes a dead lock, unless another process did so and has its own there by now."""
        aside = temporary_path(self.path)
        with suppress(FileNotFoundError):
            self.path.rename(aside)
            taken = aside.read_text()
            if taken == dead and self.path not in _HELD and self._is_dead(aside, taken):
                self.found_dead = True
                aside.unlink()
                return
            link_new(aside, self.path)
            aside.unlink()
            self._check_dead(self.path, taken)

    def _check_dead(self, path: Path, text: str | None) -> None:
        if text is not None and not self._is_dead(path, text):
            host, _, pid = text.partition(" ")
            raise FileExistsError(
                f"{self.folder}: process {pid or '?'} on {host or '?'} works there; "
                f"if it is dead, delete {path}"
            )

    def _is_dead(self, path: Path, text: str) -> bool:
        """Returns whether a lock is one of a process that is certain to be gone."""
        host, _, pid = text.partition(" ")
        if host != socket.gethostname() or not pid.isdecimal():
            return False
        if text == self.text and path in _HELD:
            return False
        return not _is_locked(path) and (text == self.text or not _alive(int(pid)))

    def _hold(self) -> None:
        if self._file is not None and not os.path.samestat(os.fstat(self._file), self.path.stat()):
            # The file system has no links: the name is another file's.
            self._close()
            self._file = _locked(self.path)
        self._is_held = True
        _HELD.add(self.path)

    def _release(self) -> None:
        with _GUARD:
            if self._is_held:
                self._is_held = False
                _HELD.discard(self.path)
                if _read(self.path) == self.text:
                    self.path.unlink(missing_ok=True)
            self._close()

    def _close(self) -> None:
        if self._file is not None:
            _OPEN.discard(self._file)
            os.close(self._file)
            self._file = None


def _locked(path: Path) -> int | None:
    """Returns the descriptor of a file that the system holds locked as long as it is open."""
    if fcntl is None:
        return None
    file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        return None
    _OPEN.add(file)
    return file


def _is_locked(path: Path) -> bool:
    """Returns whether a process is known to hold a file locked."""
    if fcntl is None:
        return False
    with suppress(OSError):
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(file)
    return False


def _forget_in_child() -> None:
    """A worker that outlives its parent must not look like it."""
    for file in _OPEN:
        with suppress(OSError):
            os.close(file)
    _OPEN.clear()
    _HELD.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)


def _read(path: Path) -> str | None:
    with suppress(FileNotFoundError):
        return path.read_text()
    return None


def _alive(pid: int) -> bool:
    if os.name != "posix":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
