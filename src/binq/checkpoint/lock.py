"""Tells processes that work on the same output folder of each other."""

import os
import socket
from contextlib import suppress
from pathlib import Path

WHOLE = "lock"


class Lock:
    """A file that says which process works in a folder; one of a dead process counts for none.

    - folder: the folder, which exists by the time the lock is entered
    - part: (i, n) for one part of a job. Parts work side by side, and a part that was killed may
      begin again anywhere: what it writes is the same. A whole job wants the folder for itself.

    Entering raises FileExistsError where another living process holds what this one needs.
    """

    def __init__(self, folder: Path, part: tuple[int, int] | None = None) -> None:
        self.folder = folder
        self.path = folder / (WHOLE if part is None else f"{WHOLE}-{part[0]}-of-{part[1]}")
        self.text = f"{socket.gethostname()} {os.getpid()}"

    def check_free(self, with_parts: bool = True) -> None:
        """Raises FileExistsError where another living process works on the whole (or a part)."""
        paths = sorted(self.folder.glob(f"{WHOLE}-*-of-*")) if with_parts else []
        for path in [self.folder / WHOLE, *paths]:
            with suppress(FileNotFoundError):
                text = path.read_text()
                host, _, pid = text.partition(" ")
                dead = host == socket.gethostname() and pid.isdecimal() and not _alive(int(pid))
                if text != self.text and not dead:
                    raise FileExistsError(
                        f"{self.folder}: process {pid} on {host} works there; "
                        f"if it is dead, delete {path}"
                    )

    def __enter__(self) -> None:
        if self.path.name == WHOLE:
            self.check_free()
            self.path.unlink(missing_ok=True)
            with self.path.open("x") as file:
                file.write(self.text)
        else:
            self.check_free(with_parts=False)
            self.path.write_text(self.text)

    def __exit__(self, *_: object) -> None:
        self.path.unlink(missing_ok=True)


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
