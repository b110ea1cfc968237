"""MatMulNBits: codes, scales and zero points read again by the operator's description."""

import numpy as np
import pytest

import binq
from binq.storage import compressed_writer, get
from binq.storage.onnx_writer import matmul_nbits


def read(made):
    """Returns the weights, by the description of the operator."""
    codes = fields(made.codes.reshape(made.rows, -1), made.bits)
    blocks = made.codes.shape[1]
    if made.zero_points is None:
        zeros = np.full((made.rows, blocks), 1 << (made.bits - 1))
    else:
        zeros = fields(made.zero_points, made.bits)[:, :blocks]
    wide = [np.repeat(a, made.block_size, axis=1)[:, : made.columns] for a in (zeros, made.scales)]
    return wide[1] * (codes[:, : made.columns].astype(np.float32) - wide[0].astype(np.float32))


def fields(data, bits):
    shifts = np.arange(0, 8, bits)
    return ((data[..., None] >> shifts) & ((1 << bits) - 1)).reshape(len(data), -1)


@pytest.mark.parametrize("columns", [20, 64, 100, 300])
@pytest.mark.parametrize("group_size", [32, 64, 128, 256, None])
@pytest.mark.parametrize(
    ("format", "symmetric", "bits"),
    [
        ("binary", True, 2),
        ("ternary", True, 2),
        ("int2", True, 2),
        ("int2", False, 2),
        ("int3", True, 4),
        ("int3", False, 4),
        ("int4", True, 4),
        ("int4", False, 4),
        ("int8", True, 8),
        ("int8", False, 8),
    ],
)
def test_weights_are_the_same(format, symmetric, bits, group_size, columns):
    w = np.random.default_rng(0).standard_normal((9, columns))
    zero = None if symmetric else "code"
    q = binq.quantize(w, format, group_size=group_size, symmetric=symmetric, zero=zero)
    made = matmul_nbits(q)
    assert made.bits == bits
    assert made.block_size in (32, 64, 128, 256)
    assert (made.zero_points is None) == symmetric
    assert np.array_equal(read(made), q.dequantize())


def test_many_blocks_of_rows(monkeypatch):
    q = binq.quantize(np.random.default_rng(0).standard_normal((70, 96)), "int4", symmetric=False)
    whole = matmul_nbits(q)
    monkeypatch.setattr("binq.storage.coded_rows._BLOCK", 1)
    parts = matmul_nbits(q)
    assert np.array_equal(whole.codes, parts.codes)
    assert np.array_equal(whole.scales, parts.scales)
    assert np.array_equal(whole.zero_points, parts.zero_points)


def test_zero_points_that_are_no_codes_are_refused():
    q = binq.quantize(np.eye(64), "int3", symmetric=False, zero="code", group_size=32)
    zeros = q.zero_points.copy()
    zeros[0, 0, 3] = 9
    q = binq.QuantizedArray("int3", q.shape, 32, False, q.packed, q.scales, zeros)
    matmul_nbits(q)  # 4 bits there
    with pytest.raises(binq.UnsupportedFormatError, match="a zero point is 9, which is no code of"):
        compressed_writer.write("a.weight", q)
    with pytest.raises(binq.UnsupportedFormatError, match="a zero point is 9, which is no code of"):
        get("gptq").fitted({"a.weight": q}).write("a.weight", q)


@pytest.mark.parametrize(
    ("shape", "settings", "reason"),
    [
        ((2, 8, 32), {}, "a stack of matrices"),
        ((0, 32), {}, "no weights at all"),
        ((8, 32), {"symmetric": False, "zero": "offset"}, "an offset a group"),
    ],
)
def test_what_is_refused(shape, settings, reason):
    q = binq.quantize(np.ones(shape, np.float32), "int4", group_size=32, **settings)
    with pytest.raises(binq.UnsupportedFormatError, match=reason):
        matmul_nbits(q)
