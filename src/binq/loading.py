"""load and describe: tensors of a file or a model's folder by name, each read when asked for."""

import os
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from binq import _memory
from binq.array.array import QuantizedArray
from binq.array.packed import Packed
from binq.errors import FormatError, UnsupportedFormatError
from binq.files import metadata as binq_metadata
from binq.files.checkpoint import Checkpoint
from binq.files.safetensors import SafetensorsFile
from binq.files.seal import SEAL
from binq.files.stored import StoredPacked
from binq.formats.layout import TILE_ROWS
from binq.formats.scales import scale_name
from binq.models import find_family, logical_tensors
from binq.models.gguf_folder import folder_of
from binq.models.kept import kept_tensors, settings_of
from binq.models.mlx_rotation import config_of
from binq.models.tensor import LogicalTensor
from binq.storage.base import SCAN_BYTES, Exact, to_float32
from binq.storage.coded import CodedStorage
from binq.storage.plain import FLOATS

Array = QuantizedArray | NDArray[Any]


@dataclass(frozen=True, slots=True)
class TensorDescription:
    """What the headers say of one tensor.

    - format: ``"int4"``, ``"ternary"``, … of weights that binq packed; else the scheme in which
      they are stored (``"gptq"``, ``"fp8_block"``), GGUF's type (``"Q4_0"``), or the type of plain
      numbers (``"BF16"``)
    - shape: the logical shape
    - group_size: how many weights of a row share a scale; None: a row, or no groups
    - symmetric: None where no binq format says so
    - scale_dtype: ``"float16"``, ``"bfloat16"`` or ``"float32"``, None where no binq format says so
    - nbytes: of all stored parts
    """

    format: str
    shape: tuple[int, ...]
    nbytes: int
    group_size: int | None = None
    symmetric: bool | None = None
    scale_dtype: str | None = None

    @property
    def bits_per_weight(self) -> float:
        """Returns ``8 * nbytes / size``, or 0.0 for no weights."""
        return 8 * self.nbytes / prod(self.shape) if prod(self.shape) else 0.0


