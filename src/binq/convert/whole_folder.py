"""A folder that appears under its name when it is complete, and not before."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from binq.convert.lock import LOCK_NAMES, Lock
from binq.convert.work import NOT_EMPTY, REPLACED, delete_folder, partial_of
from binq.files.replacing import replacing, sync_folder


@contextmanager
def whole_folder(target: Path, overwrite: bool, mark: str) -> Iterator[Path]:
    """Gives the folder ``target.partial``, which becomes ``target`` at the end.

    Whatever ends the work before leaves target as it was; what lay there is deleted last.

    - mark: the name of a file that marks the partial folder as work of one kind, so that a later
      run of it may delete what a killed one left
    """
    folder = partial_of(target)
    replaced = folder / REPLACED
    _check_ours(folder, mark)
    _check_free(target, overwrite, replaced)
    folder.mkdir(exist_ok=True)
    with Lock(folder):
        if replaced.exists():  # a kill came between the last two renames
            if target.exists():
                target.rmdir()
            replaced.rename(target)
            _check_free(target, overwrite, replaced)
        for path in sorted(folder.iterdir(), key=lambda path: path.name == mark):
            if not LOCK_NAMES.fullmatch(path.name):
                path.unlink(missing_ok=True)
        write_json(folder / mark, {"target": target.name})
        try:
            yield folder
            sync_folder(folder)
            if _is_filled(target):
                _check_free(target, overwrite, replaced)
                target.rename(replaced)
            elif target.exists():
                target.rmdir()
            folder.rename(target)
            sync_folder(target.parent)
        except BaseException:
            if folder.exists() and not replaced.exists():
                for path in folder.iterdir():
                    if not LOCK_NAMES.fullmatch(path.name):
                        path.unlink(missing_ok=True)
            raise
        finally:
            for place in (folder, target):
                for path in place.glob("*.lock") if place.exists() else ():
                    if LOCK_NAMES.fullmatch(path.name):
                        path.unlink(missing_ok=True)
            with suppress(OSError):
                folder.rmdir()
    (target / mark).unlink(missing_ok=True)
    delete_folder(target / REPLACED)
    sync_folder(target)


def _is_filled(target: Path) -> bool:
    return target.exists() and any(target.iterdir())


def _check_free(target: Path, overwrite: bool, replaced: Path) -> None:
    if not _is_filled(target):
        return
    if replaced.exists():
        raise FileExistsError(
            f"{replaced} was moved away from {target}, which exists again: move one of them"
        )
    if not overwrite:
        raise FileExistsError(NOT_EMPTY.format(target))


def _check_ours(folder: Path, mark: str) -> None:
    """Raises FileExistsError where ``dst.partial`` is not the work that the mark stands for."""
    if not folder.exists():
        return
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else {folder.name}
    if names - {REPLACED} and mark not in names:
        strange = sorted(name for name in names if not LOCK_NAMES.fullmatch(name))
        if strange:
            raise FileExistsError(f"{folder / strange[0]} is in the way: move it, or delete it")


def write_json(path: Path, content: Mapping[str, Any], mode: int = 0o666) -> None:
    """Writes a JSON file that is whole or not there."""
    with replacing(path, mode) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")
