"""Files that are either whole or not there.

Everything goes to a temporary file in the same folder, then fsync, rename, fsync of the folder:
whoever opens the final name finds a complete file, whatever happened in between.
"""

import contextlib
import errno
import os
import re
import secrets
import socket
import stat
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from binq.files.holding import hold, is_alive, is_held, release

# Names that temporary_path gives: .NAME.PROCESS-MACHINE AND CHANCE.tmp
TEMPORARY = re.compile(r"\..+\.(\d+)-([0-9a-f]{4})[0-9a-f]{8}\.tmp")
NEW_FILE = 0o666  # less the umask


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], mode: int = NEW_FILE) -> Iterator[Path]:
    """Gives the path of an empty temporary file beside ``path`` that becomes ``path`` at the end.

    It has the permissions of the file that it replaces, or ``mode`` less the umask. On any
    exception, Ctrl-C included, the temporary file is removed and ``path`` is as it was. An OSError
    that names no file, as those of a full disk, gets the name of this one; none names the
    temporary file, which is gone by then.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "no such folder", str(path.parent))
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "a folder, not a file", str(path))
    before = _mode_of(path)
    temporary = temporary_path(path)
    held = None
    try:
        with naming(path):
            temporary.touch(
                mode=(mode if before is None else before) & 0o777 | 0o600, exist_ok=False
            )
            held = hold(temporary)
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            if before is not None:
                temporary.chmod(before)
            temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and isinstance(error.filename, str):
            error.filename = error.filename.replace(str(temporary), str(path))
        raise
    finally:
        release(held)
    sync_folder(path.parent)


def _mode_of(path: Path) -> int | None:
    """Returns the permissions of a file, None where there is no file."""
    try:
        return stat.S_IMODE(path.stat().st_mode) & 0o777
    except OSError:
        return None


def temporary_path(path: Path) -> Path:
    """Returns a new name beside ``path``, which :data:`TEMPORARY` matches."""
    return path.with_name(f"{_prefix(path)}{os.getpid()}-{_machine()}{secrets.token_hex(4)}.tmp")


def _prefix(path: Path) -> str:
    # Names have 255 bytes at most.
    name = path.name if len(os.fsencode(path.name)) <= 200 else path.name[:50]
    return f".{name}."


def _machine() -> str:
    return sha256(socket.gethostname().encode()).hexdigest()[:4]


def remove_abandoned(path: Path) -> None:
    """Deletes the temporary files of ``path`` that killed processes of this machine left."""
    prefix = _prefix(path)
    with contextlib.suppress(OSError):
        with os.scandir(path.parent) as entries:
            names = [entry.name for entry in entries if entry.name.startswith(prefix)]
        for name in names:
            if found := TEMPORARY.fullmatch(name):
                pid, machine = found.groups()
                other = path.with_name(name)
                if machine == _machine() and not is_alive(int(pid)) and not is_held(other):
                    other.unlink(missing_ok=True)


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
