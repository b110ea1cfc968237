"""What lies between the products of a transformer, in float32 and in the order of the kernels.

Every operation is one rounding of float32; sums run in sixteen lanes, in the order of the features
or in that of the positions, as said. So the kernels give the same bits on every machine.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

# exp(r) = 1 + r + r^2 * polynomial: Cephes' expf, (c) Stephen L. Moshier.
COEFFICIENTS = tuple(
    np.float32(c)
    for c in (
        1.9875691500e-4,
        1.3981999507e-3,
        8.3334519073e-3,
        4.1665795894e-2,
        1.6666665459e-1,
        5.0000001201e-1,
    )
)
LOWEST, HIGHEST = np.float32(-87), np.float32(88)
# ln(2) in two parts: the first has few bits, so that its product with an integer is exact.
LN2 = np.float32(0.693359375), np.float32(-2.12194440e-4)


def exp(x: Floats) -> Floats:
    """Returns e^x within 2 units of the last place; 0 from -87 down, e^88 from 88 up.

    With n the integer nearest to x / ln(2) and r = x - n ln(2), it is 2^n times a polynomial of r.
    """
    at = np.where(x > LOWEST, x, LOWEST)
    at = np.where(at < HIGHEST, at, HIGHEST)
    rounder = np.float32(1.5 * 2**23)
    n = (at * np.float32(1.44269504) + rounder) - rounder
    r = (at - n * LN2[0]) - n * LN2[1]
    y = np.full_like(r, COEFFICIENTS[0])
    for c in COEFFICIENTS[1:]:
        y = y * r + c
    y = (y * (r * r) + r) + np.float32(1)
    y = y * np.exp2(n.astype(np.float32))
    return np.where(np.isnan(x), x, np.where(x > LOWEST, y, np.float32(0)))


def lane_sum(values: Floats) -> Floats:
    """Returns sums over the last axis: sixteen running sums, added in halves.

    Sum j has elements j, j + 16, j + 32, ...; then sum j + 8 is added to j, j + 4, j + 2, j + 1.
    """
    size = values.shape[-1]
    lanes = np.zeros((*values.shape[:-1], 16), np.float32)
    for start in range(0, size, 16):
        part = values[..., start : start + 16]
        lanes[..., : part.shape[-1]] += part
    for half in (8, 4, 2, 1):
        lanes = lanes[..., :half] + lanes[..., half:]
    result: Floats = lanes[..., 0]
    return result


def rms_norm(x: Floats, weight: Floats, eps: float) -> Floats:
    """Returns ``(x / sqrt(mean(x^2) + eps)) * weight`` over the last axis."""
    mean = lane_sum(x * x) / np.float32(x.shape[-1])
    factor = np.float32(1) / np.sqrt(mean + np.float32(eps))
    y: Floats = (x * factor[..., None]) * weight
    return y


def rope(x: Floats, cos: Floats, sin: Floats) -> Floats:
    """Returns x ``(tokens, heads, size)``: a, b its halves, ``a cos - b sin, b cos + a sin``."""
    a, b = np.split(x, 2, axis=-1)
    cos, sin = cos[:, None], sin[:, None]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def silu_mul(gate: Floats, up: Floats) -> Floats:
    """Returns ``gate / (1 + exp(-gate)) * up``."""
    return (gate / (np.float32(1) + exp(-gate))) * up


def softmax(x: Floats) -> Floats:
    """Returns ``exp(x - max(x))`` over its sum, along the last axis."""
    powers = exp(x - x.max(axis=-1, keepdims=True))
    return powers / lane_sum(powers)[..., None]


def attention(q: Floats, k: Floats, v: Floats, scale: float, window: int | None = None) -> Floats:
    """Returns what each query gathers: values, weighed by the softmax of its scores.

    - q: ``(tokens, heads, size)``, of the last positions; k, v: ``(positions, kv_heads, size)``
    - window: how many positions a query sees, itself the last; None: all up to its own

    ``score[t] = sum_d (q[d] * scale) * k[t, d]`` in the order of d; the result is
    ``sum_t exp(score[t] - max) * v[t]`` in the order of t, over the lanes' sum of those powers.
    """
    tokens, heads, size = q.shape
    out = np.zeros_like(q)
    group = heads // k.shape[1]
    for token in range(tokens):
        end = len(k) - tokens + token + 1
        begin = 0 if window is None else max(0, end - window)
        for head in range(heads):
            keys, values = k[begin:end, head // group], v[begin:end, head // group]
            query = q[token, head] * np.float32(scale)
            scores = np.zeros(end - begin, np.float32)
            for d in range(size):
                scores = scores + query[d] * keys[:, d]
            powers = exp(scores - scores.max())
            total = np.zeros(size, np.float32)
            for power, value in zip(powers, values, strict=True):
                total = total + power * value
            out[token, head] = total / lane_sum(powers)
    return out
