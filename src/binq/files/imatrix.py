"""Reads an importance matrix of llama.cpp: the mean square of each input of each weight.

A GGUF file with ``general.type`` ``imatrix`` holds for each weight NAME the sums of squares
``NAME.in_sum2`` ``(matrices, in_features)`` and how many rows went into them, ``NAME.counts``
``(matrices, 1)``; matrices is 1 but for experts (llama.cpp, pull request 9400).
"""

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binq.errors import FormatError
from binq.files.gguf import GgufFile

_SUMS, _COUNTS = ".in_sum2", ".counts"


def read_imatrix(path: str | os.PathLike[str]) -> dict[str, NDArray[np.float32]]:
    """Returns the mean square of each input, float32 ``(matrices, in_features)``, by weight name.

    A matrix that no row reached, as of an expert that was never chosen, has zeros.

    Raises FormatError for a file that is malformed, or is not an imatrix.
    """
    file = GgufFile(path)
    try:
        kind = file.metadata.get("general.type")
        if kind != "imatrix":
            raise FormatError(f"{file.path}: general.type must be 'imatrix', got {kind!r}")
        names = [n.removesuffix(_SUMS) for n in file.tensors if n.endswith(_SUMS)]
        if not names:
            raise FormatError(f"{file.path}: no tensor NAME{_SUMS}")
        return {name: _mean_squares(file, name) for name in names}
    finally:
        file.close()


def _mean_squares(file: GgufFile, name: str) -> NDArray[np.float32]:
    sums = _matrix(file, name + _SUMS)
    counts = _matrix(file, name + _COUNTS)
    if counts.shape != (len(sums), 1):
        raise FormatError(
            f"{file.path}: {name + _COUNTS!r} must have {len(sums)} numbers, got {counts.size}"
        )
    for part, values in ((_SUMS, sums), (_COUNTS, counts)):
        wrong = ~(np.isfinite(values) & (values >= 0))
        if wrong.any():
            raise FormatError(
                f"{file.path}: {name + part!r} must be finite and 0 or more, got {values[wrong][0]}"
            )
    with np.errstate(over="ignore"):
        means: NDArray[np.float32] = np.divide(
            sums, counts, out=np.zeros_like(sums), where=counts > 0
        ).astype(np.float32)
    if not np.isfinite(means).all():
        raise FormatError(f"{file.path}: {name + _SUMS!r}: a mean is more than float32 holds")
    return means


def _matrix(file: GgufFile, name: str) -> NDArray[np.float64]:
    tensor: Any = file.tensors.get(name)
    if tensor is None or tensor.dtype != "F32" or not 1 <= len(tensor.shape) <= 3:
        what = "is missing" if tensor is None else f"is {tensor.dtype} of shape {tensor.shape}"
        raise FormatError(f"{file.path}: {name!r} {what}: float32 numbers are needed")
    values = file.read_bytes(name, 0, tensor.nbytes).view("<f4").reshape(tensor.shape)
    return values.reshape(-1, tensor.shape[-1]).astype(np.float64)