class Tensors(Mapping[str, Array]):
    """The tensors of a file or a model's folder by name; made by :func:`binq.load`.

    Headers are read at once, a tensor when it is asked for, each time anew unless it is mapped.
    Close it, or use it in a ``with`` block, to close the files; arrays stay valid.

    - path: what was opened
    - metadata: the strings of the files' ``__metadata__`` but binq's own, or GGUF's keys
    - config: the contents of ``config.json``, {} where there is none; of a GGUF file what a
      conversion makes of its metadata (docs/checkpoints.md)
    """

    def __init__(self, path: str | os.PathLike[str], family: str | None = None) -> None:
        self._family = family
        self._source = Checkpoint(path)
        # Whoever does not close it, as a dict need not be closed, leaves no file open.
        weakref.finalize(self, self._source.close)
        self._maps: dict[Path, dict[str, NDArray[Any]]] = {}
        try:
            self.path = self._source.path
            self._metadata: dict[str, Any] = {}
            self._entries = self._find()
        except BaseException:
            self.close()
            raise

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Returns what the files say of themselves: read-only."""
        return MappingProxyType(self._metadata)

    @property
    def config(self) -> Mapping[str, Any]:
        """Returns the model's configuration: read-only."""
        source = self._source
        made = folder_of(source, self._family).config if source.is_gguf else config_of(source)
        return MappingProxyType(made)

    def text(self, name: str) -> str | None:
        """Returns the text of a file beside the weights, None where there is none.

        - name: such as ``"tokenizer.json"`` or ``"chat_template.jinja"``. For a GGUF file, those
          that a conversion makes of its metadata

        Raises ValueError for a path.

        >>> import binq, pathlib, tempfile
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> _ = (folder / "chat_template.jinja").write_text("{{ messages }}")
        >>> binq.save_file({}, folder / "model.safetensors")
        >>> binq.load(folder).text("chat_template.jinja")
        '{{ messages }}'
        """
        if name in ("", ".", "..") or Path(name).name != name:
            raise ValueError(f"name must be that of a file in {self.path}, got {name!r}")
        if self._source.is_gguf:
            return folder_of(self._source, self._family).files.get(name)
        path = self.path / name
        return path.read_text(encoding="utf-8") if path.is_file() else None

    def describe(self) -> dict[str, TensorDescription]:
        """Returns what the headers say of each tensor."""
        return {name: entry.describe() for name, entry in self._entries.items()}

    def __getitem__(self, name: str) -> Array:
        try:
            entry = self._entries[name]
        except KeyError:
            raise KeyError(f"{self.path}: no tensor {name!r}") from None
        return entry.load()

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __repr__(self) -> str:
        return f"<{len(self)} tensors of {self.path}>"

    def close(self) -> None:
        """Closes the files."""
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self._family)

    def mapped(self, path: Path) -> dict[str, NDArray[Any]]:
        """Returns all stored arrays of a safetensors file, mapped in memory."""
        if path not in self._maps:
            with SafetensorsFile(path) as file:
                self._maps[path] = file.map_all()
        return self._maps[path]

    def _find(self) -> dict[str, "_Entry"]:
        source = self._source
        if source.is_gguf:
            self._metadata = dict(source.config)
            return self._find_logical(logical_tensors(source, self._family, look=False))
        stored: dict[str, _Entry] = {}
        packed: dict[str, _Entry] = {}
        for path in source.file_paths().values():
            with SafetensorsFile(path) as file:
                ours = (binq_metadata.KEY, SEAL)
                self._metadata |= {k: v for k, v in file.metadata.items() if k not in ours}
                described = binq_metadata.described(file.metadata, path)[0]
                parts = binq_metadata.stored_names(described)
                for name, d in described.items():
                    if name in file:
                        raise FormatError(f"{path}: tensor {name!r} is both packed and plain")
                    packed[name] = _PackedEntry(self, path, StoredPacked(file, name, d))
                for name, info in file.tensors.items():
                    if name not in parts and name in source:
                        stored[name] = _StoredEntry(
                            self, path, name, TensorDescription(info.dtype, info.shape, info.nbytes)
                        )
        settings = settings_of(source)
        if packed or settings:
            kept = kept_tensors(source, stored, find_family(source, self._family))
            found = packed | self._find_logical(kept, stored)
            tied = settings.get("tied")
            for name, twin in tied.items() if isinstance(tied, Mapping) else ():
                if twin in found:
                    found.setdefault(name, found[twin])
            return dict(sorted(found.items()))
        try:
            tensors = logical_tensors(source, self._family, look=False)
        except UnsupportedFormatError:
            if source.config:
                raise
            return dict(sorted(stored.items()))  # a file of arrays, of no model
        return self._find_logical(tensors, stored)

    def _find_logical(
        self, tensors: list[LogicalTensor], stored: Mapping[str, "_Entry"] | None = None
    ) -> dict[str, "_Entry"]:
        found: dict[str, _Entry] = {}
        for tensor in tensors:
            if stored is not None and tensor.scheme in ("plain", "transposed"):
                found[tensor.name] = stored[tensor.stored[0]]
            else:
                found[tensor.name] = _LogicalEntry(self._source, tensor)
        return dict(sorted(found.items()))


def load(path: str | os.PathLike[str], *, family: str | None = None) -> Tensors:
    """Returns the tensors of a file or a model's folder: a read-only mapping of names to arrays.

    Opens what ``binq quantize`` and :func:`binq.save_file` wrote, any safetensors file, and every
    source that :func:`binq.quantize_checkpoint` reads (docs/checkpoints.md), under its names. A
    tensor is read when it is asked for: packed weights and plain arrays are mapped in memory, as
    :func:`binq.load_file` does; weights of other formats (GPTQ, AWQ, MLX, GGUF, …) are
    QuantizedArrays where a format of binq holds them exactly, else float arrays, made anew each
    time.

    - path: a folder, a safetensors file or a GGUF file
    - family: the name of a family, for a model whose configuration does not tell it

    Raises FileNotFoundError where there is none, FormatError and UnsupportedFormatError for what
    is damaged or not known.

    >>> import numpy as np, binq, tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "m.safetensors"
    >>> binq.save_file({"a": binq.quantize(np.eye(64), "ternary")}, path, {"made": "here"})
    >>> tensors = binq.load(path)
    >>> tensors["a"].format, dict(tensors.metadata)
    ('ternary', {'made': 'here'})
    """
    return Tensors(path, family)


