"""Looks into files and folders: what they hold, and whether they hold what they say."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from hashlib import sha256
from math import log10, prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binq._memory import as_bytes
from binq.array import QuantizedArray
from binq.convert.tables import readable
from binq.errors import FormatError, UnsupportedFormatError
from binq.files import metadata as binq_metadata
from binq.files.checkpoint import INDEX, Checkpoint
from binq.files.dtypes import numpy_dtype
from binq.files.safetensors import SafetensorsFile
from binq.formats.layout import TILE_ROWS
from binq.models import logical_tensors
from binq.models.tensor import LogicalTensor

_HASH_BYTES = 1 << 26


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
    """Returns the safetensors files behind a path: itself, or those of a folder's index.

    Raises UnsupportedFormatError for GGUF files.
    """
    files = [path]
    if path.is_dir():
        with Checkpoint(path) as source:
            files = [path / name for name in source.files]
    for file in files:
        if file.suffix == ".gguf":
            raise UnsupportedFormatError(f"{file}: a GGUF file: only quantize reads those")
    return files


def inspect(path: Path) -> list[Entry]:
    """Returns what a safetensors file or a checkpoint folder holds, by name."""
    entries = []
    for file_path in tensor_files(path):
        with SafetensorsFile(file_path) as file:
            described = _described(file)[0]
            parts = binq_metadata.stored_names(described)
            for name, d in described.items():
                nbytes = sum(file.info(part).nbytes for part in d.part_names(name))
                entries.append(Entry(name, file_path.name, str(d.packing), d.shape, nbytes))
            for name, info in file.tensors.items():
                if name not in parts:
                    entries.append(Entry(name, file_path.name, info.dtype, info.shape, info.nbytes))
    return sorted(entries, key=lambda entry: entry.name)


def inspect_text(entries: list[Entry]) -> str:
    """Returns a table of the entries and their total."""
    width = max([len(e.name) for e in entries], default=0)
    lines = [
        f"{e.name:{width}}  {e.format:18} {'x'.join(map(str, e.shape)):>20} "
        f"{e.bits_per_weight:7.3f} {readable(e.nbytes):>10}  {e.file}"
        for e in entries
    ]
    lines.append(f"{len(entries)} tensors, {readable(sum(e.nbytes for e in entries))}")
    return "\n".join(lines)


def inspect_json(entries: list[Entry]) -> str:
    """Returns the entries as one JSON document."""
    return json.dumps([asdict(e) | {"bits_per_weight": e.bits_per_weight} for e in entries])


def verify(path: Path, against: Path | None = None) -> Iterator[str]:
    """Yields what is wrong with a file or folder that binq wrote, a line each.

    Reads every byte: headers, index, the sha256 of every stored tensor, padding, scales. With
    ``against``, the source it was made from, packed weights are compared with the source's and
    kept tensors must be the same bytes.
    """
    packed: dict[str, QuantizedArray] = {}
    plain: dict[str, NDArray[Any]] = {}
    files = tensor_files(path)
    places = _places(path)
    for file_path in files:
        try:
            with SafetensorsFile(file_path) as file:
                yield from _check_hashes(file)
                yield from _check_index(file, places)
                arrays = file.map_all()
                described, _ = _described(file)
                for name, d in described.items():
                    packed[name] = binq_metadata.assemble(name, d, arrays, file.path)
                    yield from _check_packed(f"{file_path}: tensor {name!r}", packed[name])
                parts = binq_metadata.stored_names(described)
                plain.update((n, array) for n, array in arrays.items() if n not in parts)
        except (FormatError, OSError) as error:
            yield str(error)
    if against is not None:
        yield from _compare(packed, plain, against, _family_of(path))


def _described(
    file: SafetensorsFile,
) -> tuple[dict[str, binq_metadata.Description], dict[str, str]]:
    text = file.metadata.get(binq_metadata.KEY)
    return ({}, {}) if text is None else binq_metadata.parse(text, file.path)


def _places(path: Path) -> dict[str, str] | None:
    """Returns the weight map of a folder's index, or None where there is no index."""
    if not (path / INDEX).exists():
        return None
    with Checkpoint(path) as source:
        return source.places


def _check_index(file: SafetensorsFile, places: dict[str, str] | None) -> Iterator[str]:
    """A loader believes the index: what it leaves out is lost, what it invents is not found."""
    if places is None:
        return
    for name in file:
        if places.get(name) != file.path.name:
            yield f"{file.path}: tensor {name!r}: {INDEX} does not place it there"
    for name, place in places.items():
        if place == file.path.name and name not in file:
            yield f"{file.path}: tensor {name!r}: missing, though {INDEX} places it there"


