"""Shows what files and folders hold, by their headers alone."""

import json
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path

from binq.convert.tables import readable, shown
from binq.errors import FormatError
from binq.files import metadata as binq_metadata
from binq.files.checkpoint import Checkpoint, open_file
from binq.files.stored import StoredPacked
from binq.files.tensor_file import TensorFile


@dataclass
class Entry:
    """One tensor of a file, packed or plain."""

    name: str
    file: str
    format: str
    shape: tuple[int, ...]
    nbytes: int

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.nbytes / prod(self.shape) if prod(self.shape) else 0.0


def tensor_files(path: Path) -> list[Path]:
    """Returns the files behind a path: itself, or those that hold the tensors of a folder."""
    if not path.is_dir():
        return [path]
    with Checkpoint(path) as source:
        return [path / name for name in source.files]


def _opened(file: Path, path: Path) -> TensorFile:
    """Returns a file, opened. Raises FormatError for one that a folder's index invents."""
    try:
        return open_file(file)
    except FileNotFoundError:
        if file == path:
            raise
        raise FormatError(f"{file}: there is no such file") from None


def inspect(path: Path) -> list[Entry]:
    """Returns what a file or a checkpoint folder holds, by name."""
    entries = []
    for file_path in tensor_files(path):
        with _opened(file_path, path) as file:
            described = binq_metadata.described(file.metadata, file.path)[0]
            parts = binq_metadata.stored_names(described)
            for name, d in described.items():
                nbytes = StoredPacked(file, name, d).nbytes
                entries.append(Entry(name, file_path.name, str(d.packing), d.shape, nbytes))
            for name, info in file.tensors.items():
                if name not in parts:
                    entries.append(Entry(name, file_path.name, info.dtype, info.shape, info.nbytes))
    return sorted(entries, key=lambda entry: entry.name)


def inspect_text(entries: list[Entry]) -> str:
    """Returns a table of the entries and their total."""
    width = max([len(shown(e.name)) for e in entries], default=0)
    lines = [
        f"{shown(e.name):{width}}  {e.format:18} {'x'.join(map(str, e.shape)):>20} "
        f"{e.bits_per_weight:7.3f} {readable(e.nbytes):>10}  {e.file}"
        for e in entries
    ]
    lines.append(f"{len(entries)} tensors, {readable(sum(e.nbytes for e in entries))}")
    return "\n".join(lines)


def inspect_json(entries: list[Entry]) -> str:
    """Returns the entries as one JSON document."""
    return json.dumps([asdict(e) | {"bits_per_weight": e.bits_per_weight} for e in entries])
