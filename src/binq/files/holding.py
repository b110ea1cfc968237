"""Tells files of living processes from those of dead ones, by the system's own locks.

A process holds a file locked as long as it has it open; who wants to know tries for a lock of the
other kind. Where the system or the file system has no such locks, nothing is known.
"""

import os
from contextlib import suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_CLOEXEC = getattr(os, "O_CLOEXEC", 0)
_OPEN: set[int] = set()


def hold(path: Path) -> int | None:
    """Returns a descriptor that keeps a file locked until :func:`release`, None if it cannot be.

    The lock is a shared one, since a file under the other kind cannot be read everywhere.
    """
    try:
        file = os.open(path, os.O_RDWR | _CLOEXEC)
    except OSError:
        return None
    if not try_lock(file, exclusive=False):
        os.close(file)
        return None
    _OPEN.add(file)
    return file


def release(file: int | None) -> None:
    """Closes what :func:`hold` returned."""
    if file in _OPEN:
        _OPEN.discard(file)
        os.close(file)


def try_lock(file: int, exclusive: bool) -> bool | None:
    """Returns whether a file could be locked; None where the system or file system cannot.

    Who wants the shared lock waits for those that only ask.
    """
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB if exclusive else fcntl.LOCK_SH)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def is_held(path: Path) -> bool:
    """Returns whether a process is known to hold a file."""
    # Network file systems lock only what may be written; another user's file may only be read.
    for flags in (os.O_RDWR, os.O_RDONLY):
        with suppress(OSError):
            file = os.open(path, flags | _CLOEXEC)
            try:
                return try_lock(file, exclusive=True) is False
            finally:
                os.close(file)
    return False


def is_alive(pid: int) -> bool:
    """Returns whether a process of this machine may be alive; always so where that is unknown."""
    if os.name != "posix":
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _forget_in_child() -> None:
    """A worker that outlives its parent must not look like it."""
    for file in _OPEN:
        with suppress(OSError):
            os.close(file)
    _OPEN.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
