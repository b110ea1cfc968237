"""What lies between the products of a transformer, compiled: norms, rotations, gates, attention.

Everything is float32. The same input gives the same bits on every machine, for any number of
threads and of rows; ``binq.reference.layers`` is the definition. numpy does all of this too, in
many small calls: for one token at a time they take as long as the products.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from binq import _core
from binq.array.checks import as_float32, check_int

__all__ = ["KeyValueCache", "rms_norm", "rope", "silu_mul", "softmax"]

Floats = NDArray[np.float32]
_FLOAT32 = np.dtype(np.float32)
_BLOCK = 16  # positions that lie side by side


def rms_norm(x: ArrayLike, weight: ArrayLike, eps: float = 1e-6) -> Floats:
    """Returns ``x / sqrt(mean(x^2) + eps) * weight``, the mean over the last axis.

    - x: ``(..., size)``
    - weight: ``(size,)``
    - eps: what keeps a row of zeros finite, 0 or more

    Source: Zhang and Sennrich, Root Mean Square Layer Normalization (2019).
    Raises TypeError for dtypes, ValueError for shapes.

    >>> import binq
    >>> binq.nn.rms_norm([[3.0, -3.0]], [1.0, 2.0], eps=0.0)
    array([[ 1., -2.]], dtype=float32)
    """
    x, weight = as_float32("x", x), as_float32("weight", weight)
    if weight.shape != x.shape[-1:] or not x.ndim:
        raise ValueError(f"weight must have shape {x.shape[-1:]}, got {weight.shape}")
    if not eps >= 0:
        raise ValueError(f"eps must be 0 or more, got {eps!r}")
    out = np.empty(x.shape, _FLOAT32)
    if x.size:
        size = x.shape[-1]
        _core.rms_norm(x.reshape(-1, size), weight, eps, out.reshape(-1, size))
    return out


def rope(x: ArrayLike, cos: ArrayLike, sin: ArrayLike) -> Floats:
    """Returns x rotated by its positions: rotary embedding, the halves of a head as pairs.

    With a, b the halves of the last axis, ``a cos - b sin`` and ``b cos + a sin``.

    - x: ``(tokens, heads, size)``, size even
    - cos, sin: ``(tokens, size / 2)``, of position times frequency

    Source: Su et al., RoFormer (2021), in the order of GPT-NeoX, which Hugging Face's models have.
    Raises TypeError for dtypes, ValueError for shapes.

    >>> import binq
    >>> binq.nn.rope([[[1.0, 2.0]]], cos=[[0.0]], sin=[[1.0]])
    array([[[-2.,  1.]]], dtype=float32)
    """
    x, cos, sin = as_float32("x", x), as_float32("cos", cos), as_float32("sin", sin)
    if x.ndim != 3 or x.shape[2] % 2:
        raise ValueError(f"x must have shape (tokens, heads, an even size), got {x.shape}")
    angles = (x.shape[0], x.shape[2] // 2)
    for name, given in (("cos", cos), ("sin", sin)):
        if given.shape != angles:
            raise ValueError(f"{name} must have shape {angles}, got {given.shape}")
    out = np.empty(x.shape, _FLOAT32)
    _core.rope(x, cos, sin, out)
    return out


def silu_mul(gate: ArrayLike, up: ArrayLike) -> Floats:
    """Returns ``gate * sigmoid(gate) * up``: the gate of SwiGLU.

    - gate, up: of one shape

    Source: Shazeer, GLU Variants Improve Transformer (2020).
    Raises TypeError for dtypes, ValueError for shapes that differ.

    >>> import binq
    >>> binq.nn.silu_mul([0.0, 30.0], [5.0, 2.0])
    array([ 0., 60.], dtype=float32)
    """
    gate, up = as_float32("gate", gate), as_float32("up", up)
    if gate.shape != up.shape:
        raise ValueError(f"up must have the shape of gate {gate.shape}, got {up.shape}")
    out = np.empty(gate.shape, _FLOAT32)
    _core.silu_mul(gate.reshape(-1), up.reshape(-1), out.reshape(-1))
    return out


def softmax(x: ArrayLike) -> Floats:
    """Returns ``exp(x - max(x))`` over its sum, along the last axis.

    - x: ``(..., size)``; -inf gives 0

    Raises TypeError for dtypes, ValueError for a scalar.

    >>> import binq
    >>> binq.nn.softmax([1.0, 1.0])
    array([0.5, 0.5], dtype=float32)
    """
    x = as_float32("x", x)
    if not x.ndim:
        raise ValueError("x must have an axis, got a scalar")
    out = np.empty(x.shape, _FLOAT32)
    if x.size:
        _core.softmax(x.reshape(-1, x.shape[-1]), out.reshape(-1, x.shape[-1]))
    return out


class KeyValueCache:
    """The keys and values of the positions of one sequence, in one layer; grows as it must.

    - kv_heads: heads of keys and values; the heads of queries are a multiple
    - size: numbers of a head
    - len(cache): positions so far

    >>> import numpy as np, binq
    >>> cache = binq.nn.KeyValueCache(kv_heads=1, size=2)
    >>> cache.append(k=np.zeros((2, 1, 2)), v=[[[1.0, 5.0]], [[3.0, 7.0]]])
    >>> cache.attention(q=np.zeros((2, 1, 2)))  # the first sees itself, the second both
    array([[[1., 5.]],
    <BLANKLINE>
           [[2., 6.]]], dtype=float32)
    """

    def __init__(self, kv_heads: int, size: int) -> None:
        self._heads = check_int("kv_heads", kv_heads, 1)
        self._size = check_int("size", size, 1, 1 << 20)
        self._length = 0
        self._allocate(0)

    def __len__(self) -> int:
        return self._length

    def __repr__(self) -> str:
        return f"KeyValueCache(kv_heads={self._heads}, size={self._size}, len={self._length})"

    @property
    def nbytes(self) -> int:
        """Returns the bytes that keys and values take."""
        return int(self._keys.nbytes + self._values.nbytes)

    def append(self, k: ArrayLike, v: ArrayLike) -> None:
        """Adds keys and values ``(tokens, kv_heads, size)`` of the positions that follow.

        Raises TypeError for dtypes, ValueError for shapes.
        """
        k, v = as_float32("k", k), as_float32("v", v)
        for name, given in (("k", k), ("v", v)):
            if given.ndim != 3 or given.shape[1:] != (self._heads, self._size):
                raise ValueError(
                    f"{name} must have shape (tokens, {self._heads}, {self._size}), "
                    f"got {given.shape}"
                )
        if len(v) != len(k):
            raise ValueError(f"v must have {len(k)} tokens as k has, got {len(v)}")
        with self._room(len(k)) as (keys, values, start):
            _core.store_keys(k, v, keys, values, start)

    @contextmanager
    def _room(self, tokens: int) -> Iterator[tuple[Floats, Floats, int]]:
        """Gives the arrays of keys and values and where to write positions that follow.

        They count once they are written: an error in between leaves the cache as it was.
        """
        start = self._length
        if start + tokens > self._values.shape[1]:
            self._grow(start + tokens)
        yield self._keys, self._values, start
        self._length = start + tokens

    def attention(
        self, q: ArrayLike, scale: float | None = None, window: int | None = None
    ) -> Floats:
        """Returns ``softmax(q k^T * scale) v`` of the last positions, each seeing those before it.

        - q: ``(tokens, heads, size)``, of the last ``tokens`` positions; head h attends to the
          keys of head ``h // (heads / kv_heads)``
        - scale: of the scores; None: ``size ** -0.5``
        - window: how many positions each sees, itself the last; None: all

        Source: Vaswani et al., Attention Is All You Need (2017); Ainslie et al., GQA (2023).
        Raises TypeError for dtypes, ValueError for shapes and for more tokens than positions.
        """
        q = as_float32("q", q)
        if q.ndim != 3 or q.shape[2] != self._size or q.shape[1] % self._heads:
            raise ValueError(
                f"q must have shape (tokens, a multiple of {self._heads}, {self._size}), "
                f"got {q.shape}"
            )
        if len(q) > self._length:
            raise ValueError(f"q must have at most {self._length} tokens, got {len(q)}")
        seen = 0 if window is None else check_int("window", window, 1)
        y = np.empty(q.shape, _FLOAT32)
        factor = self._size**-0.5 if scale is None else scale
        _core.attention(q, self._keys, self._values, self._length, seen, factor, y)
        return y

    def truncate(self, length: int) -> None:
        """Forgets the positions from ``length`` on. Raises ValueError beyond those there are."""
        self._length = check_int("length", length, 0, self._length)

    def _allocate(self, capacity: int) -> None:
        width = -(-self._size // _BLOCK) * _BLOCK
        blocks = -(-capacity // _BLOCK)
        self._keys: Any = np.zeros((self._heads, blocks, self._size, _BLOCK), _FLOAT32)
        self._values: Any = np.zeros((self._heads, blocks * _BLOCK, width), _FLOAT32)

    def _grow(self, length: int) -> None:
        """Makes room for ``length`` positions, or for twice those that had room: amortised."""
        keys, values = self._keys, self._values
        self._allocate(max(length, 2 * values.shape[1], 256))
        self._keys[:, : keys.shape[1]] = keys
        self._values[:, : values.shape[1]] = values
