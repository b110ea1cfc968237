"""Opens a checkpoint: a folder of safetensors files as the model hubs have them, or a GGUF file."""

import os
import threading
import weakref
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from binq.array.checks import check_path
from binq.errors import FormatError
from binq.files.dtypes import array_form, numpy_dtype
from binq.files.gguf import MAGIC, GgufFile
from binq.files.gguf_model import one_of_each, open_parts
from binq.files.header import is_unicode
from binq.files.reading import ReadableFile
from binq.files.safetensors import SafetensorsFile
from binq.files.settings import with_settings
from binq.files.signs import what_folder_holds
from binq.files.strict_json import parse_json
from binq.files.tensor_file import TensorFile

# The index that binq writes. No other library takes the folder for a model of plain weights, finds
# none of its weights in it, and goes on with random ones.
INDEX = "binq.safetensors.index.json"
PLAIN_INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_MAX_JSON = 1 << 28
_T = TypeVar("_T")
# Rows of a matrix that are read and transposed at a time.
_STRIP = 128
# A matrix of up to so many bytes is in memory as a whole while blocks of its columns are read: the
# fused experts of Llama 4 have 168 MB each.
SHARED_BYTES = 1 << 28
_MOST_SHARED = 2
_PIECE_BYTES = 1 << 22  # of such a matrix, for one thread