def describe(
    path: str | os.PathLike[str], *, family: str | None = None
) -> dict[str, TensorDescription]:
    """Returns what a file or a model's folder holds by name, from its headers alone.

    Opens what :func:`binq.load` does; nothing is mapped and no weight is read.

    - path: a folder, a safetensors file or a GGUF file
    - family: the name of a family, for a model whose configuration does not tell it

    Raises as :func:`binq.load` does.

    >>> import numpy as np, binq, tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "m.safetensors"
    >>> binq.save_file({"a": binq.quantize(np.eye(64), "int4")}, path)
    >>> record = binq.describe(path)["a"]
    >>> record.format, record.shape, record.group_size, record.scale_dtype
    ('int4', (64, 64), 64, 'float16')
    """
    with Tensors(path, family) as tensors:
        return tensors.describe()


class _Entry(ABC):
    """One tensor that can be described and loaded."""

    @abstractmethod
    def describe(self) -> TensorDescription: ...

    @abstractmethod
    def load(self) -> Array: ...


@dataclass(frozen=True)
class _StoredEntry(_Entry):
    """A plain tensor of a safetensors file, mapped as it is stored."""

    owner: Tensors
    path: Path
    name: str
    description: TensorDescription

    def describe(self) -> TensorDescription:
        return self.description

    def load(self) -> NDArray[Any]:
        return self.owner.mapped(self.path)[self.name]


@dataclass(frozen=True)
class _PackedEntry(_Entry):
    """A tensor that binq packed, mapped as it is stored."""

    owner: Tensors
    path: Path
    stored: StoredPacked

    def describe(self) -> TensorDescription:
        packing = self.stored.description.packing
        return TensorDescription(
            packing.format,
            self.stored.description.shape,
            self.stored.nbytes,
            packing.group_size,
            packing.symmetric,
            scale_name(self.stored.scale_dtype),
        )

    def load(self) -> QuantizedArray:
        name, d = self.stored.name, self.stored.description
        return binq_metadata.assemble(name, d, self.owner.mapped(self.path), self.path)


@dataclass(frozen=True)
class _LogicalEntry(_Entry):
    """A weight that another library stored in a way of its own."""

    source: Checkpoint
    tensor: LogicalTensor

    def describe(self) -> TensorDescription:
        tensor, storage = self.tensor, self.tensor.storage
        nbytes = sum(self.source.info(name).nbytes for name in tensor.stored)
        group = storage.group if isinstance(storage, CodedStorage) else None
        format = tensor.dtype if self.source.is_gguf else tensor.scheme
        return TensorDescription(format, tensor.shape, nbytes, group)

    def load(self) -> Array:
        tensor, source = self.tensor, self.source
        if len(tensor.shape) >= 2 and tensor.dtype not in FLOATS:
            exact = tensor.exact_format(source)
            if exact is not None:
                return _exact_array(source, tensor, exact)
        blocks = list(tensor.read_all(source, SCAN_BYTES))
        values = np.concatenate(blocks) if len(tensor.shape) >= 2 else blocks[0]
        if tensor.dtype not in FLOATS and values.dtype.kind not in "iu":
            values = to_float32(values)
        return values.reshape(tensor.shape)


def _exact_array(source: Checkpoint, tensor: LogicalTensor, exact: Exact) -> QuantizedArray:
    """Returns weights in the format that holds them without loss, filled block by block."""
    packing = exact.packing.fitted(tensor.shape[-1])
    exact = replace(exact, packing=packing)
    shape = tensor.shape
    parts = [_memory.zeros(part.shape, part.dtype) for part in exact.parts(shape)]
    for matrix, index in enumerate(np.ndindex(shape[:-2])):
        for start, stop in tensor.blocks(SCAN_BYTES):
            block = tensor.exact_rows(source, exact, matrix, start, stop)._data
            tiles = slice(start // TILE_ROWS, -(-stop // TILE_ROWS))
            for part, rows in zip(parts, block.parts, strict=True):
                part[index][tiles] = rows
    return QuantizedArray._of(Packed(packing, shape, *parts))
