"""Checks that files and folders hold what binq wrote, and what it was written from."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binq._memory import as_bytes
from binq.array import QuantizedArray
from binq.array.packed import Packed
from binq.convert.against import compare
from binq.convert.inspect import inspect, tensor_files
from binq.convert.plan import lanes
from binq.errors import FormatError, UnsupportedFormatError
from binq.files import metadata as binq_metadata
from binq.files.checkpoint import Checkpoint, index_of, open_file
from binq.files.metadata import Description
from binq.files.seal import SEAL, header_sha256
from binq.files.stored import StoredPacked
from binq.files.tensor_file import TensorFile
from binq.formats import Format
from binq.formats.layout import tile_rows, untile_rows
from binq.formats.scales import scale_values
from binq.formats.zeros import CODE, OFFSET, pack_zeros, unpack_zeros

__all__ = ["inspect", "verify"]

_HASH_BYTES = 1 << 23  # in each thread
_ROWS = 1 << 10  # packed codes are looked at in blocks of this many rows, in each thread


def verify(path: Path, against: Path | None = None) -> Iterator[str]:
    """Yields what is wrong with a file or folder that binq wrote, a line each.

    Reads every byte: the sha256 of every header and stored tensor, index, padding, scales. Files
    without these hashes were not written by binq, which is a problem of its own: nothing can be
    said of them. With ``against``, the source it was made from, packed weights are compared with
    what quantizing gives, and kept tensors must be the same bytes.
    """
    files = tensor_files(path)
    if not files:
        yield f"{path}: not a binq folder: its index places no tensor"
    places = _places(path)
    for file_path in files:
        try:
            with open_file(file_path) as file:
                yield from _check_file(file, places)
        except (FormatError, UnsupportedFormatError, OSError) as error:
            yield str(error)
    if against is not None:
        yield from compare(path, files, against)


def _check_file(file: TensorFile, places: dict[str, str] | None) -> Iterator[str]:
    yield from _check_index(file, places)
    described, hashes = binq_metadata.described(file.metadata, file.path)
    if not isinstance(file.metadata.get(binq_metadata.KEY), str):
        yield f"{file.path}: not a binq file: it has no sha256 that its tensors could be held to"
        return
    yield from _check_header(file)
    for name in file:
        if name not in hashes:
            yield f"{file.path}: tensor {name!r}: no sha256"
    checks = [partial(_check_hash, file, name, wanted) for name, wanted in hashes.items()]
    checks += [partial(_check_weights, file, name, d) for name, d in described.items()]
    # Hashes and kernels let other threads run; what is found is told in the order of the file.
    threads = ThreadPoolExecutor(lanes())
    try:
        for problems in threads.map(lambda check: list(check()), checks):
            yield from problems
    finally:
        threads.shutdown(cancel_futures=True)


def _places(path: Path) -> dict[str, str] | None:
    """Returns the weight map of a folder's index, or None where there is no index."""
    if not path.is_dir() or index_of(path) is None:
        return None
    with Checkpoint(path) as source:
        return source.places


def _check_index(file: TensorFile, places: dict[str, str] | None) -> Iterator[str]:
    """A loader believes the index: what it leaves out is lost, what it invents is not found."""
    if places is None:
        return
    for name in file:
        if places.get(name) != file.path.name:
            yield f"{file.path}: tensor {name!r}: the index does not place it there"
    for name, place in places.items():
        if place == file.path.name and name not in file:
            yield f"{file.path}: tensor {name!r}: missing, though the index places it there"


def _check_header(file: TensorFile) -> Iterator[str]:
    wanted = file.metadata.get(SEAL)
    if wanted is None:
        yield (
            f"{file.path}: its header has no sha256, so its names, shapes and types are not "
            "certain: an early binq wrote none; binq.load_file and binq.save_file add it"
        )
    elif header_sha256(file.tensors, file.metadata) != wanted:
        yield f"{file.path}: its header is not the one that was written"


def _check_hash(file: TensorFile, name: str, wanted: str) -> Iterator[str]:
    if name not in file:
        yield f"{file.path}: tensor {name!r}: missing, though it has a sha256"
        return
    digest = sha256()
    size = file.info(name).nbytes
    for start in range(0, size, _HASH_BYTES):
        digest.update(file.read_bytes(name, start, min(start + _HASH_BYTES, size)).data)
    if digest.hexdigest() != wanted:
        yield f"{file.path}: tensor {name!r}: its bytes are not those that were written"


def _check_weights(file: TensorFile, name: str, description: Description) -> Iterator[str]:
    try:
        stored = StoredPacked(file, name, description)
    except (FormatError, UnsupportedFormatError) as error:
        yield str(error)
        return
    where = f"{file.path}: tensor {name!r}"
    yield from dict.fromkeys(f"{where}: {problem}" for problem in _check_packed(stored))


def _check_packed(stored: StoredPacked) -> Iterator[str]:
    """Yields what binq never writes: weights that are not finite, padding, unknown codes."""
    *lead, rows, columns = stored.description.shape
    if 0 in (*lead, rows, columns):
        return
    for matrix in range(prod(lead)):
        for start in range(0, rows, _ROWS):
            block = stored.read_rows(matrix, start, min(start + _ROWS, rows))
            yield from _check_numbers(block)
            codes = QuantizedArray._of(block).codes()
            packing = block.packing
            # Packing the codes again gives the same bytes, unless padding or a code is not
            # canonical.
            again = packing.kind.pack(codes, block.geometry, packing.zero)
            packed = block.packed
            if packing.kind.signed_zero:
                packed = _without_signed_zeros(packed, packing.kind)
            if not np.array_equal(again, packed):
                yield f"rows from {start}: codes or padding are not as binq writes them"


def _without_signed_zeros(stored: NDArray[np.uint8], kind: Format) -> NDArray[np.uint8]:
    """Returns stored nibbles with the first code of each level, where a second one is allowed."""
    levels = kind.spec.levels
    first = np.array([levels.index(level) for level in levels], np.uint8)
    nibbles: NDArray[np.uint8] = first[stored & 15] | first[stored >> 4] << np.uint8(4)
    return nibbles


def _check_numbers(block: Packed) -> Iterator[str]:
    scales, zeros, geometry = block.scales, block.zeros, block.geometry
    zero, bits = block.packing.zero, block.packing.bits
    if not np.isfinite(scale_values(scales)).all():
        yield "a scale is inf or NaN"
    if not _same_bytes(tile_rows(untile_rows(scales, geometry), geometry), scales):
        yield "a scale in the padding is not 0"
    if zeros is not None:
        what = "an offset" if zero == OFFSET else "a zero point"
        if zero == OFFSET and not np.isfinite(zeros).all():
            yield f"{what} is inf or NaN"
        plain = unpack_zeros(zero, zeros, geometry)
        if zero == CODE and plain.max() >= 1 << bits:
            yield f"{what} is no code of {bits} bits"
        if not _same_bytes(pack_zeros(zero, plain, geometry, bits), zeros):
            yield f"{what} in the padding is not 0"


def _same_bytes(a: NDArray[Any], b: NDArray[Any]) -> bool:
    return np.array_equal(as_bytes(a), as_bytes(b))