@dataclass(frozen=True)
class StoredInfo:
    """One stored tensor: its type, shape and size, and the file that holds it."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    file: str


class _Shared:
    """A matrix that is read once, by all who want some of it; and how many columns none has yet."""

    def __init__(self, left: int) -> None:
        self.left = left
        self.data: NDArray[np.uint8] | None = None
        self.pieces: list[int] = []  # where those begin that nobody has taken
        self.done = 0  # bytes
        self.changed = threading.Condition()


class Checkpoint:
    """An open checkpoint: its configuration and its stored tensors by name.

    - path: a folder with ``model.safetensors.index.json``, or binq's own
      ``binq.safetensors.index.json`` (whose weight map alone says what belongs to the model:
      nothing is globbed), or ``model.safetensors``, or one GGUF file (of a split one, all parts);
      or the path of such a file
    - config: the parsed ``config.json``, with the settings of quantization that stand elsewhere
      (:mod:`binq.files.settings`), or for GGUF the metadata of the file

    - is_gguf: whether it is a GGUF file, or the parts of one

    Files are opened when first needed. Safe to read from several threads; pickles as its path.

    Raises FileNotFoundError where there is no checkpoint and FormatError for a malformed one.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = check_path("src", path)
        self.config: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._files: dict[str, TensorFile] = {}
        self.is_gguf = False
        self._first = ""  # of GGUF files the one with the metadata
        self._known: dict[Hashable, Any] = {}
        # Matrices of which not all columns were asked for yet.
        self._sharing = threading.Lock()
        self._shared: dict[tuple[str, int], _Shared] = {}
        self._spare: list[NDArray[np.uint8]] = []  # memory of those that nobody reads any more
        self._map: dict[str, str] = {}
        self._infos: dict[str, StoredInfo] = {}
        self._folder = self.path if self.path.is_dir() else self.path.parent
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        if not self.path.is_dir() and _is_gguf(self.path):
            self._open_gguf(self.path)
            return
        if not self.path.is_dir():
            if self.path.suffix == ".json" and self.path.exists():
                raise FormatError(f"{self.path}: no weights but JSON: name the folder instead")
            self._map = dict.fromkeys(self._file(self.path.name), self.path.name)
        elif index := index_of(self.path):
            self._map = _weight_map(index)
        elif (self.path / SINGLE).exists():
            self._map = dict.fromkeys(self._file(SINGLE), SINGLE)
        else:
            found = one_of_each(sorted(self.path.glob("*.gguf")))
            if len(found) > 1:
                raise FormatError(f"{self.path}: {len(found)} GGUF files: name one of them")
            if not found:
                raise FileNotFoundError(
                    f"{self.path}: no {PLAIN_INDEX}, {INDEX}, {SINGLE} or GGUF file: "
                    f"not a checkpoint; {what_folder_holds(self.path)}"
                )
            self._open_gguf(found[0])
            return
        self.config = with_settings(self._json("config.json") or {}, self._json, self.path)

    def _json(self, name: str) -> dict[str, Any] | None:
        """Returns the object of a JSON file beside the weights, None where there is none."""
        path = self._folder / name
        return load_object(path) if path.exists() else None

    def _open_gguf(self, path: Path) -> None:
        self.is_gguf = True
        files = open_parts(path)
        self._files = {file.path.name: file for file in files}
        self._map = {name: file.path.name for file in files for name in file}
        self._first = files[0].path.name
        self.config = dict(files[0].metadata)

    def array(self, key: str) -> list[str] | NDArray[Any] | None:
        """Returns an array of a GGUF file's metadata, however long (:meth:`GgufFile.array`).

        None where there is none, and for safetensors.
        """
        first = self._files.get(self._first)
        return first.array(key) if isinstance(first, GgufFile) else None

    @property
    def metadata(self) -> dict[str, str]:
        """Returns the ``__metadata__`` of the first safetensors file, {} for GGUF."""
        if self.is_gguf or not self.files:
            return {}
        return dict(self._file(self.files[0]).metadata)

    @property
    def names(self) -> tuple[str, ...]:
        """Returns the names of the stored tensors."""
        return tuple(self._map)

    @property
    def files(self) -> tuple[str, ...]:
        """Returns the names of the files with tensors, in order of first use."""
        return tuple(dict.fromkeys(self._map.values()))

    def file_paths(self) -> dict[str, Path]:
        """Returns the path of each file with tensors by its name.

        Raises FormatError for a file that is missing.
        """
        self.file_status()
        return {name: self._folder / name for name in self.files}

    def file_status(self) -> dict[str, os.stat_result]:
        """Returns size, time and more of each file with tensors by its name.

        Raises FormatError for a file that is missing.
        """
        found = {}
        for name in self.files:
            path = self._folder / name
            try:
                found[name] = path.stat()
            except FileNotFoundError:
                raise FormatError(f"{path}: there is no such file") from None
        return found

    @property
    def mode(self) -> int:
        """Returns the permissions of what is made of these files: none that one of them lacks."""
        mode = 0o666
        for status in self.file_status().values():
            mode &= status.st_mode
        return mode | 0o600

    @property
    def places(self) -> dict[str, str]:
        """Returns the file of each stored tensor by name."""
        return dict(self._map)

    def __contains__(self, name: object) -> bool:
        return name in self._map

    def __iter__(self) -> Iterator[str]:
        return iter(self._map)

    def info(self, name: str) -> StoredInfo:
        """Returns what a stored tensor is. Raises KeyError for a name that there is not."""
        # A plan asks several times for each of what may be 100,000 tensors.
        known = self._infos.get(name)
        if known is None:
            info = self._holder(name).info(name)
            known = StoredInfo(info.dtype, info.shape, info.nbytes, self._map[name])
            self._infos[name] = known
        return known

    def read(self, name: str) -> NDArray[Any]:
        """Returns a whole stored tensor as a new array of its own type."""
        info = self.info(name)
        data = self.read_bytes(name, 0, info.nbytes)
        dtype, shape = array_form(info.dtype, info.shape)
        return data.view(dtype).reshape(shape)

    def read_span(
        self, name: str, start: int, stop: int, row_shape: tuple[int, ...]
    ) -> NDArray[Any]:
        """Returns rows ``[start, stop)`` of the tensor seen as a list of rows of ``row_shape``."""
        dtype = numpy_dtype(self.info(name).dtype)
        row = dtype.itemsize * prod(row_shape)
        data = self.read_bytes(name, start * row, stop * row)
        return data.view(dtype).reshape(stop - start, *row_shape)

    def read_transposed(self, name: str, matrix: int, start: int, stop: int) -> NDArray[Any]:
        """Returns columns ``[start, stop)`` of one matrix of a stack as rows: a transposed copy.

        Reads whole rows in order where these are at least a quarter of the columns, else the
        bytes of these columns alone, piece by piece: a call for each costs what four times the
        bytes do.
        """
        info = self.info(name)
        rows = info.shape[-2]
        # Integers of the same size: numpy copies those several times as fast as bfloat16.
        dtype = np.dtype(f"u{numpy_dtype(info.dtype).itemsize}")
        out = np.empty((stop - start, rows), dtype)
        for top in range(0, rows, _STRIP):
            bottom = min(top + _STRIP, rows)
            # Rows a power of two apart would share a few lines of the cache: they lie apart by
            # one line more.
            strip = np.empty((bottom - top, stop - start + 64 // dtype.itemsize), dtype)
            strip = strip[:, : stop - start]
            self._read_strip(name, matrix * rows + top, start, strip)
            out[:, top:bottom] = strip.T
        return out.view(numpy_dtype(info.dtype))

    def read_columns(self, name: str, matrix: int, start: int, stop: int) -> NDArray[Any]:
        """Returns columns ``[start, stop)`` of one matrix of a stack, row by row as they lie.

        A matrix of up to 256 MiB is read once for all of its columns and shared by them; others
        are read as :meth:`read_transposed` does it.
        """
        info = self.info(name)
        rows, columns = info.shape[-2:]
        dtype = numpy_dtype(info.dtype)
        if rows * columns * dtype.itemsize <= SHARED_BYTES:
            return self._whole(name, matrix, stop - start)[:, start:stop]
        dtype = np.dtype(f"u{numpy_dtype(info.dtype).itemsize}")
        out = np.empty((rows, stop - start), dtype)
        for top in range(0, rows, _STRIP):
            self._read_strip(name, matrix * rows + top, start, out[top : top + _STRIP])
        return out.view(numpy_dtype(info.dtype))

    def _whole(self, name: str, matrix: int, wanted: int) -> NDArray[Any]:
        """Returns a matrix of which somebody wants some columns, and soon somebody the others."""
        columns = self.info(name).shape[-1]
        with self._sharing:
            shared = self._shared.setdefault((name, matrix), _Shared(columns))
            shared.left -= wanted
            if shared.left <= 0:
                del self._shared[name, matrix]
            elif len(self._shared) > _MOST_SHARED:
                del self._shared[next(iter(self._shared))]
        info = self.info(name)
        size = info.nbytes // prod(info.shape[:-2])
        self._read_together(shared, name, matrix * size, size)
        data = shared.data
        assert data is not None
        return data.view(numpy_dtype(info.dtype)).reshape(info.shape[-2:])

    def _read_together(self, shared: _Shared, name: str, start: int, size: int) -> None:
        """Reads pieces of a matrix until all are read: whoever waits for it reads as well.

        A piece that one thread cannot read is left to the others.
        """
        with shared.changed:
            if shared.data is None:
                shared.data = self._matrix_memory(size)
                shared.pieces = list(range(0, size, _PIECE_BYTES))[::-1]
            data = shared.data
        while True:
            with shared.changed:
                shared.changed.wait_for(lambda: shared.pieces or shared.done == size)
                if not shared.pieces:
                    return
                at = shared.pieces.pop()
            piece = data[at : at + _PIECE_BYTES]
            try:
                self._holder(name).read_into(name, start + at, piece)
            except BaseException:
                with shared.changed:
                    shared.pieces.append(at)
                    shared.changed.notify_all()
                raise
            with shared.changed:
                shared.done += piece.nbytes
                shared.changed.notify_all()

    def _matrix_memory(self, size: int) -> NDArray[np.uint8]:
        """Returns memory that a matrix of its size has left, where there is some.

        The system clears new memory before it gives it, which takes as long as to read.
        """
        with self._sharing:
            at = next((i for i, memory in enumerate(self._spare) if len(memory) == size), None)
            memory = np.empty(size, np.uint8) if at is None else self._spare.pop(at)
        # All views have this array as their base, since its own is not an array: while one of them
        # lives, it does, and the memory holds no other matrix.
        data = np.frombuffer(memory.data, np.uint8)
        spare = self._spare

        def keep() -> None:
            if len(spare) < _MOST_SHARED:
                spare.append(memory)

        weakref.finalize(data, keep).atexit = False
        return data

    def _read_strip(self, name: str, first: int, start: int, strip: NDArray[Any]) -> None:
        """Fills a strip with columns from ``start`` on of rows from ``first`` on."""
        columns = self.info(name).shape[-1]
        count, wanted = strip.shape
        if columns <= 4 * wanted:
            rows = self.read_span(name, first, first + count, (columns,)).view(strip.dtype)
            strip[:] = rows[:, start : start + wanted]
            return
        size = strip.dtype.itemsize
        read = self._holder(name).read_bytes
        for row in range(count):
            at = ((first + row) * columns + start) * size
            strip[row] = read(name, at, at + wanted * size).view(strip.dtype)

    def read_bytes(self, name: str, start: int, stop: int) -> NDArray[np.uint8]:
        """Returns bytes ``[start, stop)`` of a stored tensor as a new array."""
        return self._holder(name).read_bytes(name, start, stop)

    def file(self, name: str) -> TensorFile:
        """Returns one of the files with tensors by its name, open until :meth:`close`."""
        return self._file(name)

    def once(self, what: Hashable, look: Callable[[], _T]) -> _T:
        """Returns what ``look()`` does, which is asked only once: it may read whole tensors."""
        if what not in self._known:
            self._known[what] = look()
        known: _T = self._known[what]
        return known

    def close(self) -> None:
        """Closes the files."""
        with self._lock:
            for file in self._files.values():
                file.close()
            self._files.clear()
        self._shared.clear()
        self._spare.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return Checkpoint, (self.path,)

    def _holder(self, name: str) -> TensorFile:
        file = self._file(self._map[name])
        if name not in file:
            raise FormatError(f"{file.path}: no tensor {name!r}, which its index places there")
        return file

    def _file(self, name: str) -> TensorFile:
        with self._lock:
            if name not in self._files:
                path = self._folder / name
                try:
                    self._files[name] = SafetensorsFile(path)
                except (FileNotFoundError, IsADirectoryError):
                    kind = FileNotFoundError if path == self.path else FormatError
                    raise kind(f"{path}: there is no such file") from None
            return self._files[name]


def _is_gguf(path: Path) -> bool:
    """Returns whether a file begins as GGUF files do: their names need not end so."""
    if path.suffix == ".gguf" or not path.is_file():
        return path.suffix == ".gguf"
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def open_file(path: Path) -> TensorFile:
    """Returns a file that holds tensors, opened as what it is."""
    return GgufFile(path) if _is_gguf(path) else SafetensorsFile(path)


def index_of(folder: Path) -> Path | None:
    """Returns the index of a folder, None where it has none. Raises FormatError for two."""
    found = [folder / name for name in (INDEX, PLAIN_INDEX) if (folder / name).exists()]
    if len(found) > 1:
        raise FormatError(f"{folder}: two checkpoints, {INDEX} and {PLAIN_INDEX}: remove one")
    return found[0] if found else None


def _weight_map(path: Path) -> dict[str, str]:
    """Returns tensor name -> file name, checked: files lie in the folder itself."""
    entries = load_object(path).get("weight_map")
    if not isinstance(entries, dict) or not entries:
        raise FormatError(f"{path}: weight_map is missing, empty or not an object")
    shards: set[str] = set()
    for name, file in entries.items():
        if isinstance(file, str) and file in shards:
            continue
        if not _is_shard_name(file):
            raise FormatError(
                f"{path}: tensor {name!r} is placed in {str(file)[:300]!r}, not in a .safetensors "
                "file of this folder"
            )
        shards.add(file)
    return entries


def _is_shard_name(name: object) -> bool:
    """Returns whether a weight map may name such a file: one of the same folder, on any system."""
    if not isinstance(name, str) or not name.endswith(".safetensors") or not is_unicode(name):
        return False
    printable = all(character.isprintable() for character in name)
    return printable and len(name.encode()) <= 255 and not set(name) & {"/", "\\", ":"}


def load_object(path: Path) -> dict[str, Any]:
    """Returns a JSON object from a file. Raises FormatError naming the file and the reason."""
    file = ReadableFile(path)
    try:
        if file.size > _MAX_JSON:
            raise FormatError(f"{path}: {file.size} bytes of JSON, more than {_MAX_JSON}")
        text = file.read(0, file.size, "JSON")
    finally:
        file.close()
    try:
        value = parse_json(text)
    except ValueError as error:
        raise FormatError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise FormatError(f"{path}: not a JSON object")
    return value
