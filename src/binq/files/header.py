"""The header of a safetensors file, parsed strictly: nothing is believed before it is checked.

A file is an 8-byte little-endian length N, N bytes of JSON, and the data. This reader refuses all
that the format forbids and a little more: duplicate names, space before the first brace, sizes
that overflow, data that overlaps, has holes or goes past the file, and more than a million tensors.
"""

import struct
from dataclasses import dataclass
from math import prod
from typing import Any, NoReturn

from binq.errors import FormatError
from binq.files.dtypes import BITS
from binq.files.strict_json import parse_members, parse_string, parse_value

MAX_HEADER = 100_000_000
MAX_TENSORS = 1_000_000
MAX_AXES = 8
MAX_SIZE = 2**48
MAX_BITS = 2**63
MAX_NAME = 1 << 16
LENGTH_BYTES = 8
METADATA = "__metadata__"


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a file: its type, shape and bytes ``[start, stop)`` counted from the data."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        return self.stop - self.start


def checked_nbytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Returns the bytes of a tensor. Raises ValueError that says what is wrong with the shape."""
    if dtype not in BITS:
        raise ValueError(f"dtype {dtype!r} is unknown")
    if len(shape) > MAX_AXES:
        raise ValueError(f"shape has {len(shape)} axes, more than {MAX_AXES}")
    for size in shape:
        if not 0 <= size < MAX_SIZE:
            raise ValueError(f"shape has a size of {size}, outside 0 to 2**48 - 1")
    # Where one axis is 0 the others count as well: numpy multiplies them.
    if 0 in shape and BITS[dtype] * prod(size or 1 for size in shape) >= MAX_BITS:
        raise ValueError(f"shape {list(shape)} has more elements than any array")
    bits = BITS[dtype] * prod(shape)
    if bits % 8:
        raise ValueError(f"{prod(shape)} elements of {dtype} are not a whole number of bytes")
    return bits // 8


def header_length(prefix: bytes, file_size: int, path: object) -> int:
    """Returns the length of the JSON from the first 8 bytes of a file of ``file_size`` bytes."""
    if len(prefix) < LENGTH_BYTES:
        raise FormatError(
            f"{path}: not a safetensors file: it has {file_size} bytes, too few for a header length"
        )
    (length,) = struct.unpack("<Q", prefix)
    if length > MAX_HEADER:
        raise FormatError(f"{path}: header length {length} is more than {MAX_HEADER}")
    if length > file_size - LENGTH_BYTES:
        raise FormatError(
            f"{path}: header length {length} goes past the end of the file ({file_size} bytes)"
        )
    return int(length)


def parse_header(
    text: bytes, data_size: int, path: object
) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """Returns the tensors and the metadata of a header, in the order of the data.

    ``data_size`` is the number of bytes behind the header. Raises FormatError that names the
    file, the tensor and the reason.
    """
    tensors, metadata = _load_json(text, path)
    tensors = dict(sorted(tensors.items(), key=lambda item: (item[1].start, item[1].stop)))
    end = 0
    for name, info in tensors.items():
        if info.start != end:
            what = "overlaps another tensor" if info.start < end else "leaves a hole before it"
            raise FormatError(f"{path}: tensor {name!r}: data at {info.start} {what}")
        end = info.stop
    if end != data_size:
        raise FormatError(f"{path}: tensors take {end} bytes of data, the file has {data_size}")
    return tensors, metadata


def _load_json(text: bytes, path: object) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """Returns tensors and metadata, each checked as it is read, so that no JSON is kept."""
    if not text.startswith(b"{"):
        raise FormatError(f"{path}: header must begin with '{{', got {text[:1]!r}")
    metadata: dict[str, str] = {}

    def read_string(name: str, content: str, at: int) -> tuple[str, int]:
        if content[at : at + 1] != '"':
            raise FormatError(f"{path}: __metadata__[{name[:200]!r}] must be a string")
        return parse_string(content, at)

    def read_entry(name: str, content: str, at: int) -> tuple[TensorInfo | None, int]:
        if name != METADATA:
            entry, at = parse_value(content, at)
            return _check_entry(name, entry, path), at
        if content[at : at + 1] == "{":
            strings, at = parse_members(content, at, MAX_TENSORS, read_string)
        else:
            strings, at = parse_value(content, at)
        metadata.update(_check_metadata(strings, path))
        return None, at

    try:
        content = text.decode("utf-8")
        entries, end = parse_members(content, 0, MAX_TENSORS + 1, read_entry)
        if end != len(content):
            raise ValueError(f"there is more behind the object, at character {end}")
    except FormatError:
        raise
    except ValueError as error:
        raise FormatError(f"{path}: header is not JSON as it must be: {error}") from None
    entries.pop(METADATA, None)
    if len(entries) > MAX_TENSORS:
        raise FormatError(f"{path}: header lists {len(entries)} tensors, more than {MAX_TENSORS}")
    return entries, metadata


def _check_metadata(metadata: Any, path: object) -> dict[str, str]:
    if metadata is None:  # what MLX writes where it has none
        return {}
    if not isinstance(metadata, dict):
        raise FormatError(f"{path}: __metadata__ must be an object")
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise FormatError(f"{path}: __metadata__[{key!r}] must be a string")
        _check_text(value, f"{path}: __metadata__[{key!r}]")
        _check_text(key, f"{path}: a key of __metadata__")
    return metadata


def check_name(name: str) -> None:
    """Raises ValueError for what no reader takes for a tensor's name, ours included."""
    if name == METADATA or "\0" in name or not is_unicode(name) or len(name) > MAX_NAME:
        raise ValueError(
            f"tensor names must be valid Unicode of at most {MAX_NAME} characters, without NUL and "
            f"not {METADATA!r}, got {name[:200]!r}"
        )


def is_unicode(text: str) -> bool:
    """Returns whether text has no lone surrogates, which JSON can spell and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_text(text: str, what: str) -> None:
    if not is_unicode(text):
        raise FormatError(f"{what} is not valid Unicode")


def _check_entry(name: str, entry: Any, path: object) -> TensorInfo:
    if len(name) > MAX_NAME:
        raise FormatError(f"{path}: a name of {len(name)} characters, more than {MAX_NAME}")
    _check_text(name, f"{path}: the tensor name {name!r}")

    def bad(reason: str) -> NoReturn:
        raise FormatError(f"{path}: tensor {name!r}: {reason}")

    if "\0" in name:
        bad("name has a NUL character")
    # Other readers pass over further keys; so does this one.
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= set(entry):
        bad("must have dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str):
        bad("dtype must be a string")
    if not _are_integers(shape):
        bad("shape must be a list of integers")
    if not _are_integers(offsets) or len(offsets) != 2:
        bad("data_offsets must be two integers")
    try:
        nbytes = checked_nbytes(dtype, tuple(shape))
    except ValueError as error:
        bad(str(error))
    start, stop = offsets
    if not 0 <= start <= stop:
        bad(f"data_offsets must ascend from 0, got {offsets}")
    if stop - start != nbytes:
        bad(f"{dtype} of shape {shape} takes {nbytes} bytes, data_offsets give {stop - start}")
    return TensorInfo(dtype, tuple(shape), start, stop)


def _are_integers(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int for value in values)
