"""Reads the header of a GGUF file (versions 2 and 3, little-endian), strictly, and its bytes.

A file is a header, key-value metadata, a table of tensors and the aligned data. Nothing that the
header declares is believed before it is checked against the size of the file. The table gives
offsets only, so a type that two programs lay out differently is told by the room it takes.
"""

import struct
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binq.errors import FormatError, UnsupportedFormatError
from binq.files.header import TensorInfo
from binq.files.reading import ReadableFile
from binq.files.signs import SIGN_BYTES, what_it_is
from binq.files.tensor_file import TensorFile

MAGIC = b"GGUF"
MAX_TENSORS = 1_000_000
MAX_KEYS = 100_000
MAX_NAME = 1 << 16
MAX_TEXT = 1 << 26
MAX_AXES = 4
MAX_DEPTH = 4
# Arrays longer than this (vocabularies) are checked and skipped: GgufFile.array reads them.
KEPT_ARRAY = 1024
# Texts are looked at one by one; a large vocabulary has 800,000 with its merges.
MAX_ELEMENTS = 4_000_000
# A header is read in pieces of this many bytes.
_AHEAD = 1 << 16

# ggml type id -> (name, weights of a block, bytes of a block); plain types as safetensors has them.
TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
    42: ("Q2_0", 64, 18),
    142: ("PQ2_0", 128, 34),
    143: ("PTQ1_0", 128, 28),
}
# The same id 42 with blocks of 128 is in use too; Q2_0_G128 is our name for it.
_Q2_0 = 42
_Q2_0_WIDE = ("Q2_0_G128", 128, 34)
# Known ids that are refused by name.
OTHER_TYPES = {
    9: "Q8_1", 15: "Q8_K", 31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8",
    36: "I2_S of bitnet.cpp",
}  # fmt: skip

_SCALARS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q",
    12: "<d",
}  # fmt: skip
_STRING = 8
_ARRAY = 9


class GgufFile(TensorFile):
    """An open GGUF file; its metadata are its key-value pairs, without long arrays.

    Raises UnsupportedFormatError, with the name, for a version or tensor type that is not read.
    """

    def _read_header(self) -> int:
        header = _Header(self._file)
        self.tensors, self.metadata = header.tensors, header.metadata
        self._arrays = header.arrays
        return 0

    def array(self, key: str) -> list[str] | NDArray[Any] | None:
        """Returns an array of the metadata, however long: a list of texts, or numbers.

        None where there is no such key, or it holds another kind of thing. Raises FormatError for
        texts that are not UTF-8, with the number of the first.
        """
        if key not in self._arrays:
            return None
        kind, count, start, stop = self._arrays[key]
        data = self._file.read(start, stop - start, key)
        if kind in _SCALARS:
            return np.frombuffer(data, _SCALARS[kind])
        if kind != _STRING:
            return None
        texts, at = [], 0
        for number in range(count):
            (length,) = struct.unpack_from("<Q", data, at)
            at += 8 + length
            try:
                texts.append(data[at - length : at].decode("utf-8"))
            except UnicodeDecodeError:
                raise FormatError(
                    f"{self.path}: metadata {key!r}: text {number} is not UTF-8"
                ) from None
        return texts


