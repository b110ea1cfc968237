"""One weight of a checkpoint as a quantizer sees it, whatever the file stores."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binq.array import QuantizedArray
from binq.array.packed import Packed
from binq.files.checkpoint import Checkpoint
from binq.storage.base import SCAN_BYTES, Exact, Storage, row_blocks, to_float32
from binq.storage.plain import Flattened, Plain
from binq.storage.rows import StoredRows

# Matrices of a stack have more inputs than this: fewer are the width of a convolution.
FEWEST_INPUTS = 32


@dataclass(frozen=True)
class LogicalTensor:
    """One weight (or other tensor) of a checkpoint.

    - name: its name in the output
    - storage: where and how it is stored
    - role: ``"linear"``, ``"expert"``, ``"embedding"``, ``"head"``, ``"router"``, ``"norm"``,
      ``"conv"``, ``"vision"``, ``"audio"``, ``"mtp"``, ``"bias"``, ``"gate"`` or ``"other"``
    - quantize: whether the family's policy quantizes it
    - reason: why it is kept as it is, where it is
    """

    name: str
    storage: Storage
    role: str = "other"
    quantize: bool = False
    reason: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """Returns the logical shape ``(..., out_features, in_features)``."""
        return self.storage.shape

    @property
    def dtype(self) -> str:
        """Returns the type of the stored weights."""
        return self.storage.dtype

    @property
    def scheme(self) -> str:
        """Returns the name of the storage scheme, such as ``"plain"`` or ``"fp8"``."""
        return self.storage.scheme

    @property
    def stored(self) -> tuple[str, ...]:
        """Returns the names of the stored tensors that the weight is made of."""
        return self.storage.stored

    @property
    def copyable(self) -> bool:
        """Returns whether keeping it means copying ``stored``; if not, values are written."""
        return self.storage.copyable

    @property
    def copies(self) -> dict[str, str]:
        """Returns the name of each stored tensor and the name that its copy has."""
        if len(self.stored) == 1:
            return {self.stored[0]: self.name}
        return {name: name for name in self.stored}

    @property
    def has_floats(self) -> bool:
        """Returns whether the stored elements are the weights, in whatever order of axes."""
        return isinstance(self.storage, Plain)

    def as_matrices(self) -> "LogicalTensor":
        """Returns a convolution ``(out, in, k, ...)`` as a matrix ``(out, in * k * ...)``.

        What has matrices already is itself.
        """
        small = len(self.shape) == 3 and (self.role == "conv" or self.shape[-1] < FEWEST_INPUTS)
        if self.scheme != Plain.scheme or not (small or len(self.shape) > 3):
            return self
        storage = Flattened(self.storage.stored[0], self.shape, self.dtype)
        return replace(self, storage=storage)

    @property
    def matrices(self) -> int:
        """Returns how many matrices the leading axes hold (1 for a plain matrix)."""
        return prod(self.shape[:-2])

    @property
    def size(self) -> int:
        """Returns the number of weights."""
        return prod(self.shape)

    def read_rows(
        self, source: Checkpoint, matrix: int, start: int, stop: int
    ) -> NDArray[np.float32]:
        """Returns rows ``[start, stop)`` of one matrix of the stack, float32 (rows, in_features).

        Memory is a few times that of the result. Raises FormatError for damaged files.
        """
        return to_float32(self.read_values(source, matrix, start, stop))

    def read_values(self, source: Checkpoint, matrix: int, start: int, stop: int) -> NDArray[Any]:
        """Returns the same values in the float dtype in which they are cheapest to read."""
        rows = self.shape[-2]
        if not 0 <= start <= stop <= rows:
            raise IndexError(f"{self.name}: rows {start} to {stop} are not within {rows} rows")
        if not 0 <= matrix < self.matrices:
            raise IndexError(f"{self.name}: no matrix {matrix} in a stack of {self.matrices}")
        if start == stop:
            return np.zeros((0, self.shape[-1]), np.float32)
        # Scales that are inf or NaN give such weights, which a quantizer refuses by name.
        with np.errstate(all="ignore"):
            return self.storage.read_values(source, matrix, start, stop)

    def read_stored(
        self, source: Checkpoint, matrix: int, start: int, stop: int
    ) -> StoredRows | None:
        """Returns the same rows as they lie in the file, None where only numpy can read them."""
        with np.errstate(all="ignore"):
            return self.storage.read_stored(source, matrix, start, stop)

    def read(self, source: Checkpoint) -> NDArray[np.float32]:
        """Returns the whole tensor as float32 in its logical shape."""
        if len(self.shape) < 2 or self.size == 0 or self.storage.whole:
            return to_float32(self.storage.read_whole(source)).reshape(self.shape)
        out = np.empty((self.matrices, *self.shape[-2:]), np.float32)
        for matrix in range(self.matrices):
            for start, stop in self.blocks(SCAN_BYTES):
                out[matrix, start:stop] = self.read_values(source, matrix, start, stop)
        return out.reshape(self.shape)

    def read_all(self, source: Checkpoint, budget: int) -> Iterator[NDArray[Any]]:
        """Yields all values in order, as they are stored, in blocks of about ``budget`` bytes."""
        if len(self.shape) < 2 or self.size == 0 or self.storage.whole:
            yield self.storage.read_whole(source).reshape(self.shape)
            return
        for matrix in range(self.matrices):
            for start, stop in self.blocks(budget):
                yield self.read_values(source, matrix, start, stop)

    def blocks(self, budget: int) -> list[tuple[int, int]]:
        """Returns the blocks of rows (start, stop) to read one matrix in ``budget`` bytes."""
        return row_blocks(self.storage, budget)

    def exact_format(self, source: Checkpoint) -> Exact | None:
        """Returns the packed format that holds the weights without any loss, or None.

        Looks at the stored values, in bounded memory: a float tensor with two values a group is
        a binary one.
        """
        with np.errstate(all="ignore"):
            return source.once(self.storage, lambda: self.storage.exact_format(source))

    def near_format(self, source: Checkpoint) -> Exact | None:
        """Returns the packed format that holds the codes, but rounds their scales, or None."""
        with np.errstate(all="ignore"):
            return self.storage.near_format(source)

    def exact_rows(
        self, source: Checkpoint, exact: Exact, matrix: int, start: int, stop: int
    ) -> QuantizedArray:
        """Returns rows ``[start, stop)`` of one matrix without loss, in the format of ``exact``."""
        with np.errstate(all="ignore"):
            packed = self.storage.exact_rows(source, exact, matrix, start, stop)
        return QuantizedArray._of(packed)

    def exact_block(
        self, source: Checkpoint, exact: Exact, matrix: int, start: int, stop: int
    ) -> tuple[Packed, NDArray[Any]]:
        """Returns the same rows packed, and their values, which are read once for both."""
        with np.errstate(all="ignore"):
            return self.storage.exact_block(source, exact, matrix, start, stop)

    def exact_stored(
        self, source: Checkpoint, exact: Exact, matrix: int, start: int, stop: int
    ) -> tuple[Packed, StoredRows] | None:
        """Returns the same with the rows as they lie in the file, or None as ``read_stored``."""
        with np.errstate(all="ignore"):
            return self.storage.exact_stored(source, exact, matrix, start, stop)
