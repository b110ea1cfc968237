"""Packed: the stored arrays of packed weights, and the native matrices that read them."""

from collections.abc import Callable, Iterator
from math import prod
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from binq import _core, _memory
from binq.array.checks import check_matrix_shape, check_stored
from binq.array.packing import Packing
from binq.formats import Geometry, get_format, tile_rows
from binq.formats.scales import OFFSET_NAMES, scale_dtype, scale_number
from binq.formats.zeros import CODE, OFFSET, pack_zeros


class Packed:
    """Packed weights as a value: how they are packed, their logical shape, the stored arrays.

    - packing, shape: what they are
    - packed, scales: the stored arrays (docs/formats.md)
    - zeros: zero points or offsets as they are stored, None where symmetric

    The constructor trusts its arguments to agree and makes the arrays read-only; :meth:`checked`
    is the way in for what a user gave. QuantizedArray and its transposed view are its two faces.
    """

    __slots__ = ("geometry", "native", "packed", "packing", "scales", "shape", "zeros")

    def __init__(
        self,
        packing: Packing,
        shape: tuple[int, ...],
        packed: NDArray[np.uint8],
        scales: NDArray[Any],
        zeros: NDArray[Any] | None = None,
        *,
        native: tuple[_core.PackedMatrix, ...] | None = None,
    ) -> None:
        self.packing = packing
        self.shape = shape
        self.geometry: Geometry = packing.geometry(shape)
        self.packed = packed
        self.scales = scales
        self.zeros = zeros
        self.native = native
        for part in (packed, scales, zeros):
            if part is not None:
                part.flags.writeable = False

    @classmethod
    def checked(
        cls,
        packing: Packing,
        shape: object,
        packed: object,
        scales: object,
        zeros: object = None,
    ) -> Self:
        """Returns read-only views of stored arrays, whose dtypes and shapes are checked.

        Raises TypeError for a wrong type or dtype, ValueError for a wrong shape.
        """
        sizes = check_matrix_shape(shape)
        if packing.rotation is not None:
            packing.rotation.check(sizes[-1])
        codes, scale, *zero = packing.parts(sizes)
        checked = [
            check_stored("packed", packed, (codes.dtype,), codes.shape),
            check_stored("scales", scales, packing.scale_dtypes(), scale.shape),
        ]
        if not zero:
            if zeros is not None:
                raise ValueError("zero_points must be None where symmetric is True")
            return cls(packing, sizes, *checked)
        (part,) = zero
        dtypes: tuple[np.dtype[Any], ...] = (part.dtype,)
        if packing.zero == OFFSET:
            # The offsets of binary weights have the dtype of the scales.
            any_type = tuple(map(scale_dtype, OFFSET_NAMES))
            dtypes = (checked[1].dtype,) if part.name == "zero_points" else any_type
        checked.append(check_stored(part.name, zeros, dtypes, part.shape))
        return cls(packing, sizes, *checked)

    @classmethod
    def of_codes(
        cls,
        packing: Packing,
        codes: NDArray[np.int8],
        scales: NDArray[Any],
        zeros: NDArray[Any] | None = None,
    ) -> Self:
        """Returns codes, scales and zeros in row-major order as packed weights.

        Codes are trusted to be levels. Raises ValueError for scales or zeros of another shape.

        - codes: int8 ``(..., out_features, in_features)``, levels of the format: −8 to 7 for int4.
          With zero ``"code"`` or ``"offset"`` they count from 0, but for binary
        - scales: ``(..., out_features, groups)``, stored in the dtype that they have
        - zeros: of the same shape, zero points or offsets; None where the packing is symmetric
        """
        geometry = packing.geometry(codes.shape)
        expected = (*codes.shape[:-1], geometry.scale_groups)
        for name, part in (("scales", scales), ("zeros", zeros)):
            if part is not None and part.shape != expected:
                raise ValueError(f"{name} must have shape {expected}, got {part.shape}")
        packed = packing.kind.pack(codes, geometry, packing.zero)
        return cls.of_parts(packing, codes.shape, packed, scales, zeros)

    @classmethod
    def of_parts(
        cls,
        packing: Packing,
        shape: tuple[int, ...],
        packed: NDArray[np.uint8],
        scales: NDArray[Any],
        zeros: NDArray[Any] | None = None,
    ) -> Self:
        """Returns codes that are packed already, with scales and zeros in row-major order."""
        geometry = packing.geometry(shape)
        stored = None if zeros is None else pack_zeros(packing.zero, zeros, geometry, packing.bits)
        return cls(packing, shape, packed, tile_rows(scales, geometry), stored)

    @classmethod
    def of_nibbles(cls, packing: Packing, nibbles: NDArray[np.uint8], scales: NDArray[Any]) -> Self:
        """Returns stored codes of 4 bits, 0 to 15, and stored scales, in row-major order, packed.

        Codes that stand for the same level, such as 0 and -0, stay what they are.
        """
        geometry = packing.geometry(nibbles.shape)
        packed = get_format("int4").pack(nibbles.view(np.int8), geometry, CODE)
        return cls(packing, nibbles.shape, packed, tile_rows(scales, geometry))

    def __repr__(self) -> str:
        return f"<Packed {self.packing}, shape={self.shape}>"

    @property
    def parts(self) -> tuple[NDArray[Any], ...]:
        """Returns the stored arrays, in the order of ``packing.part_names()``."""
        if self.zeros is None:
            return (self.packed, self.scales)
        return (self.packed, self.scales, self.zeros)

    @property
    def size(self) -> int:
        """Returns the number of weights."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Returns the bytes of the stored arrays, padding included."""
        return sum(part.nbytes for part in self.parts)

    def with_parts(self, change: Callable[[NDArray[Any]], NDArray[Any]]) -> "Packed":
        """Returns the same weights with each stored array replaced by ``change`` of it."""
        return Packed(self.packing, self.shape, *map(change, self.parts))

    def matrices(self) -> tuple[_core.PackedMatrix, ...]:
        """Returns one native matrix for each matrix of the stack, or () for no weights."""
        if self.native is None:
            self.native = tuple(self._make_native()) if self.size else ()
        return self.native

    def _make_native(self) -> Iterator[_core.PackedMatrix]:
        out_features, in_features = self.shape[-2:]
        for index in np.ndindex(self.shape[:-2]):
            packed, scales, *zeros = (_memory.as_bytes(part[index]) for part in self.parts)
            yield _core.PackedMatrix(
                self.packing.kind.spec.number,
                _core.ZEROS[self.packing.zero],
                packed,
                scales,
                zeros[0] if zeros else None,
                out_features,
                in_features,
                self.packing.group_size or 0,
                scale_number(self.scales.dtype, self.packing.kind.bias),
                scale_number(self.parts[-1].dtype, self.packing.kind.bias),
            )

    def each_matrix(
        self, target: NDArray[Any], write: Callable[[_core.PackedMatrix, NDArray[Any]], None]
    ) -> None:
        """Calls write(matrix, its part of target) for all matrices of the stack."""
        if matrices := self.matrices():
            for matrix, part in zip(matrices, target.reshape(-1, *self.shape[-2:]), strict=True):
                write(matrix, part)

    def dequantize(self, out: NDArray[np.float32]) -> None:
        """Writes the weights to a contiguous array of their shape."""
        self.each_matrix(out, lambda matrix, target: matrix.dequantize(target))
        if self.packing.rotation is not None:
            self.packing.rotation.back(out)

    def same_as(self, other: "Packed") -> bool:
        """Returns whether the other has the same packing, shape and bytes (NaN equals itself)."""
        return self is other or (
            self.packing == other.packing
            and self.shape == other.shape
            and all(map(_same_bytes, self.parts, other.parts))
        )


def _same_bytes(a: NDArray[Any], b: NDArray[Any]) -> bool:
    word = f"u{a.dtype.itemsize}"
    return a.dtype == b.dtype and bool((a.view(word) == b.view(word)).all())
