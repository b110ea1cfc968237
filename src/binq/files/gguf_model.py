"""The GGUF files of one model: one, or parts that are named ``NAME-00001-of-0000N.gguf``."""

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binq.errors import FormatError, UnsupportedFormatError
from binq.files.gguf import GgufFile, GgufTensor

_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")


class GgufModel:
    """An open model, whichever of its parts was named.

    - metadata: the key-value pairs of the first part, which has them all
    - tensors: name -> GgufTensor, in the order of the parts
    - places: the name of the file of each tensor

    Raises FileNotFoundError for a part that is missing, FormatError for parts that do not belong
    together.
    """

    def __init__(self, path: Path) -> None:
        self._files: list[GgufFile] = []
        self._holders: dict[str, GgufFile] = {}
        try:
            self._open(path)
        except BaseException:
            self.close()
            raise
        self.metadata: dict[str, Any] = self._files[0].metadata
        self.tensors: dict[str, GgufTensor] = {}
        for file in self._files:
            for name in file.tensors:
                if name in self._holders:
                    self.close()
                    raise FormatError(
                        f"{file.path}: tensor {name!r} is in {self._holders[name].path} too"
                    )
                self._holders[name] = file
            self.tensors |= file.tensors
        self._check_count()

    def _open(self, path: Path) -> None:
        first = GgufFile(path)
        self._files.append(first)
        count = _number(first, "split.count", 1)
        if count <= 1:
            return
        paths = _parts(path, count)
        missing = [part for part in paths if not part.is_file()]
        if missing:
            raise FileNotFoundError(
                f"{missing[0]}: there is no such file, though {path.name} is one of {count} parts"
            )
        self._files += [first] * (count - 1)
        for number, part in enumerate(paths):
            self._files[number] = first if part == path else GgufFile(part)
        for number, file in enumerate(self._files):
            found = (_number(file, "split.no", 0), _number(file, "split.count", 1))
            if found != (number, count):
                raise FormatError(
                    f"{file.path}: its metadata say part {found[0] + 1} of {found[1]}, its name "
                    f"part {number + 1} of {count}"
                )

    def _check_count(self) -> None:
        wanted = self.metadata.get("split.tensors.count")
        if wanted is not None and len(self._files) > 1 and wanted != len(self.tensors):
            self.close()
            raise FormatError(
                f"{self._files[0].path}: {len(self.tensors)} tensors in all parts, "
                f"split.tensors.count says {wanted!r}"
            )

    @property
    def places(self) -> dict[str, str]:
        return {name: file.path.name for name, file in self._holders.items()}

    def read_bytes(self, name: str, start: int, stop: int) -> NDArray[np.uint8]:
        """Returns bytes ``[start, stop)`` of a tensor. Raises FormatError where they are gone."""
        return self._holders[name].read_bytes(name, start, stop)

    def close(self) -> None:
        """Closes the files."""
        for file in self._files:
            file.close()


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
        raise FormatError(f"{file.path}: {key} is {value!r}, no number of files")
    return value
