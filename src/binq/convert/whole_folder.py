"""A folder that appears under its name when it is complete, and not before."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from binq.convert.destination import (
    REPLACED,
    check_free,
    check_ours,
    clear,
    delete_folder,
    move_in,
    partial_of,
    restore,
)
from binq.convert.lock import LOCK_NAMES, Lock
from binq.files.replacing import replacing, sync_folder


@contextmanager
def whole_folder(target: Path, overwrite: bool, mark: str) -> Iterator[Path]:
    """Gives the folder ``target.partial``, which becomes ``target`` at the end.

    Whatever ends the work before leaves target as it was; what lay there is deleted last.

    - mark: the name of a file that marks the partial folder as work of one kind, so that a later
      run of it may delete what a killed one left
    """
    folder = partial_of(target)
    check_ours(folder, mark)
    if not (folder / REPLACED).exists():
        check_free(target, overwrite)
    folder.mkdir(exist_ok=True)
    with Lock(folder):
        restore(folder, target, overwrite)
        clear(folder, mark)
        write_json(folder / mark, {"target": target.name})
        try:
            yield folder
            sync_folder(folder)
            move_in(folder, target, overwrite)
        except BaseException:
            if folder.exists() and not (folder / REPLACED).exists():
                clear(folder, mark)
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


def write_json(path: Path, content: Mapping[str, Any], mode: int = 0o666) -> None:
    """Writes a JSON file that is whole or not there."""
    with replacing(path, mode) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")
