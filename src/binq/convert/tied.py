"""Weights that a model uses twice and a checkpoint stores twice."""

from collections.abc import Iterable

import numpy as np

from binq.files.checkpoint import Checkpoint
from binq.models import is_tied
from binq.models.tensor import LogicalTensor

_ROLES = ("embedding", "head")
_PIECE = 1 << 26


def find_copies(source: Checkpoint, tensors: Iterable[LogicalTensor]) -> dict[str, str]:
    """Returns the embeddings and heads with the bytes of an earlier one, and the name of that one.

    Only where the configuration ties them (``tie_word_embeddings``): a loader then needs one.
    """
    copies: dict[str, str] = {}
    if not is_tied(source):
        return copies
    first: list[LogicalTensor] = []
    found = (t for t in tensors if t.role in _ROLES and t.has_floats and len(t.shape) > 1)
    for tensor in sorted(found, key=lambda t: _ROLES.index(t.role)):  # embeddings stay
        twin = next((other for other in first if _same(source, tensor, other)), None)
        if twin is None:
            first.append(tensor)
        else:
            copies[tensor.name] = twin.name
    return copies


def _same(source: Checkpoint, tensor: LogicalTensor, other: LogicalTensor) -> bool:
    names = (tensor.stored[0], other.stored[0])
    if tensor.scheme != other.scheme or (tensor.shape, tensor.dtype) != (other.shape, other.dtype):
        return False
    nbytes = source.info(names[0]).nbytes
    for start in range(0, nbytes, _PIECE):
        stop = min(start + _PIECE, nbytes)
        here, there = (source.read_bytes(name, start, stop) for name in names)
        if not np.array_equal(here, there):
            return False
    return True