def _check_hashes(file: SafetensorsFile) -> Iterator[str]:
    hashes = _described(file)[1]
    for name in file:
        if hashes and name not in hashes:
            yield f"{file.path}: tensor {name!r}: no sha256, though others have one"
    for name, wanted in hashes.items():
        if name not in file:
            yield f"{file.path}: tensor {name!r}: missing, though it has a sha256"
            continue
        digest = sha256()
        size = file.info(name).nbytes
        for start in range(0, size, _HASH_BYTES):
            digest.update(file.read_bytes(name, start, min(start + _HASH_BYTES, size)).data)
        if digest.hexdigest() != wanted:
            yield f"{file.path}: tensor {name!r}: its bytes are not those that were written"


def _check_packed(where: str, q: QuantizedArray) -> Iterator[str]:
    scales = q.scales.astype(np.float32)
    if not np.isfinite(scales).all():
        yield f"{where}: a scale is inf or NaN"
    packing = q._data.packing
    used = q.shape[-2] % TILE_ROWS
    if used and scales[..., -1, :, used:].any():
        yield f"{where}: a scale in the padding is not 0"
    # Packing the codes again gives the same bytes, unless padding or a code is not canonical.
    for index in np.ndindex(q.shape[:-2]):
        matrix = q[index] if index else q
        for start in range(0, len(matrix), 1 << 12):
            rows = matrix[start : start + (1 << 12)]
            again = packing.kind.pack(rows.codes(), packing.geometry(rows.shape), packing.zero)
            if not np.array_equal(again, rows.packed):
                yield f"{where}: rows from {start}: codes or padding are not as binq writes them"


def _family_of(path: Path) -> str | None:
    """Returns the family of models by whose rules a folder was made, None where none is named."""
    if not path.is_dir():
        return None
    with Checkpoint(path) as made:
        settings = made.config.get("quantization_config")
    family = settings.get("family") if isinstance(settings, dict) else None
    return family if isinstance(family, str) else None


def _compare(
    packed: dict[str, QuantizedArray],
    plain: dict[str, NDArray[Any]],
    against: Path,
    family: str | None,
) -> Iterator[str]:
    with Checkpoint(against) as source:
        for tensor in logical_tensors(source, family):
            if tensor.name in packed:
                yield from _compare_packed(source, tensor, packed.pop(tensor.name))
                continue
            for name in tensor.stored if tensor.copyable else (tensor.name,):
                here = plain.pop(name, None)
                if here is None:
                    yield f"{name}: in {against}, missing here"
                else:
                    yield from _compare_kept(source, tensor, name, here)
    for name in (*packed, *plain):
        yield f"{name}: not in {against}"


def _compare_kept(
    source: Checkpoint, tensor: LogicalTensor, name: str, here: NDArray[Any]
) -> Iterator[str]:
    """Kept tensors have the type, the shape and the bytes that they had."""
    if tensor.copyable:
        info = source.info(name)
        dtype, shape = numpy_dtype(info.dtype), info.shape
    else:
        # A type that GGUF alone has, as its exact values.
        there = tensor.read(source)
        dtype, shape = there.dtype, there.shape
    if (here.dtype, here.shape) != (dtype, shape):
        yield f"{name}: {here.dtype} {here.shape}, in {source.path} {dtype} {shape}"
        return
    data = as_bytes(here)
    for start in range(0, data.size, _HASH_BYTES):
        stop = min(start + _HASH_BYTES, data.size)
        if tensor.copyable:
            wanted = source.read_bytes(name, start, stop)
        else:
            wanted = as_bytes(there)[start:stop]
        if not np.array_equal(data[start:stop], wanted):
            yield f"{name}: differs from {source.path}"
            return


def _compare_packed(source: Checkpoint, tensor: LogicalTensor, q: QuantizedArray) -> Iterator[str]:
    """Weights must be nearer to the source than zeros are: anything else is not this tensor."""
    if q.shape != tensor.shape:
        yield f"{tensor.name}: shape {q.shape}, in the source {tensor.shape}"
        return
    signal = noise = 0.0
    stack = q.shape[:-2]
    for matrix, index in enumerate(np.ndindex(stack)):
        one = q[index] if stack else q
        for start, stop in tensor.blocks(1 << 26):
            w = tensor.read_rows(source, matrix, start, stop).astype(np.float64)
            signal += float((w * w).sum())
            w -= one[start:stop].dequantize()
            noise += float((w * w).sum())
    if noise >= signal and signal > 0:
        yield f"{tensor.name}: SQNR {10 * log10(signal / noise):.1f} dB: not the source's weights"
