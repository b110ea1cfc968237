"""The folder that a conversion makes: what may be at its name, and how it gets it.

Until then the work is in ``dst.partial``. What was at the name is moved into the new folder by the
last rename but one, and deleted last.
"""

import errno
import os
import shutil
from contextlib import suppress
from pathlib import Path

from binq.convert.lock import LOCK_NAMES
from binq.files.checkpoint import Checkpoint
from binq.files.replacing import TEMPORARY, sync_folder

# What lay at the target and is replaced, from the last rename but one until it is deleted.
REPLACED = ".binq-replaced"
NOT_EMPTY = "dst: {} is not empty: overwrite=True (--overwrite) replaces it"
_TWO_OLD = "{} was moved away from {}, which exists again: move one of them away"


def partial_of(target: Path) -> Path:
    """Returns the folder of the work for a target."""
    return target.with_name(target.name + ".partial") if target.name else target / ".partial"


def check_target(source: Checkpoint, target: Path) -> None:
    """Raises OSError or ValueError where ``target`` cannot be written to."""
    folder = source.path if source.path.is_dir() else source.path.parent
    if partial_of(target).exists() and partial_of(target).samefile(folder):
        raise ValueError(f"dst: the source is {partial_of(target)}, which would be the work folder")
    if os.path.ismount(target):
        raise ValueError(
            f"dst must not be a mount point, got {target}: it gets its name when all is done, "
            "so name a folder in it"
        )
    if not target.exists():
        if not target.parent.is_dir():
            raise FileNotFoundError(f"dst: the folder {target.parent} does not exist")
        return
    if target.samefile(folder) or target.samefile(source.path):
        raise ValueError(f"dst must not be the source itself, got {target}")
    files = [folder, *source.file_paths().values()]
    if any(target in path.resolve().parents for path in files):
        raise ValueError(f"dst must not hold the source, got {target}, which holds {folder}")
    if not target.is_dir():
        raise FileExistsError(f"dst: {target} is a file")


def check_free(target: Path, overwrite: bool, text: str | None = None) -> None:
    """Raises FileExistsError where the target is filled and may not be replaced."""
    if not is_filled(target):
        return
    if not overwrite:
        raise FileExistsError((text or NOT_EMPTY).format(target))
    # A folder that gets another parent must itself be writable.
    if not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, "may not be replaced", str(target))


def move_in(folder: Path, target: Path, overwrite: bool) -> None:
    """Gives a finished folder the name of the target, which may be filled with ``overwrite``."""
    if is_filled(target):
        check_free(target, overwrite)
        _check_one(folder, target)
        target.rename(folder / REPLACED)
    elif target.exists():
        target.rmdir()
    folder.rename(target)
    sync_folder(target.parent)


def restore(folder: Path, target: Path, overwrite: bool) -> None:
    """Puts back what lay at the target where a kill came between the two renames of move_in."""
    if (folder / REPLACED).exists():
        _check_one(folder, target)
        if target.exists():
            target.rmdir()
        (folder / REPLACED).rename(target)
        check_free(target, overwrite)


def is_filled(target: Path) -> bool:
    """Returns whether there is a folder with something in it."""
    return target.exists() and any(target.iterdir())


def _check_one(folder: Path, target: Path) -> None:
    if (folder / REPLACED).exists() and is_filled(target):
        raise FileExistsError(_TWO_OLD.format(folder / REPLACED, target))


def check_ours(folder: Path, mark: str) -> None:
    """Raises FileExistsError where ``dst.partial`` holds what no work of this kind made.

    - mark: the name of a file that says that the others are of this kind
    """
    if not folder.exists():
        return
    paths = list(folder.iterdir()) if folder.is_dir() else [folder]
    ours = any(path.name == mark for path in paths)
    for path in paths:
        known = ours or is_of_work(path.name) or is_of_system(path.name)
        if not known or (path.is_dir() and path.name != REPLACED):
            raise FileExistsError(f"{path} is in the way: move it, or delete it")


def clear(folder: Path, mark: str) -> None:
    """Deletes unfinished work, its mark last: without it, the rest could be anybody's."""
    for path in sorted(folder.iterdir(), key=lambda path: path.name == mark):
        if not LOCK_NAMES.fullmatch(path.name) and not is_of_system(path.name):
            path.unlink(missing_ok=True)


def is_of_system(name: str) -> bool:
    """Returns whether a name is one that network file systems keep for a deleted file in use."""
    return name.startswith((".nfs", ".fuse_hidden"))


def is_of_work(name: str) -> bool:
    """Returns whether a name is one of a lock or of a temporary file."""
    return bool(LOCK_NAMES.fullmatch(name) or TEMPORARY.fullmatch(name))


def delete_folder(folder: Path) -> None:
    """Deletes a folder with all that is in it, where need be folders that are read-only too."""
    with suppress(FileNotFoundError):
        try:
            shutil.rmtree(folder)
        except PermissionError:
            # Each folder before it is looked into; links are not followed.
            folders = [folder]
            for inner in folders:
                inner.chmod(0o700)
                folders += [path for path in inner.iterdir() if _is_folder(path)]
            shutil.rmtree(folder)


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()
