"""Shows what files and folders hold, by their headers and reports alone."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from math import prod
from pathlib import Path
from typing import Any

from binq.convert.quality import Quality
from binq.convert.report import REPORT
from binq.convert.tables import align, readable, shown
from binq.convert.tensor_report import TensorReport
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
    sqnr_db: float | None = None

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
    """Returns what a file or a checkpoint folder holds, by name; of a folder with its report."""
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
    measured = {t.name: t.sqnr_db for t in saved_report(path)}
    for entry in entries:
        entry.sqnr_db = measured.get(entry.name)
    return sorted(entries, key=lambda entry: entry.name)


def saved_report(path: Path) -> list[TensorReport]:
    """Returns what the report in a folder says of its tensors: nothing where there is none.

    Raises FormatError for a report that is damaged.
    """
    file = path / REPORT
    if not path.is_dir() or not file.is_file():
        return []
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))["tensors"]
        return [_tensor_report(entry) for entry in entries]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FormatError(f"{file}: no report of binq: {error}") from None


def _tensor_report(entry: dict[str, Any]) -> TensorReport:
    known = {f.name for f in fields(TensorReport)}
    found = {key: value for key, value in entry.items() if key in known}
    if entry["exact"]:
        found["sqnr_db"] = math.inf
    decibels = found["sqnr_db"]
    if not isinstance(decibels, float | int | None) or not isinstance(found["name"], str):
        raise TypeError(f"{found['name']!r} has {decibels!r} dB")
    return TensorReport(**found | {"shape": tuple(found["shape"])})


def inspect_text(entries: list[Entry], measured: Sequence[TensorReport] = ()) -> str:
    """Returns a table of the entries, their total, and what the report of the folder says."""
    rows: list[Sequence[str]] = [("tensor", "shape", "format", "bits", "size", "SQNR dB")]
    for e in entries:
        shape = "x".join(map(str, e.shape)) or "scalar"
        decibels = "" if e.sqnr_db is None else f"{e.sqnr_db:.2f}"
        bits = f"{e.bits_per_weight:.3f}"
        rows.append((shown(e.name), shape, e.format, bits, readable(e.nbytes), decibels))
    files = len({e.file for e in entries})
    total = (
        f"{len(entries)} tensors, {readable(sum(e.nbytes for e in entries))}, in {files} "
        f"{'file' if files == 1 else 'files'}"
    )
    return "\n".join([align(rows, {3, 4, 5}), *Quality(measured).lines(), total])


def inspect_json(entries: list[Entry]) -> str:
    """Returns the entries as one JSON document."""
    return json.dumps([_entry(e) for e in entries])


def _entry(e: Entry) -> dict[str, Any]:
    exact = e.sqnr_db == math.inf
    more = {"bits_per_weight": e.bits_per_weight, "exact": exact}
    return asdict(e) | more | {"sqnr_db": None if exact else e.sqnr_db}
