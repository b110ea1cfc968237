"""AWQ, version gemm: 4-bit ``scales * (code - zero)``, packed along the output axis.

Nibble j of a word of 8 is column ``8c + [0, 2, 4, 6, 1, 3, 5, 7][j]``. Source: AutoAWQ.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from binq.errors import FormatError, UnsupportedFormatError
from binq.storage.base import Storage, check_size, infos_of, to_float32
from binq.storage.coded import CodedStorage

if TYPE_CHECKING:
    from binq.files.checkpoint import Checkpoint

METHODS = ("awq",)
_PACKED = ".qweight"
_FLOATS = ("F16", "BF16", "F32")
# The byte of a word that holds each of 8 columns, and where in it.
_PLACES = ((0, 0), (2, 0), (0, 4), (2, 4), (1, 0), (3, 0), (1, 4), (3, 4))


@dataclass(frozen=True)
class Awq(CodedStorage):
    """qweight (in, out/8), qzeros (groups, out/8), scales (groups, out)."""

    scheme = "awq"
    module: str
    rows: int
    columns: int
    group_size: int | None

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.rows, self.columns)

    @property
    def dtype(self) -> str:
        return "I32"

    @property
    def stored(self) -> tuple[str, ...]:
        return tuple(f"{self.module}.{part}" for part in ("qweight", "qzeros", "scales"))

    @property
    def group(self) -> int | None:
        return self.group_size

    @property
    def levels(self) -> tuple[int, int]:
        return (0, 15)

    def good_rows(self, budget: int) -> int:
        # Rows are columns of the file: read many at a time.
        return max(4096, super().good_rows(budget))

    def read_codes(
        self, source: "Checkpoint", matrix: int, start: int, stop: int
    ) -> NDArray[np.uint8]:
        return self._nibbles(source, self.stored[0], start, stop)

    def read_groups(
        self, source: "Checkpoint", matrix: int, start: int, stop: int
    ) -> tuple[NDArray[np.float32], NDArray[Any]]:
        scales = to_float32(source.read_transposed(self.stored[2], 0, start, stop))
        return scales, self._nibbles(source, self.stored[1], start, stop)

    def _nibbles(self, source: "Checkpoint", name: str, start: int, stop: int) -> NDArray[np.uint8]:
        """Returns columns ``[start, stop)`` of packed nibbles, as rows."""
        first = start // 8
        words = source.read_transposed(name, 0, first, -(-stop // 8))
        data = words.view(np.uint8).reshape(*words.shape, 4)
        codes = np.empty((len(words), 8, words.shape[1]), np.uint8)
        for column, (byte, shift) in enumerate(_PLACES):
            np.right_shift(data[:, :, byte], np.uint8(shift), out=codes[:, column])
        codes &= np.uint8(15)
        return codes.reshape(-1, words.shape[1])[start - 8 * first : stop - 8 * first]


def collect(source: "Checkpoint", config: Mapping[str, Any], names: Set[str]) -> dict[str, Storage]:
    """Returns the packed weights of a checkpoint by name (``X.weight`` of ``X.qweight``)."""
    modules = [name.removesuffix(_PACKED) for name in sorted(names) if name.endswith(_PACKED)]
    if not modules:
        return {}
    version = str(_one_of(source, config, "version", "checkpoint_format", "format") or "gemm")
    bits = _one_of(source, config, "bits", "w_bit")
    group = _one_of(source, config, "group_size", "q_group_size")
    zero_point = config.get("zero_point", True)
    if version.lower() != "gemm" or type(bits) is not int or bits != 4 or zero_point is not True:
        raise UnsupportedFormatError(
            f"{source.path}: AWQ version {version!r}, {bits!r} bits, zero_point {zero_point!r}"
        )
    group = check_size(source, "group_size", group, -1)
    return {f"{module}.weight": _weight(source, module, names, group) for module in modules}


def _one_of(source: "Checkpoint", config: Mapping[str, Any], *keys: str) -> Any:
    """Returns a setting that stands under any of several keys; where two stand, they must agree."""
    given = {key: config[key] for key in keys if config.get(key) is not None}
    values = [value.lower() if isinstance(value, str) else value for value in given.values()]
    if any(value != values[0] for value in values):
        raise FormatError(f"{source.path}: settings of AWQ differ: {given}")
    return values[0] if values else None


def _weight(source: "Checkpoint", module: str, names: Set[str], group: int) -> Storage:
    codes, zeros, scales = infos_of(source, module, ("qweight", "qzeros", "scales"), names)
    matrix = len(codes.shape) == 2
    columns, words = codes.shape if matrix else (0, 0)
    groups = 1 if group == -1 else -(-columns // group)
    if (
        not matrix
        or (codes.dtype, zeros.dtype) != ("I32", "I32")
        or zeros.shape != (groups, words)
        or scales.shape != (groups, 8 * words)
        or scales.dtype not in _FLOATS
    ):
        raise FormatError(
            f"{source.path}: {module!r}: qweight {codes.shape}, qzeros {zeros.shape}, scales "
            f"{scales.shape}: not AWQ weights in groups of {group}"
        )
    return Awq(module, 8 * words, columns, None if group == -1 else group)