class _Header:
    """Parses a header; every read is checked against the end of the file first."""

    def __init__(self, file: ReadableFile) -> None:
        self._file, self._size, self._path = file, file.size, file.path
        self._at = 0
        self._elements = 0  # of arrays, that were looked at one by one
        # key -> type and number of the elements of an array, and where they lie
        self.arrays: dict[str, tuple[int, int, int, int]] = {}
        self._block, self._block_at = b"", 0  # what was read last, and from where
        if self._take(4, "magic") != MAGIC:
            what = what_it_is(file.read(0, min(SIGN_BYTES, file.size), "magic"))
            text = f"not a GGUF file but {what}" if what else "not a GGUF file"
            raise FormatError(f"{self._path}: {text}: it does not begin with 'GGUF'")
        version = self._number("<I", "version")
        if version not in (2, 3):
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big") in (2, 3)
            what = "a big-endian file" if swapped else f"version {version}"
            raise UnsupportedFormatError(f"{self._path}: GGUF {what} is not supported")
        count = self._count(MAX_TENSORS, 24, "tensors")
        keys = self._count(MAX_KEYS, 12, "metadata keys")
        self.metadata: dict[str, Any] = {}
        for _ in range(keys):
            key = self._string(MAX_NAME, "a metadata key")
            if key in self.metadata:
                self._fail(f"metadata key {key!r} appears twice")
            self.metadata[key] = self._value(self._number("<I", key), key, 0)
        self.tensors = self._place([self._entry() for _ in range(count)])

    def _entry(self) -> tuple[str, int, tuple[int, ...], int]:
        name = self._string(MAX_NAME, "a tensor name")
        axes = self._number("<I", name)
        if axes > MAX_AXES:
            self._fail(f"tensor {name!r} has {axes} axes, more than {MAX_AXES}")
        sizes = tuple(self._number("<Q", name) for _ in range(axes))
        if any(not 0 < size < 1 << 48 for size in sizes):
            self._fail(f"tensor {name!r} has a size outside 1 to 2**48 - 1")
        kind = self._number("<I", name)
        offset = self._number("<Q", name)
        return name, kind, sizes[::-1], offset

    def _place(self, entries: list[tuple[str, int, tuple[int, ...], int]]) -> dict[str, TensorInfo]:
        """Returns the tensors with their checked places in the file."""
        alignment = self.metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 8 <= alignment <= 1 << 20 or alignment % 8:
            self._fail(f"general.alignment is {alignment!r}")
        data = -(-self._at // alignment) * alignment
        entries.sort(key=lambda entry: entry[3])
        if len({entry[0] for entry in entries}) != len(entries):
            self._fail("a tensor name appears twice")
        # The room of each tensor: to where the next one begins, or to the end of the file.
        ends = [entry[3] for entry in entries] + [max(0, self._size - data)]
        ends = ends[1:]
        kinds = dict(TYPES)
        if any(entry[1] == _Q2_0 for entry in entries):
            kinds[_Q2_0] = self._q2_0(entries, ends, alignment)
        tensors = {}
        for (name, kind, shape, offset), end in zip(entries, ends, strict=True):
            if kind not in kinds:
                known = OTHER_TYPES.get(kind, "unknown")
                raise UnsupportedFormatError(
                    f"{self._path}: tensor {name!r} has type {kind}, {known}: not supported"
                )
            type, weights, nbytes = kinds[kind]
            columns = shape[-1] if shape else 1
            if columns % weights:
                self._fail(f"tensor {name!r}: rows of {columns} are not whole {type} blocks")
            if offset % alignment:
                self._fail(f"tensor {name!r} begins at {offset}, not a multiple of {alignment}")
            size = prod(shape) // weights * nbytes
            if size > end - offset:
                self._fail(f"tensor {name!r} overlaps the next one or ends after the file")
            tensors[name] = TensorInfo(type, shape, data + offset, data + offset + size)
        return tensors

    def _q2_0(
        self,
        entries: list[tuple[str, int, tuple[int, ...], int]],
        ends: list[int],
        alignment: int,
    ) -> tuple[str, int, int]:
        """Returns the one layout of Q2_0 whose sizes are those of all such tensors."""
        fitting = []
        for layout in (TYPES[_Q2_0], _Q2_0_WIDE):
            _, weights, nbytes = layout
            fits = True
            for (_, kind, shape, offset), end in zip(entries, ends, strict=True):
                if kind == _Q2_0:
                    size = prod(shape) // weights * nbytes
                    whole = bool(shape) and not shape[-1] % weights
                    fits = fits and whole and 0 <= end - offset - size < alignment
            if fits:
                fitting.append(layout)
        if len(fitting) != 1:
            raise UnsupportedFormatError(
                f"{self._path}: the sizes of its Q2_0 tensors do not tell blocks of 64 from 128"
            )
        return fitting[0]

    def _value(self, kind: int, key: str, depth: int) -> Any:
        if kind in _SCALARS:
            return self._number(_SCALARS[kind], key)
        if kind == _STRING:
            return self._string(MAX_TEXT, key)
        if kind != _ARRAY or depth == MAX_DEPTH:
            self._fail(f"metadata {key!r} has a value of type {kind}")
        inner = self._number("<I", key)
        least = struct.calcsize(_SCALARS[inner]) if inner in _SCALARS else 8
        count = self._count(1 << 32, least, key)
        if depth == 0:
            self.arrays[key] = inner, count, self._at, self._at
        if inner in _SCALARS and count > KEPT_ARRAY:
            self._skip(count * least, key)
            self._end(key, depth)
            return None
        self._elements += count
        if self._elements > MAX_ELEMENTS:
            self._fail(f"metadata {key!r}: more than {MAX_ELEMENTS} elements in all arrays")
        kept = []
        for _ in range(count):
            value = self._value(inner, key, depth + 1)
            if count <= KEPT_ARRAY:
                kept.append(value)
        self._end(key, depth)
        return kept if count <= KEPT_ARRAY else None

    def _end(self, key: str, depth: int) -> None:
        """Notes where an array ends that lies in no other."""
        if depth == 0:
            self.arrays[key] = (*self.arrays[key][:3], self._at)

    def _string(self, limit: int, what: str) -> str:
        length = self._count(limit, 1, what)
        try:
            return self._take(length, what).decode("utf-8")
        except UnicodeDecodeError:
            if what.startswith("a "):
                self._fail(f"{what} is not UTF-8")
            return ""  # tokens of a vocabulary may be any bytes

    def _count(self, limit: int, least: int, what: str) -> int:
        """Returns a count of things of at least ``least`` bytes that the file has room for."""
        count = int(self._number("<Q", what))
        if count > limit or count * least > self._size - self._at:
            self._fail(f"{what}: a count of {count} is more than the file has room for")
        return count

    def _number(self, code: str, what: str) -> Any:
        return struct.unpack(code, self._take(struct.calcsize(code), what))[0]

    def _skip(self, length: int, what: str) -> None:
        if length > self._size - self._at:
            self._fail(f"it ends within {what}")
        self._at += length

    def _take(self, length: int, what: str) -> bytes:
        if length > self._size - self._at:
            self._fail(f"it ends within {what}")
        start = self._at - self._block_at
        if start + length > len(self._block):
            ahead = min(max(length, _AHEAD), self._size - self._at)
            self._block = self._file.read(self._at, ahead, what)
            self._block_at, start = self._at, 0
        self._at += length
        return self._block[start : start + length]

    def _fail(self, reason: str) -> Any:
        raise FormatError(f"{self._path}: {reason}")
