"""compressed-tensors, format pack-quantized: integers of 1 to 8 bits with group or row scales.

``(code - 2**(bits-1) - zero_point) * scale``: codes lie densely along the input axis in 32-bit
words, zero points likewise but along the output axis. Source: the compressed-tensors library.
"""

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from binq.errors import FormatError, UnsupportedFormatError
from binq.storage.base import CodedStorage, Storage, column_order, to_float32
from binq.storage.bits import unpack, unpack_columns

if TYPE_CHECKING:
    from binq.files.checkpoint import Checkpoint

METHOD = "compressed-tensors"
_FORMAT = "pack-quantized"
_PACKED = ".weight_packed"
_FLOATS = ("F16", "BF16", "F32")


@dataclass(frozen=True)
class PackQuantized(CodedStorage):
    """Packed codes (rows, words), scales (rows, groups) and perhaps packed zero points."""

    scheme = "compressed_tensors"
    name: str
    scales: str
    shape_tensor: str
    zero_points: str | None
    rows: int
    columns: int
    words: int
    bits: int
    group_size: int | None
    order: str | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.rows, self.columns)

    @property
    def dtype(self) -> str:
        return "I32"

    @property
    def stored(self) -> tuple[str, ...]:
        optional = (self.zero_points, self.order)
        names = (self.name, self.scales, self.shape_tensor, *optional)
        return tuple(name for name in names if name is not None)

    @property
    def group(self) -> int | None:
        return self.group_size

    @property
    def levels(self) -> tuple[int, int]:
        if self.zero_points is None:
            return (-self._half, self._half - 1)
        return (0, 2 * self._half - 1)

    @property
    def _half(self) -> int:
        return int(1 << (self.bits - 1))

    @property
    def _groups(self) -> int:
        return 1 if self.group is None else -(-self.columns // self.group)

    def read_order(self, source: "Checkpoint") -> NDArray[Any] | None:
        if self.order is None:
            return None
        return column_order(source, self.order, self.columns, self.group)

    def read_codes(self, source: "Checkpoint", matrix: int, start: int, stop: int) -> NDArray[Any]:
        words = source.read_span(self.name, start, stop, (self.words,))
        codes = unpack(words, self.bits, self.columns)
        if self.zero_points is None:
            return codes.astype(np.int16) - np.int16(self._half)
        return codes

    def read_groups(
        self, source: "Checkpoint", matrix: int, start: int, stop: int
    ) -> tuple[NDArray[np.float32], NDArray[Any] | None]:
        scales = to_float32(source.read_span(self.scales, start, stop, (self._groups,)))
        if self.zero_points is None:
            return scales, None
        words = np.ascontiguousarray(source.read(self.zero_points).T)
        return scales, unpack_columns(words, self.bits, start, stop).T


def collect(source: "Checkpoint", config: Mapping[str, Any], names: Set[str]) -> dict[str, Storage]:
    """Returns the packed weights of a checkpoint by name (``X.weight`` of ``X.weight_packed``)."""
    arguments = list(_arguments(source, config))
    found: dict[str, Storage] = {}
    for name in sorted(names):
        if name.endswith(_PACKED):
            found[name.removesuffix("_packed")] = _weight(source, name, arguments, names)
    return found


def _arguments(source: "Checkpoint", config: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields the distinct weight schemes of the configuration, all of them supported."""
    for key in ("transform_config", "sparsity_config"):
        value = config.get(key)
        dense = isinstance(value, Mapping) and value.get("format", "") == "dense"
        if value and not dense:
            raise UnsupportedFormatError(f"{source.path}: compressed-tensors with a {key}")
    groups = config.get("config_groups")
    if not isinstance(groups, Mapping):
        raise FormatError(f"{source.path}: compressed-tensors without config_groups")
    seen = []
    for group in groups.values():
        weights = group.get("weights") if isinstance(group, Mapping) else group
        if weights is None:
            continue
        if not isinstance(weights, Mapping) or not isinstance(group, Mapping):
            raise FormatError(f"{source.path}: config_groups holds {weights!r}")
        format = group.get("format") or config.get("format")
        kinds = {key: weights.get(key) for key in ("num_bits", "strategy", "group_size", "type")}
        bits = kinds["num_bits"]
        whole = type(bits) is int and 1 <= bits <= 8
        if format != _FORMAT or kinds["type"] != "int" or not whole:
            raise UnsupportedFormatError(
                f"{source.path}: compressed-tensors format {format!r}, "
                f"{bits!r}-bit {kinds['type']!r} weights"
            )
        if kinds["strategy"] not in ("group", "channel"):
            raise UnsupportedFormatError(
                f"{source.path}: compressed-tensors strategy {kinds['strategy']!r}"
            )
        kinds["symmetric"] = bool(weights.get("symmetric", True))
        if kinds["strategy"] == "channel":
            kinds["group_size"] = None
        elif type(kinds["group_size"]) is not int or kinds["group_size"] < 1:
            raise FormatError(f"{source.path}: group_size is {kinds['group_size']!r}")
        # With these the columns of a group lie anywhere, and a tensor says where.
        kinds["reordered"] = weights.get("actorder") not in (None, False, "weight", "static")
        if kinds not in seen:
            seen.append(kinds)
            yield kinds


def _weight(
    source: "Checkpoint", name: str, arguments: list[dict[str, Any]], names: Set[str]
) -> Storage:
    module = name.removesuffix(_PACKED)
    scales, shape_name = module + ".weight_scale", module + ".weight_shape"
    zeros, order = module + ".weight_zero_point", module + ".weight_g_idx"
    for part in (scales, shape_name):
        if part not in names:
            raise FormatError(f"{source.path}: {name!r} has no {part!r}")
    packed, scale = source.info(name), source.info(scales)
    sizes = source.info(shape_name)
    if sizes.shape != (2,) or sizes.dtype not in ("I64", "I32"):
        raise FormatError(f"{source.path}: {shape_name!r} does not hold two sizes")
    rows, columns = (int(size) for size in source.read(shape_name))
    zero_shape = source.info(zeros).shape if zeros in names else None
    if zeros in names and source.info(zeros).dtype != "I32":
        raise FormatError(
            f"{source.path}: {zeros!r} is {source.info(zeros).dtype}, expected packed I32"
        )
    fitting = []
    for weights in arguments:
        bits, group = weights["num_bits"], weights["group_size"]
        groups = 1 if group is None else -(-columns // group)
        zero_words = None if weights["symmetric"] else (-(-rows * bits // 32), groups)
        if (
            packed.dtype == "I32"
            and packed.shape == (rows, -(-columns * bits // 32))
            and scale.shape == (rows, groups)
            and scale.dtype in _FLOATS
            and zero_shape == zero_words
        ):
            fitting.append((bits, group, weights["reordered"]))
    if len({weights[:2] for weights in fitting}) != 1:
        raise FormatError(
            f"{source.path}: {name!r} is {packed.dtype} {packed.shape} of ({rows}, {columns}), "
            f"scales {scale.shape}, zero points {zero_shape}: {len(fitting)} of the "
            f"{len(arguments)} schemes of the configuration fit"
        )
    bits, group, _ = fitting[0]
    ordered = order in names
    if not ordered and all(reordered for *_, reordered in fitting):
        raise FormatError(f"{source.path}: actorder is set and {module!r} has no weight_g_idx")
    if ordered:
        column_order(source, order, columns, group)
    return PackQuantized(
        name,
        scales,
        shape_name,
        zeros if zero_shape is not None else None,
        rows,
        columns,
        packed.shape[1],
        bits,
        group,
        order if ordered else None,
    )
