"""GPTQ: ``scales * (code - zero)``, codes packed along the input axis, columns are outputs.

Version 1 (checkpoint_format ``gptq``) stores zero − 1, version 2 (``gptq_v2``) the zero itself.
Source: the packers of AutoGPTQ and GPTQModel.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from binq.errors import FormatError, UnsupportedFormatError
from binq.storage.base import CodedStorage, Storage, to_float32
from binq.storage.bits import unpack, unpack_columns
from binq.storage.compressed_tensors import check_order

if TYPE_CHECKING:
    from binq.files.checkpoint import Checkpoint

METHOD = "gptq"
_PACKED = ".qweight"
_FLOATS = ("F16", "BF16", "F32")


@dataclass(frozen=True)
class Gptq(CodedStorage):
    """qweight (in·bits/32, out), qzeros (groups, out·bits/32), scales (groups, out), g_idx."""

    scheme = "gptq"
    module: str
    rows: int
    columns: int
    bits: int
    group_size: int | None
    first_zero: int
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

    def read_codes(
        self, source: "Checkpoint", matrix: int, start: int, stop: int
    ) -> NDArray[np.uint8]:
        words = source.read_transposed(self.stored[0], 0, start, stop)
        return unpack(words, self.bits, self.columns)

    def read_groups(
        self, source: "Checkpoint", matrix: int, start: int, stop: int
    ) -> tuple[NDArray[np.float32], NDArray[Any]]:
        scales = to_float32(source.read_transposed(self.stored[2], 0, start, stop))
        zeros = unpack_columns(source.read(self.stored[1]), self.bits, start, stop)
        return scales, zeros.T.astype(np.int16) + np.int16(self.first_zero)


def collect(source: "Checkpoint", config: Mapping[str, Any], names: Set[str]) -> dict[str, Storage]:
    """Returns the packed weights of a checkpoint by name (``X.weight`` of ``X.qweight``)."""
    format = config.get("checkpoint_format", "gptq")
    if format not in ("gptq", "gptq_v2"):
        raise UnsupportedFormatError(f"{source.path}: GPTQ checkpoint_format {format!r}")
    bits, group = config.get("bits"), config.get("group_size")
    words = config.get("pack_dtype", "int32")
    if type(bits) is not int or bits not in (2, 3, 4, 8) or words != "int32":
        raise UnsupportedFormatError(f"{source.path}: GPTQ weights of {bits!r} bits in {words!r}")
    if type(group) is not int or (group < 1 and group != -1):
        raise FormatError(f"{source.path}: group_size is {group!r}")
    reordered = config.get("desc_act", False)
    if reordered not in (True, False):
        raise FormatError(f"{source.path}: desc_act is {reordered!r}")
    modules = [name.removesuffix(_PACKED) for name in sorted(names) if name.endswith(_PACKED)]
    first_zero = 1 if format == "gptq" else 0
    if reordered:
        for module in modules:
            if f"{module}.g_idx" not in names:
                raise FormatError(f"{source.path}: desc_act is true and {module!r} has no g_idx")
    return {
        f"{module}.weight": _weight(source, module, names, bits, group, first_zero)
        for module in modules
    }


def _weight(
    source: "Checkpoint", module: str, names: Set[str], bits: int, group: int, first_zero: int
) -> Storage:
    infos = []
    for part in ("qweight", "qzeros", "scales"):
        if f"{module}.{part}" not in names:
            raise FormatError(f"{source.path}: {module!r} has no {module + '.' + part!r}")
        infos.append(source.info(f"{module}.{part}"))
    codes, zeros, scales = infos
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
            f"{scales.shape}: no GPTQ weights of {bits} bits in groups of {group}"
        )
    ordered = f"{module}.g_idx" in names
    if ordered:
        check_order(source, f"{module}.g_idx", columns, columns if group == -1 else group)
    return Gptq(module, rows, columns, bits, None if group == -1 else group, first_zero, ordered)
