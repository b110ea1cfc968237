"""The GGUF files of one model: one, or parts that are named ``NAME-00001-of-0000N.gguf``."""

import re
from pathlib import Path

from binq.errors import FormatError, UnsupportedFormatError
from binq.files.gguf import GgufFile

_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")


def open_parts(path: Path) -> list[GgufFile]:
    """Returns the open files of a model, whichever of its parts is named; the first has metadata.

    Raises FileNotFoundError for a part that is missing, FormatError for parts that do not belong
    together.
    """
    named = GgufFile(path)
    files = [named]
    try:
        count = _number(named, "split.count", 1)
        if count > 1:
            files = _others(named, count)
            _check_numbers(files)
        _check_names(files)
    except BaseException:
        for file in {named, *files}:
            file.close()
        raise
    return files


def _others(named: GgufFile, count: int) -> list[GgufFile]:
    paths = _parts(named.path, count)
    missing = [part for part in paths if not part.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{missing[0]}: there is no such file, though {named.path.name} is one of {count} parts"
        )
    files: list[GgufFile] = []
    try:
        for part in paths:
            files.append(named if part == named.path else GgufFile(part))
    except BaseException:
        for file in files:
            file.close()
        raise
    return files


def _check_numbers(files: list[GgufFile]) -> None:
    for number, file in enumerate(files):
        found = (_number(file, "split.no", 0), _number(file, "split.count", 1))
        if found != (number, len(files)):
            raise FormatError(
                f"{file.path}: its metadata say part {found[0] + 1} of {found[1]}, its name "
                f"part {number + 1} of {len(files)}"
            )


def _check_names(files: list[GgufFile]) -> None:
    holders: dict[str, GgufFile] = {}
    for file in files:
        for name in file:
            if name in holders:
                raise FormatError(f"{file.path}: tensor {name!r} is in {holders[name].path} too")
            holders[name] = file
    wanted = files[0].metadata.get("split.tensors.count")
    if wanted is not None and len(files) > 1 and wanted != len(holders):
        raise FormatError(
            f"{files[0].path}: {len(holders)} tensors in all parts, "
            f"split.tensors.count says {wanted!r}"
        )


def one_of_each(paths: list[Path]) -> list[Path]:
    """Returns the paths without the second and further parts of split models."""
    parts = {path: _PART.fullmatch(path.name) for path in paths}
    return [path for path, part in parts.items() if part is None or int(part[2]) == 1]


def _parts(path: Path, count: int) -> list[Path]:
    part = _PART.fullmatch(path.name)
    if part is None or int(part[3]) != count:
        raise UnsupportedFormatError(
            f"{path}: part of a model of {count} GGUF files, which are found by their names: they "
            f"must end in -00001-of-{count:05d}.gguf and so on"
        )
    return [path.with_name(f"{part[1]}-{n + 1:05d}-of-{count:05d}.gguf") for n in range(count)]


def _number(file: GgufFile, key: str, default: int) -> int:
    value = file.metadata.get(key, default)
    if type(value) is not int or not 0 <= value < 1 << 16:
        raise FormatError(f"{file.path}: {key} is {value!r}, not a number of files")
    return value
