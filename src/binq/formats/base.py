"""What a format is: its codes, its levels, and how they lie in memory."""

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binq import _core, _memory
from binq._native.spec import FormatSpec
from binq.formats.layout import TILE_ROWS, Geometry
from binq.formats.zeros import NONE


class Format:
    """One way to store weights with few bits: a row of the table in ``_native/formats.h``.

    All methods take arrays with any number of leading axes: a stack of matrices is stored as the
    concatenation of its matrices.
    """

    def __init__(self, spec: FormatSpec) -> None:
        self.spec = spec
        self.name = spec.name
        self.bits = spec.bits
        """Bits of a stored code."""
        self.methods = spec.methods
        """The quantization methods that the format has, the default first."""
        self.zero_kinds = spec.zero_kinds
        """What symmetric=False may mean (:mod:`binq.formats.zeros`), the default first."""

        self.bias = 128 if spec.halves else 127
        """A scale of e8m0 with the exponent e is 2^(e − bias)."""

        self.scale_dtype = spec.scale_dtype
        """The type of scales that weights get unless a user says it."""

    def __repr__(self) -> str:
        return f"<format {self.name}>"

    @property
    def whole_codes(self) -> bool:
        """Returns whether a code lies in one place: not in bit planes, 8 columns a byte."""
        return self.spec.row_bytes > 1

    @property
    def packed_row_axis(self) -> int:
        """Returns the axis of the packed codes that counts the 32 rows of a tile."""
        return -2 if self.whole_codes else -1

    def codes(self, zero: str) -> tuple[int, ...]:
        """Returns the codes that a weight can have, ascending, with that kind of zero.

        They are the levels; codes as they are stored where zero is not ``"none"`` and there are
        more than two.
        """
        if zero != NONE and self.bits > 1:
            return tuple(range(1 << self.bits))
        return tuple(sorted(set(self.spec.levels)))

    @property
    def signed_zero(self) -> bool:
        """Returns whether a second code stands for 0: it is kept, never chosen."""
        return self.whole_codes and len(set(self.spec.levels)) < len(self.spec.levels)

    @property
    def zero_level(self) -> int:
        """Returns the level nearest to 0: that of all weights of a group whose scale is 0."""
        return min(self.spec.levels, key=abs)

    def packed_shape(self, geometry: Geometry) -> tuple[int, ...]:
        """Returns the shape of the packed codes of one matrix."""
        if self.whole_codes:
            # Four bytes hold 8 codes of 4 bits, or 4 of 8.
            units = geometry.padded_in * self.bits // 32
            return (geometry.tiles, units, TILE_ROWS, self.spec.row_bytes)
        shape = (geometry.tiles, geometry.padded_in // 8)
        return (
            (*shape, TILE_ROWS) if self.spec.planes == 1 else (*shape, self.spec.planes, TILE_ROWS)
        )

    def pack(self, codes: NDArray[Any], geometry: Geometry, zero: str) -> NDArray[np.uint8]:
        """Returns the packed form of codes ``(..., out_features, in_features)``, int8 or uint8.

        They are trusted to be those of :meth:`codes`. Padding is zero bits.
        """
        lead = codes.shape[:-2]
        shape = self.packed_shape(geometry)
        packed = _memory.zeros((prod(lead), *shape), np.uint8)
        if packed.size:
            matrices = np.ascontiguousarray(codes).view(np.int8).reshape(-1, *codes.shape[-2:])
            for matrix, target in zip(matrices, packed, strict=True):
                _core.pack(
                    self.spec.number,
                    _core.ZEROS[zero],
                    matrix,
                    target.reshape(-1),
                    geometry.kernel_group,
                )
        return packed.reshape(*lead, *shape)
