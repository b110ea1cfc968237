"""GPTQ: ``scales * (code - zero)``, codes packed along the input axis, columns are outputs.

Where ``sym`` is true the zero is ``2**(bits - 1)``, whatever is stored: writers have disagreed on
what to store. Else version 2 (``gptq_v2``) stores the zeros themselves and version 1 (``gptq``)
the words less 1 in each field, borrowing from field to field; 3 bits, which lie across words, wrap
around alone. A column belongs to the group that ``g_idx`` gives it. ``dynamic`` has settings of
single modules. Source: the packers of AutoGPTQ and GPTQModel.
"""

import re
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from binq.errors import FormatError, UnsupportedFormatError
from binq.storage.base import Storage, check_size, infos_of, to_float32
from binq.storage.bits import unpack, unpack_columns
from binq.storage.coded import CodedStorage, column_order
from binq.storage.patterns import matches
from binq.storage.rows import StoredRows, word_columns

if TYPE_CHECKING:
    from binq.files.checkpoint import Checkpoint

METHODS = ("gptq",)
_PACKED = ".qweight"
_SAMPLE = 256  # rows whose first codes are looked at
_FLOATS = ("F16", "BF16", "F32")
# A 1 in each field of a word.
_ONES = {2: 0x55555555, 4: 0x11111111, 8: 0x01010101}
# From this version on GPTQModel subtracts 1 from each field of 3 bits; before, other numbers.
_THREE_BITS_SINCE = (7, 7)


