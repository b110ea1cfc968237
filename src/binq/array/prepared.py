"""Prepared: rows of x as the products of one packing read them, made once for many matrices."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from binq import _core
from binq.array.checks import Opaque, as_float32, check_choice
from binq.array.packed import Packed
from binq.array.packing import Packing


class _Unsaid(str):
    """A default that is told from the same word of a caller."""

    __slots__ = ()


DEFAULT_ACTIVATIONS: Any = _Unsaid("int16")


class Prepared(Opaque):
    """Rows of x, prepared for products with weights of one packing: see :func:`binq.prepare`.

    - shape: that of x, ``(..., in_features)``
    - activations: the mode that x was prepared for
    """

    __slots__ = ("_native", "_packing", "_x", "activations", "shape")

    def __init__(self, x: ArrayLike, like: Packed, activations: str) -> None:
        mode = _core.ACTIVATIONS[check_choice("activations", activations, _core.ACTIVATIONS)]
        rows = as_float32("x", x)
        check_in_features(rows.shape, like.shape)
        self.shape: tuple[int, ...] = rows.shape
        self.activations = activations
        self._packing = like.packing
        # What the caller writes to x later changes no product.
        rotation = like.packing.rotation
        self._x = rows.copy() if rotation is None else rotation.forward(rows)
        self._x.flags.writeable = False
        matrices = like.matrices()
        self._native = (
            _core.PreparedRows(matrices[0], self._x.reshape(-1, rows.shape[-1]), mode)
            if matrices
            else None
        )

    def __repr__(self) -> str:
        return f"Prepared(shape={self.shape}, {self._packing}, {self.activations})"

    def floats(self, like: Packed, activations: str) -> NDArray[np.float32]:
        """Returns x, in the basis of the weights, if it was prepared for such and activations.

        Raises ValueError for others.
        """
        if activations is not DEFAULT_ACTIVATIONS and activations != self.activations:
            check_choice("activations", activations, _core.ACTIVATIONS)
            raise ValueError(
                f"activations must be {self.activations!r}, as x was prepared, got {activations!r}"
            )
        self.check_packing(like.packing)
        return self._x

    def check_packing(self, packing: Packing) -> None:
        """Raises ValueError for weights that are not packed as those that x was prepared for."""
        if packing != self._packing:
            raise ValueError(
                f"x was prepared for {self._packing} weights, got {packing} ones: "
                "prepare it like those"
            )

    def multiply(
        self,
        matrices: tuple[_core.PackedMatrix, ...],
        outs: tuple[NDArray[np.float32], ...],
    ) -> None:
        """Writes ``x @ w.T`` of every matrix to its array ``(rows, out_features)``."""
        if self._native is not None:
            self._native.multiply(matrices, outs)
        else:
            rows = self._x.reshape(-1, self.shape[-1])
            _core.multiply_shared(matrices, rows, outs, _core.ACTIVATIONS[self.activations])


def check_in_features(
    x_shape: tuple[int, ...], q_shape: tuple[int, ...], name: str = "weights"
) -> None:
    """Raises ValueError unless the last axis of x is as long as that of the weights."""
    if x_shape and x_shape[-1] == q_shape[-1]:
        return
    text = f"x must have shape (..., {q_shape[-1]}) for {name} of shape {q_shape}, got {x_shape}"
    if x_shape[-1:] == q_shape[-2:-1]:
        text += ": weights (in_features, out_features), multiplied as x @ w, are quantized as w.T"
    raise ValueError(text)
