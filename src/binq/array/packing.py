"""Packing: how weights are packed, all that decides the stored arrays beside their shape."""

from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple, Self

import numpy as np

from binq.array.checks import check_bool, check_choice, check_group_size
from binq.array.choices import DEFAULT_GROUP_SIZE
from binq.array.rotation import Rotation
from binq.formats import GROUP_SIZES, Format, Geometry, get_format
from binq.formats.scales import FLOAT16, SCALE_NAMES, scale_dtype
from binq.formats.zeros import NONE, OFFSET, zeros_shape

UINT8 = np.dtype(np.uint8)


class Part(NamedTuple):
    """One stored array of packed weights: the end of its name, its dtype and shape."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Packing:
    """A format, a group size, and what says where zero lies in a group.

    - format: the name of a format, such as ``"int4"``
    - group_size: 32, 64, 128, 256, or None for one scale a row
    - zero: ``"none"``, ``"code"`` or ``"offset"`` (:mod:`binq.formats.zeros`)
    - rotation: None, or the basis that the weights are packed in

    The fields are trusted; :meth:`checked` is the way in for what a user gave.

    >>> str(Packing("int4", 64))
    'int4 g64'
    """

    format: str
    group_size: int | None = 128
    zero: str = NONE
    rotation: Rotation | None = None

    @classmethod
    def checked(
        cls,
        format: object,
        group_size: object = DEFAULT_GROUP_SIZE,
        symmetric: object = True,
        zero: object = None,
    ) -> Self:
        """Returns the packing of these arguments of :func:`binq.quantize`.

        Raises TypeError for wrong types, ValueError for what does not exist, naming the argument.
        """
        kind = get_format(format)
        if group_size is DEFAULT_GROUP_SIZE:
            group_size = kind.spec.group_size
        return cls(kind.name, check_group_size(group_size), _check_zero(kind, symmetric, zero))

    def __str__(self) -> str:
        group = "row" if self.group_size is None else f"g{self.group_size}"
        words = [self.format, group]
        if not self.symmetric:
            words.append("asymmetric" if self.zero == self.kind.zero_kinds[0] else self.zero)
        if self.rotation is not None:
            words.append(str(self.rotation))
        return " ".join(words)

    @property
    def kind(self) -> Format:
        """Returns the format itself."""
        return get_format(self.format)

    @property
    def symmetric(self) -> bool:
        """Returns whether no zero points and no offsets are stored."""
        return self.zero == NONE

    @property
    def bits(self) -> int:
        """Returns the bits of a stored code."""
        return self.kind.bits

    def fitted(self, in_features: int) -> Self:
        """Returns the packing with the smallest group that holds a row, where one group does.

        The weights are the same, without the padding that the larger group would need. One scale
        a row (None) and rows of more than one group stay as they are.

        >>> Packing("int4", 128).fitted(64).group_size, Packing("int4", 64).fitted(100).group_size
        (64, 64)
        """
        if self.group_size is None or in_features > self.group_size:
            return self
        return replace(self, group_size=next(s for s in GROUP_SIZES if s >= in_features))

    def geometry(self, shape: tuple[int, ...]) -> Geometry:
        """Returns the geometry of each matrix of weights of a shape."""
        return Geometry(shape[-2], shape[-1], self.group_size)

    def scale_types(self) -> tuple[str, ...]:
        """Returns the types that scales may have: powers of two only where a code stands for 0."""
        powers = self.symmetric and 0 in self.kind.codes(NONE)
        return tuple(name for name in SCALE_NAMES if powers or name != "e8m0")

    def scale_dtypes(self) -> tuple[np.dtype[Any], ...]:
        """Returns the dtypes of the types that scales may have."""
        return tuple(map(scale_dtype, self.scale_types()))

    def part_names(self) -> tuple[str, ...]:
        """Returns the ends of the names under which files store the parts."""
        if self.symmetric:
            return ("packed", "scales")
        # Files of version 1 call the offsets of binary weights zero points.
        offsets = self.zero == OFFSET and self.format != "binary"
        return ("packed", "scales", "offsets" if offsets else "zero_points")

    def parts(
        self,
        shape: tuple[int, ...],
        scale_dtype: np.dtype[Any] = FLOAT16,
        offset_dtype: np.dtype[Any] | None = None,
    ) -> tuple[Part, ...]:
        """Returns name, dtype and shape of each stored array, for weights of a shape.

        offset_dtype: that of the scales where it is None.
        """
        geometry = self.geometry(shape)
        lead = shape[:-2]
        names = self.part_names()
        parts = [
            Part(names[0], UINT8, lead + self.kind.packed_shape(geometry)),
            Part(names[1], scale_dtype, lead + geometry.scales_shape),
        ]
        if not self.symmetric:
            dtype = (offset_dtype or scale_dtype) if self.zero == OFFSET else UINT8
            parts.append(Part(names[2], dtype, lead + zeros_shape(self.zero, geometry, self.bits)))
        return tuple(parts)

    def nbytes(
        self,
        shape: tuple[int, ...],
        scale_dtype: np.dtype[Any] = FLOAT16,
        offset_dtype: np.dtype[Any] | None = None,
    ) -> int:
        """Returns the bytes of weights of a shape, padding included."""
        return _nbytes(self, tuple(shape), scale_dtype, offset_dtype)


@lru_cache(maxsize=1024)  # a checkpoint of many tensors has few shapes
def _nbytes(
    packing: Packing,
    shape: tuple[int, ...],
    scale_dtype: np.dtype[Any],
    offset_dtype: np.dtype[Any] | None,
) -> int:
    parts = packing.parts(shape, scale_dtype, offset_dtype)
    return sum(part.dtype.itemsize * prod(part.shape) for part in parts)


def _check_zero(kind: Format, symmetric: object, zero: object) -> str:
    """Returns the kind of zero that symmetric= and zero= ask for together."""
    if check_bool("symmetric", symmetric):
        if zero is not None:
            raise ValueError(f"zero must be None where symmetric is True, got {zero!r}")
        return NONE
    if not kind.zero_kinds:
        raise ValueError(f"symmetric must be True for format {kind.name!r}: it has no zero points")
    return kind.zero_kinds[0] if zero is None else check_choice("zero", zero, kind.zero_kinds)
