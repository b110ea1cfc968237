"""More than 2^31 weights, outputs and offsets: nothing may count in 32 bits."""

from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

import binq
from binq import _core, reference

GIB = 2**30


def free_memory() -> int:
    """Bytes that a process may still take: of the machine, and of its container."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 0
    limits = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # No such file, or "max".
            limits.append(int(Path("/sys/fs/cgroup", name).read_text()))
    return min(limits, default=0)


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(free_memory() < 14 * GIB, reason="needs 14 GiB of free memory"),
]


@lru_cache(maxsize=1)
def weights(out_features: int, in_features: int, group_size: int) -> binq.QuantizedArray:
    """Random bits and scales, laid out as they are stored: 256 MiB of packed bytes."""
    rng = np.random.default_rng(1)
    tiles = -(-out_features // 32)
    groups = in_features // group_size
    packed = np.frombuffer(rng.bytes(tiles * in_features * 4), np.uint8)
    scales = rng.uniform(0.5, 2, (tiles, groups, 32)).astype(np.float16)
    q = binq.QuantizedArray(
        "binary",
        (out_features, in_features),
        group_size,
        True,
        packed.reshape(tiles, in_features // 8, 32),
        scales,
    )
    assert out_features * in_features > 2**31
    return q


def tiles_near_powers_of_two(tiles: int) -> list[int]:
    edges = [2**i for i in range(tiles.bit_length())]
    return sorted({t for e in [*edges, tiles] for t in (e - 1, e) if t < tiles - 1})


def some_rows(q: binq.QuantizedArray) -> tuple[np.ndarray, dict[str, object]]:
    """Rows across the matrix and the last one, and their weights for the reference."""
    tiles = tiles_near_powers_of_two(q.packed.shape[0])
    rows = (np.array(tiles)[:, None] * 32 + np.arange(32)).reshape(-1)
    return rows, {
        "packed": q.packed[tiles],
        "scales": q.scales[tiles],
        "zero_points": None,
        "format": "binary",
        "shape": (rows.size, q.shape[1]),
        "group_size": q.group_size,
    }


@pytest.mark.parametrize("mode", ["int8", "int16", "float32"])
def test_products_of_many_rows(isa, mode):
    q = weights(2**24 + 1, 128, 128)
    rows, sampled = some_rows(q)
    x = np.random.default_rng(2).standard_normal((1, 128), np.float32)
    y = binq.linear(x, q, activations=mode)
    wanted = reference.matmul(x, **sampled, activations=mode)
    last = binq.linear(x, q[-1:], activations=mode)
    np.testing.assert_allclose(y[:, rows], wanted, rtol=0, atol=1e-4)
    if mode != "float32":
        np.testing.assert_array_equal(y[:, rows], wanted)
    np.testing.assert_array_equal(y[:, -1:], last)


@pytest.mark.parametrize("mode", ["int8", "int16", "float32"])
def test_products_of_long_rows(isa, mode):
    """Groups of x that are zeros add nothing: the rest is a product of the sampled groups."""
    q = weights(32, 2**26 + 128, 128)
    groups = tiles_near_powers_of_two(q.scales.shape[1])
    rng = np.random.default_rng(3)
    x = np.zeros((1, *q.scales.shape[1:2], 128), np.float32)
    x[:, groups] = rng.standard_normal((1, len(groups), 128))
    y = binq.linear(x.reshape(1, -1), q, activations=mode)
    packed = q.packed.reshape(1, -1, 16, 32)[:, groups].reshape(1, -1, 32)
    wanted = reference.matmul(
        x[:, groups].reshape(1, -1),
        packed,
        q.scales[:, groups],
        format="binary",
        shape=(32, 128 * len(groups)),
        group_size=128,
        activations=mode,
    )
    np.testing.assert_allclose(y, wanted, rtol=0, atol=1e-3)
    if mode != "float32":
        np.testing.assert_array_equal(y, wanted)


def test_more_than_two_to_the_31_outputs():
    q = weights(2**26 + 1, 32, 32)
    rows, sampled = some_rows(q)
    x = np.random.default_rng(4).standard_normal((33, 32), np.float32)
    y = binq.linear(x, q, activations="int8")
    assert y.size > 2**31
    wanted = reference.matmul(x, **sampled, activations="int8")
    np.testing.assert_array_equal(y[:, rows], wanted)
    np.testing.assert_array_equal(y[:, -1], binq.linear(x, q[-1:], activations="int8")[:, 0])


def test_dequantize_unpack_and_pack():
    q = weights(2**24 + 1, 128, 128)
    rows, sampled = some_rows(q)
    np.testing.assert_array_equal(q.dequantize()[rows], reference.dequantize(**sampled))
    codes = q.codes()
    assert codes.size > 2**31
    np.testing.assert_array_equal(
        codes[rows], reference.unpack(sampled["packed"], "binary", rows.size, 128, True)
    )
    packed = np.empty(q.packed.size, np.uint8)
    _core.pack(q._data.packing.kind.spec.number, 0, codes, packed, 128)
    tiles = rows[::32] // 32
    np.testing.assert_array_equal(packed.reshape(q.packed.shape)[tiles], q.packed[tiles])


def test_quantize():
    """A matrix of more than 2^31 elements: its last rows come out as they do alone."""
    w = np.zeros((2**24 + 1, 128), np.float16)
    w[-40:] = np.random.default_rng(5).standard_normal((40, 128))
    q = binq.quantize(w, "binary")
    alone = binq.quantize(w[-33:], "binary")
    np.testing.assert_array_equal(q[-33:].dequantize(), alone.dequantize())
    assert not q[: 2**10].dequantize().any()
