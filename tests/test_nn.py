"""binq.nn: bit for bit as binq.reference.layers, on every kernel set; near float64; checked."""

import numpy as np
import pytest

import binq
from binq import nn
from binq.reference import layers


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def same(got, expected):
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, expected)


SIZES = [1, 7, 8, 16, 17, 48, 128, 250]


@pytest.mark.parametrize("size", SIZES)
def test_rms_norm(isa, size):
    x, weight = normal(3, 2, size), normal(size, seed=1)
    got = nn.rms_norm(x, weight, 1e-5)
    same(got, layers.rms_norm(x, weight, 1e-5))
    wide = x.astype(np.float64)
    exact = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-5) * weight
    np.testing.assert_allclose(got, exact, rtol=1e-6)


@pytest.mark.parametrize("size", [2, 6, 16, 34, 128])
def test_rope(isa, size):
    x, angles = normal(5, 3, size), normal(5, size // 2, seed=1)
    cos, sin = np.cos(angles), np.sin(angles)
    got = nn.rope(x, cos, sin)
    same(got, layers.rope(x, cos, sin))
    pairs = x[..., : size // 2] + 1j * x[..., size // 2 :]
    turned = pairs.astype(np.complex128) * np.exp(1j * angles.astype(np.float64))[:, None]
    np.testing.assert_allclose(got[..., : size // 2], turned.real, atol=2e-6)
    np.testing.assert_allclose(got[..., size // 2 :], turned.imag, atol=2e-6)


@pytest.mark.parametrize("size", [0, *SIZES, 5000])
def test_silu_mul(isa, size):
    gate, up = normal(2, size) * 20, normal(2, size, seed=1)
    got = nn.silu_mul(gate, up)
    same(got, layers.silu_mul(gate, up))
    wide = gate.astype(np.float64)
    np.testing.assert_allclose(got, wide / (1 + np.exp(-wide)) * up, rtol=1e-6, atol=1e-36)


@pytest.mark.parametrize("size", SIZES)
def test_softmax(isa, size):
    x = normal(4, size) * 10
    x[1, : size // 2] = -np.inf
    got = nn.softmax(x)
    same(got, layers.softmax(x))
    powers = np.exp(x.astype(np.float64) - x.max(-1, keepdims=True))
    np.testing.assert_allclose(got, powers / powers.sum(-1, keepdims=True), rtol=3e-6, atol=1e-30)


def test_exp_is_within_two_units_of_the_last_place(isa):
    """Seen through softmax of pairs: the ratio of its two is e^x, rounded once or twice more."""
    x = np.linspace(-86.9, 0, 40001, dtype=np.float32)
    np.testing.assert_allclose(layers.exp(x), np.exp(x.astype(np.float64)), rtol=2.4e-7)
    pairs = nn.softmax(np.stack([x, np.zeros_like(x)], axis=-1))
    same(pairs, layers.softmax(np.stack([x, np.zeros_like(x)], axis=-1)))


CASES = [
    # heads, kv_heads, size, positions that were there, tokens that come
    (1, 1, 1, 0, 1),
    (2, 1, 8, 3, 1),
    (4, 2, 16, 15, 2),
    (4, 4, 24, 0, 9),
    (6, 2, 40, 30, 7),
    (8, 1, 64, 5, 3),
    (5, 1, 16, 260, 21),
]


@pytest.mark.parametrize("window", [None, 1, 6])
@pytest.mark.parametrize(("heads", "kv_heads", "size", "before", "tokens"), CASES)
def test_attention(isa, heads, kv_heads, size, before, tokens, window):
    length = before + tokens
    q = normal(tokens, heads, size)
    k, v = normal(length, kv_heads, size, seed=1), normal(length, kv_heads, size, seed=2)
    cache = nn.KeyValueCache(kv_heads, size)
    for part in (slice(0, before), slice(before, length)):
        cache.append(k[part], v[part])
    assert len(cache) == length
    got = cache.attention(q, window=window)
    same(got, layers.attention(q, k, v, size**-0.5, window))
    for token in range(tokens):
        end = before + token + 1
        begin = 0 if window is None else max(0, end - window)
        for head in range(heads):
            own = head * kv_heads // heads
            scores = k[begin:end, own].astype(np.float64) @ q[token, head] * size**-0.5
            powers = np.exp(scores - scores.max())
            exact = powers @ v[begin:end, own] / powers.sum()
            np.testing.assert_allclose(got[token, head], exact, atol=3e-6)


def test_neither_threads_nor_batches_change_a_bit(isa, threads):
    """Nor does it matter what else is in the cache: later positions, NaN and infinity among it."""
    q, k, v = normal(40, 8, 64), normal(300, 4, 64, seed=1), normal(300, 4, 64, seed=2)
    cache = nn.KeyValueCache(4, 64)
    cache.append(k, v)
    results = []
    for count in (1, 2, 3):
        binq.set_num_threads(count)
        results.append(cache.attention(q, scale=0.2))
    assert all((r == results[0]).all() for r in results)
    k[280:], v[280:] = np.inf, np.nan
    other = nn.KeyValueCache(4, 64)
    for token in range(300):
        other.append(k[token : token + 1], v[token : token + 1])
        if 260 <= token < 280:
            at = token - 260
            same(other.attention(q[at : at + 1], scale=0.2)[0], results[0][at])
    same(other.attention(q, scale=0.2)[:20], results[0][:20])
    assert np.isnan(other.attention(q, scale=0.2)[20:]).all()
    other.truncate(280)
    same(other.attention(q[:20], scale=0.2), results[0][:20])


def test_many_rows_are_shared_among_threads(isa, threads):
    x, up = normal(700, 512), normal(700, 512, seed=1)
    angles = normal(700, 32)
    heads = x.reshape(700, 8, 64)
    for count in (1, 3):
        binq.set_num_threads(count)
        same(nn.rms_norm(x, up[0]), layers.rms_norm(x, up[0], 1e-6))
        same(nn.silu_mul(x, up), layers.silu_mul(x, up))
        same(nn.softmax(x), layers.softmax(x))
        same(nn.rope(heads, angles, -angles), layers.rope(heads, angles, -angles))


def test_what_is_not_finite(isa):
    x = np.array([[np.nan, 1, 2], [np.inf, 1, 2], [-np.inf, 1, 2]], np.float32)
    assert np.isnan(nn.softmax(x)).tolist() == [[True] * 3, [True] * 3, [False] * 3]
    assert nn.softmax(x)[2, 0] == 0
    assert np.isnan(nn.rms_norm(x, [1, 1, 1])[0]).all()
    gates = nn.silu_mul([np.nan, np.inf, -np.inf, -200], [1, 1, 1, 1])
    assert np.isnan(gates[0])
    assert gates[1] == np.inf
    assert gates[2] == -np.inf  # over e^88, which stands for all greater powers
    assert -1e-35 < gates[3] < 0
    same(nn.rms_norm(np.zeros((1, 4)), np.ones(4)), np.zeros((1, 4), np.float32))


def test_empty():
    assert nn.rms_norm(np.ones((0, 4)), np.ones(4)).shape == (0, 4)
    assert nn.softmax(np.ones((2, 0))).shape == (2, 0)
    assert nn.rope(np.ones((0, 2, 4)), np.ones((0, 2)), np.ones((0, 2))).shape == (0, 2, 4)
    cache = nn.KeyValueCache(2, 8)
    assert cache.attention(np.ones((0, 4, 8))).shape == (0, 4, 8)
    assert repr(cache) == "KeyValueCache(kv_heads=2, size=8, len=0)"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nn.rms_norm(np.ones(4), np.ones(5)), r"weight must have shape \(4,\), got \(5,\)"),
        (lambda: nn.rms_norm(np.ones(4), np.ones(4), -1), "eps must be 0 or more, got -1"),
        (lambda: nn.rms_norm(np.ones(4), np.ones(4), np.nan), "eps must be 0 or more, got nan"),
        (lambda: nn.rope(np.ones((2, 4)), 1, 1), "x must have shape"),
        (lambda: nn.rope(np.ones((2, 1, 3)), 1, 1), "an even size"),
        (
            lambda: nn.rope(np.ones((2, 1, 4)), np.ones((2, 2)), np.ones((2, 4))),
            r"sin must have shape \(2, 2\), got \(2, 4\)",
        ),
        (lambda: nn.silu_mul(np.ones(3), np.ones(4)), r"up must have the shape of gate \(3,\)"),
        (lambda: nn.softmax(1.0), "x must have an axis"),
        (lambda: nn.KeyValueCache(0, 4), "kv_heads must be from 1"),
        (lambda: cache().append(np.ones((1, 2, 4)), np.ones((1, 1, 4))), "v must have shape"),
        (lambda: cache().append(np.ones((1, 2, 4)), np.ones((2, 2, 4))), "v must have 1 tokens"),
        (lambda: cache().attention(np.ones((3, 2, 4))), "q must have at most 2 tokens, got 3"),
        (lambda: cache().attention(np.ones((1, 3, 4))), "a multiple of 2"),
        (lambda: cache().attention(np.ones((1, 2, 4)), window=0), "window must be from 1"),
        (lambda: cache().truncate(3), "length must be from 0 to 2, got 3"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_types():
    with pytest.raises(TypeError, match="x must hold real numbers, got dtype complex128"):
        nn.softmax(np.ones(3) * 1j)
    with pytest.raises(TypeError, match="kv_heads must be an integer"):
        nn.KeyValueCache(1.5, 4)


def cache():
    made = nn.KeyValueCache(2, 4)
    made.append(np.ones((2, 2, 4)), np.ones((2, 2, 4)))
    return made
