"""Cell: packed weights as modules and operators share them, under the names that files use."""

import warnings
from collections.abc import Sequence
from typing import Any
from weakref import WeakValueDictionary

import ml_dtypes
import numpy as np
import torch
from numpy.typing import NDArray

from binq import _core
from binq.array import QuantizedArray
from binq.array.packed import Packed

# Operators name weights by number: what torch.compile traces cannot hold a QuantizedArray.
_cells: "WeakValueDictionary[int, Cell]" = WeakValueDictionary()


class Cell:
    """One packed weight of a module, or the matrices of its experts as a stack.

    - arrays: one array, or one matrix for each expert, each as a file stores it
    - names: what each is called in the module's state dict, such as ``"weight"``
    - stored_names: the names in the file that the model was loaded from, or None

    Tied modules share one cell, so that both see what load_state_dict brings.
    """

    __slots__ = ("__weakref__", "_matrices", "arrays", "handle", "names", "q", "stored_names")

    def __init__(
        self,
        arrays: Sequence[QuantizedArray],
        names: Sequence[str] = ("weight",),
        stored_names: Sequence[str] | None = None,
    ) -> None:
        self.names = tuple(names)
        self.stored_names = None if stored_names is None else tuple(stored_names)
        self.replace(arrays)
        self.handle = id(self)
        _cells[self.handle] = self

    def replace(self, arrays: Sequence[QuantizedArray]) -> None:
        """Sets the arrays: those of the same names, packed and shaped as they were."""
        self.arrays = tuple(arrays)
        self.q: Packed = self.arrays[0]._data
        self._matrices: tuple[_core.PackedMatrix, ...] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Cell, (self.arrays, self.names, self.stored_names)

    @property
    def shape(self) -> tuple[int, ...]:
        """Returns the shape of the weight, ``(experts, out_features, in_features)`` for a stack."""
        shape = self.q.shape
        return shape if len(self.arrays) == 1 else (len(self.arrays), *shape)

    @property
    def matrices(self) -> tuple[_core.PackedMatrix, ...]:
        """Returns the native matrices of all experts: views, whether stacked or one by one."""
        if self._matrices is None:
            self._matrices = tuple(m for array in self.arrays for m in array._data.matrices())
        return self._matrices

    @property
    def label(self) -> str:
        """Returns how the weights are packed, such as ``"int4 g128"``."""
        return str(self.q.packing)

    def matrix(self, expert: int) -> QuantizedArray:
        """Returns the matrix of one expert."""
        return self.arrays[expert] if len(self.arrays) > 1 else self.arrays[0][expert]

    def dequantize(self) -> NDArray[np.float32]:
        """Returns the weights as floats of the shape of the weight."""
        if len(self.arrays) == 1:
            return self.arrays[0].dequantize()
        return np.stack([array.dequantize() for array in self.arrays])

    def tensors(self) -> dict[str, torch.Tensor]:
        """Returns the stored arrays by name, ``weight.packed`` for one, sharing memory."""
        return {
            f"{name}.{part}": as_tensor(stored)
            for name, array in zip(self.names, self.arrays, strict=True)
            for part, stored in zip(
                array._data.packing.part_names(), array._data.parts, strict=True
            )
        }

    def load(self, tensors: dict[str, torch.Tensor], *, copy: bool) -> None:
        """Takes the arrays from tensors with the names of :meth:`tensors`.

        Raises KeyError for a missing name, TypeError and ValueError for what does not fit.
        """
        arrays = []
        for name, array in zip(self.names, self.arrays, strict=True):
            data = array._data
            parts = [as_array(tensors[f"{name}.{part}"]) for part in data.packing.part_names()]
            if copy:
                parts = [part.copy() for part in parts]
            arrays.append(QuantizedArray._of(Packed.checked(data.packing, data.shape, *parts)))
        self.replace(arrays)


def cell_of(handle: int) -> Cell:
    """Returns the cell of a number that an operator was given."""
    return _cells[handle]


def as_tensor(array: NDArray[Any]) -> torch.Tensor:
    """Returns a tensor that shares the memory of a read-only array: it is not to be written to."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return as_torch(array)


def as_array(tensor: torch.Tensor) -> NDArray[Any]:
    """Returns an array that shares the memory of a tensor."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype is torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return np.asarray(tensor.numpy())


def as_torch(array: NDArray[Any]) -> torch.Tensor:
    """Returns a tensor that shares the memory of an array of any type that files have."""
    kinds = {"bfloat16": torch.bfloat16, "float8_e4m3fn": torch.float8_e4m3fn}
    kinds |= {"float8_e5m2": torch.float8_e5m2}
    kind = kinds.get(array.dtype.name)
    if kind is None:
        return torch.from_numpy(array)
    return torch.from_numpy(array.view(f"u{array.dtype.itemsize}")).view(kind)