@dataclass(frozen=True)
class Gptq(CodedStorage):
    """qweight (in·bits/32, out), qzeros (groups, out·bits/32), scales (groups, out), g_idx."""

    scheme = "gptq"
    module: str
    rows: int
    columns: int
    bits: int
    group_size: int | None
    symmetric: bool | None
    version: int
    order: bool

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.rows, self.columns)

    @property
    def dtype(self) -> str:
        return "I32"

    @property
    def stored(self) -> tuple[str, ...]:
        parts = ("qweight", "qzeros", "scales", *(("g_idx",) if self.order else ()))
        return tuple(f"{self.module}.{part}" for part in parts)

    @property
    def group(self) -> int | None:
        return self.group_size

    @property
    def levels(self) -> tuple[int, int]:
        return (0, (1 << self.bits) - 1)

    def good_rows(self, budget: int) -> int:
        # Rows are columns of the file: read many at a time.
        return max(2048, super().good_rows(budget))

    def read_order(self, source: "Checkpoint") -> NDArray[Any] | None:
        if not self.order:
            return None
        return column_order(source, f"{self.module}.g_idx", self.columns, self.group)

    def read_codes(
        self, source: "Checkpoint", matrix: int, start: int, stop: int
    ) -> NDArray[np.uint8]:
        words = source.read_transposed(self.stored[0], 0, start, stop)
        return unpack(words, self.bits, self.columns)

    def read_groups(
        self, source: "Checkpoint", matrix: int, start: int, stop: int
    ) -> tuple[NDArray[np.float32], NDArray[Any]]:
        scales = to_float32(source.read_transposed(self.stored[2], 0, start, stop))
        if self.symmetric:
            return scales, np.full(scales.shape, 1 << (self.bits - 1), np.int16)
        words = source.read(self.stored[1]).view(np.uint32)
        if self.version == 1 and self.bits in _ONES:
            self._check_label(source, unpack_columns(words, self.bits, start, stop))
            words += np.uint32(_ONES[self.bits])
        zeros = unpack_columns(words, self.bits, start, stop).T.astype(np.int16)
        if self.version == 1 and self.bits not in _ONES:
            self._check_label(source, zeros)
            zeros = (zeros + np.int16(1)) & np.int16((1 << self.bits) - 1)
        return scales, zeros

    def some_codes(self, source: "Checkpoint") -> NDArray[Any] | None:
        rows = min(self.rows, _SAMPLE)
        words = source.read_span(self.stored[0], 0, 1, (self.rows,))[:, :rows]
        codes = unpack(np.ascontiguousarray(words.T), self.bits, 32 // self.bits)
        zeros = self.read_groups(source, 0, 0, rows)[1]
        centred: NDArray[np.int16] = codes.astype(np.int16) - zeros[:, :1]
        return centred

    def _stored_rows(
        self, source: "Checkpoint", matrix: int, start: int, stop: int
    ) -> tuple[StoredRows, NDArray[np.float32], NDArray[Any] | None]:
        if self.bits not in _ONES:
            return super()._stored_rows(source, matrix, start, stop)
        scales, zeros = self.read_groups(source, matrix, start, stop)
        words = source.read_columns(self.stored[0], 0, start, stop)
        order = self.read_order(source)
        rows = word_columns(words, self.bits, scales, zeros, self.group, order)
        return rows, scales, zeros

    def _check_label(self, source: "Checkpoint", stored: NDArray[Any]) -> None:
        """Raises where nothing says sym and all zeros are what version 2 stores for it."""
        if self.symmetric is None and (stored == 1 << (self.bits - 1)).all():
            raise UnsupportedFormatError(
                f"{source.path}: {self.stored[1]!r} holds {1 << (self.bits - 1)} throughout, the "
                "zero of symmetric weights in version 2, and is labelled version 1 without sym: "
                "set sym or checkpoint_format in the settings"
            )


@dataclass(frozen=True)
class _Settings:
    """What the configuration says of one module."""

    bits: int
    group: int
    symmetric: bool | None
    reordered: bool
    version: int

    @classmethod
    def of(cls, source: "Checkpoint", config: Mapping[str, Any], version: int) -> Self:
        bits, group = config.get("bits"), config.get("group_size")
        words = config.get("pack_dtype", "int32")
        if type(bits) is not int or bits not in (2, 3, 4, 8) or words != "int32":
            raise UnsupportedFormatError(
                f"{source.path}: GPTQ weights of {bits!r} bits in {words!r}"
            )
        group = check_size(source, "group_size", group, -1)
        symmetric, reordered = config.get("sym"), config.get("desc_act")
        for key, value in (("sym", symmetric), ("desc_act", reordered)):
            if value is not None and type(value) is not bool:
                raise FormatError(f"{source.path}: {key} is {value!r}")
        return cls(bits, group, symmetric, bool(reordered), version)


def collect(source: "Checkpoint", config: Mapping[str, Any], names: Set[str]) -> dict[str, Storage]:
    """Returns the packed weights of a checkpoint by name (``X.weight`` of ``X.qweight``)."""
    modules = [name.removesuffix(_PACKED) for name in sorted(names) if name.endswith(_PACKED)]
    if not modules:
        return {}
    general = _Settings.of(source, config, _version(source, config))
    found: dict[str, Storage] = {}
    for module in modules:
        own = dynamic_settings(source, config, module)
        settings = general
        if own:
            settings = _Settings.of(source, {**config, **own}, general.version)
        _check_three_bits(source, config, settings)
        if settings.reordered and f"{module}.g_idx" not in names:
            raise FormatError(f"{source.path}: desc_act is true and {module!r} has no g_idx")
        found[f"{module}.weight"] = _weight(source, module, names, settings)
    return found


def dynamic_settings(
    source: "Checkpoint", config: Mapping[str, Any], module: str
) -> Mapping[str, Any]:
    """Returns what ``dynamic`` says of a module: the first pattern that begins it decides.

    ``+:PATTERN`` (or no sign) has settings, ``-:PATTERN`` excludes a module.
    """
    dynamic = config.get("dynamic") or {}
    if not isinstance(dynamic, Mapping):
        raise FormatError(f"{source.path}: dynamic is {dynamic!r}")
    for pattern, own in dynamic.items():
        excluded = pattern.startswith("-:")
        if not matches(source, "dynamic", re.sub(r"^[+-]:", "", pattern), module, begin=True):
            continue
        if excluded:
            raise FormatError(
                f"{source.path}: dynamic excludes {module!r} by {pattern!r}, and it is packed"
            )
        if not isinstance(own, Mapping):
            raise FormatError(f"{source.path}: dynamic[{pattern!r}] is {own!r}")
        return own
    return {}


def _version(source: "Checkpoint", config: Mapping[str, Any]) -> int:
    """Returns the version of the layout, which stands under either of two keys."""
    label, legacy = config.get("checkpoint_format"), config.get("format")
    if label is not None and legacy is not None and label != legacy:
        raise FormatError(
            f"{source.path}: checkpoint_format is {label!r} and format {legacy!r}: they must agree"
        )
    format = label or legacy or "gptq"
    if format not in ("gptq", "gptq_v2"):
        raise UnsupportedFormatError(f"{source.path}: GPTQ checkpoint_format {format!r}")
    return 2 if format == "gptq_v2" else 1


def _check_three_bits(source: "Checkpoint", config: Mapping[str, Any], settings: _Settings) -> None:
    """Raises for zeros of 3 bits that a version of GPTQModel has stored in its own way."""
    if settings.bits != 3 or settings.version != 1 or settings.symmetric:
        return
    meta = config.get("meta")
    writers = meta.get("quantizer") if isinstance(meta, Mapping) else None
    for writer in writers if isinstance(writers, list) else [writers]:
        found = re.match(r"gptqmodel:(\d{1,6})\.(\d{1,6})", str(writer))
        if found and tuple(map(int, found.groups())) < _THREE_BITS_SINCE:
            raise UnsupportedFormatError(
                f"{source.path}: 3-bit zero points of version 1 that {writer} has written: it "
                "subtracted other numbers than 1; convert them with it to gptq_v2"
            )


def _weight(source: "Checkpoint", module: str, names: Set[str], settings: _Settings) -> Storage:
    bits, group = settings.bits, settings.group
    codes, zeros, scales = infos_of(source, module, ("qweight", "qzeros", "scales"), names)
    matrix = len(codes.shape) == 2
    words, rows = codes.shape if matrix else (0, 0)
    columns = words * 32 // bits
    groups = 1 if group == -1 else -(-columns // group)
    if (
        not matrix
        or words * 32 % bits
        or (codes.dtype, zeros.dtype) != ("I32", "I32")
        or zeros.shape != (groups, -(-rows * bits // 32))
        or scales.shape != (groups, rows)
        or scales.dtype not in _FLOATS
    ):
        raise FormatError(
            f"{source.path}: {module!r}: qweight {codes.shape}, qzeros {zeros.shape}, scales "
            f"{scales.shape}: not GPTQ weights of {bits} bits in groups of {group}"
        )
    size = None if group == -1 else group
    ordered = f"{module}.g_idx" in names
    if ordered:
        column_order(source, f"{module}.g_idx", columns, size)
    symmetric, version = settings.symmetric, settings.version
    return Gptq(module, rows, columns, bits, size, symmetric, version, ordered)
