"""Tells processes that work on the same output folder of each other."""

import os
import secrets
import socket
import threading
from contextlib import suppress
from pathlib import Path

WHOLE = "binq-conversion.lock"
_PARTS = "binq-conversion-*-of-*.lock"
# What this process holds: a lock of an earlier process may bear the same host and number, as those
# of containers do.
_HELD: set[Path] = set()
_GUARD = threading.Lock()


class Lock:
    """A file that says which process works in a folder; one of a dead process counts for none.

    - folder: the folder, which exists by the time the lock is entered
    - part: (i, n) for one part of a job. Parts work side by side, and a part that was killed may
      begin again anywhere: what it writes is the same. A whole job wants the folder for itself.

    Entering raises FileExistsError where another living conversion holds what this one needs.
    """

    def __init__(self, folder: Path, part: tuple[int, int] | None = None) -> None:
        self.folder = folder
        self.is_whole = part is None
        name = WHOLE if part is None else f"binq-conversion-{part[0]}-of-{part[1]}.lock"
        self.path = folder / name
        self.text = f"{socket.gethostname()} {os.getpid()}"
        self._is_held = False

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
        while True:
            with _GUARD:
                if create(self.path, self.text):
                    self._hold()
                    return
            text = _read(self.path)
            if text is None:
                continue
            if not self.is_whole:
                # The same part once more, as a cluster's second try: both write the same bytes.
                temporary = _temporary(self.path)
                temporary.write_text(self.text)
                with _GUARD:
                    temporary.replace(self.path)
                    self._hold()
                return
            self._check_dead(self.path, text)
            self._take_away(text)

    def _take_away(self, dead: str) -> None:
        """Removes a dead lock, unless another process did so and has its own there by now."""
        aside = _temporary(self.path)
        with suppress(FileNotFoundError):
            self.path.rename(aside)
            taken = aside.read_text()
            if taken != dead:
                create(self.path, taken)
            aside.unlink()
            self._check_dead(self.path, taken)

    def _check_dead(self, path: Path, text: str | None) -> None:
        if text is None:
            return
        host, _, pid = text.partition(" ")
        dead = False
        if host == socket.gethostname() and pid.isdecimal():
            dead = path not in _HELD if text == self.text else not _alive(int(pid))
        if not dead:
            raise FileExistsError(
                f"{self.folder}: process {pid or '?'} on {host or '?'} works there; "
                f"if it is dead, delete {path}"
            )

    def _hold(self) -> None:
        self._is_held = True
        _HELD.add(self.path)

    def _release(self) -> None:
        with _GUARD:
            if self._is_held:
                self._is_held = False
                _HELD.discard(self.path)
                if _read(self.path) == self.text:
                    self.path.unlink(missing_ok=True)


def create(path: Path, text: str) -> bool:
    """Makes a file that holds ``text`` from its first moment on; False where there is one.

    Only where the file system has no links, a kill may leave the file empty.
    """
    temporary = _temporary(path)
    try:
        temporary.write_text(text)
        os.link(temporary, path)
    except FileExistsError:
        return False
    except FileNotFoundError:
        raise
    except OSError:
        try:
            with path.open("x") as file:
                file.write(text)
        except FileExistsError:
            return False
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


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
