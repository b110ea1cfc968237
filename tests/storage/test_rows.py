"""Rows as a file stores them: compiled code makes of them what numpy does, whatever reads them."""

import ml_dtypes
import numpy as np
import pytest

import binq
from binq import _core
from binq.array.packing import Packing
from binq.formats.scales import scale_dtype
from binq.methods.measure import stored_errors, tile_errors
from binq.methods.quantize import METHODS
from binq.storage.base import Exact, pack_exact, pack_stored
from binq.storage.bits import unpack
from binq.storage.rows import (
    StoredRows,
    code_rows,
    float_columns,
    float_rows,
    pack_nibbles,
    scaled_rows,
    values_of,
    word_columns,
)
from binq.storage.small_floats import FLOAT8, float8_values, fp4_values

RNG = np.random.default_rng(0)
FLOATS = (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)
# Rows that fill no tile, no eight; columns that fill no word of a vector, no strip.
SHAPES = [(1, 1), (7, 40), (33, 136), (64, 256), (75, 1100)]


def same(found, expected):
    """Whether bits agree; a NaN is one of any bits."""
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    word = f"u{found.dtype.itemsize}"
    equal = (found.view(word) == expected.view(word)) | (np.isnan(found) & np.isnan(expected))
    return bool(equal.all())


def floats(shape, dtype=np.float32):
    return RNG.standard_normal(shape).astype(dtype)


def scales(rows, columns, group):
    return np.exp2(RNG.uniform(-20, 20, (rows, -(-columns // group)))).astype(np.float32)


def by_group(values, group, columns):
    return np.repeat(values, group, axis=1)[:, :columns]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_floats_and_columns_of_floats(isa, shape, dtype):
    values = floats(shape, dtype)
    assert same(values_of(float_rows(values)), values)
    assert same(values_of(float_columns(np.ascontiguousarray(values.T))), values)
    assert same(values_of(float_columns(np.ascontiguousarray(values.T)), 3), values[::3])


@pytest.mark.parametrize("kind", FLOAT8)
@pytest.mark.parametrize(("shape", "group"), [((3, 256), 256), ((40, 300), 128), ((33, 31), 8)])
def test_float8_of_every_code(isa, kind, shape, group):
    codes = np.resize(np.arange(256, dtype=np.uint8), shape)
    s = scales(*shape, group)
    s[0, 0] = np.inf
    s[1, 0] = 1e-42
    with np.errstate(all="ignore"):
        expected = float8_values(codes, kind) * by_group(s, group, shape[1])
    assert same(values_of(scaled_rows(codes, kind, shape[1], s, group)), expected)


@pytest.mark.parametrize(("rows", "columns", "group"), [(3, 64, 32), (40, 144, 16), (33, 70, 70)])
def test_float4_of_every_code(isa, rows, columns, group):
    codes = RNG.integers(0, 256, (rows, columns // 2), np.uint8)
    s = scales(rows, columns, group)
    s[0, 0], s[1, 0] = np.nan, 1e-44
    expected = fp4_values(codes) * by_group(s, group, columns)
    found = scaled_rows(codes, "F4", columns, s, group)
    assert same(values_of(found), expected)
    assert same(values_of(found, 2), expected[::2])


def whole(codes, zeros, s, group):
    columns = codes.shape[1]
    centred = codes.astype(np.int16)
    if zeros is not None:
        centred = centred - by_group(zeros, group, columns)
    return centred.astype(np.float32) * by_group(s, group, columns)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_whole_codes(isa, shape, zero, signed):
    group = 32
    codes = RNG.integers(0, 256, shape, np.uint8).view(np.int8 if signed else np.uint8)
    s = scales(*shape, group)
    zeros = RNG.integers(0, 256, s.shape, np.int16) if zero else None
    found = code_rows(codes, s, zeros, group)
    assert same(values_of(found), whole(codes, zeros, s, group))
    order = RNG.integers(0, s.shape[1], shape[1])
    at = np.zeros(shape, np.int16) if zeros is None else zeros[:, order]
    mixed = (codes.astype(np.int16) - at).astype(np.float32) * s[:, order]
    assert same(values_of(code_rows(codes, s, zeros, group, order)), mixed)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize(("rows", "columns"), [(1, 32), (33, 160), (75, 4096)])
def test_words_of_columns(isa, bits, rows, columns):
    words = RNG.integers(0, 1 << 32, (columns * bits // 32, rows), np.uint32)
    codes = unpack(np.ascontiguousarray(words.T), bits, columns)
    s = scales(rows, columns, 64)
    zeros = RNG.integers(0, 1 << bits, s.shape, np.int16)
    found = word_columns(words, bits, s, zeros, 64)
    assert same(values_of(found), whole(codes, zeros, s, 64))


@pytest.mark.parametrize(
    ("format", "zero", "low", "high"),
    [
        ("int4", "none", 0, 15),
        ("int4", "code", 0, 15),
        ("int4", "offset", 0, 15),
        ("int3", "none", 4, 11),
        ("int2", "offset", 0, 3),
        ("ternary", "none", 7, 9),
    ],
)
@pytest.mark.parametrize("shape", [(33, 160), (64, 256)])
def test_codes_are_packed_as_numpy_packs_them(isa, format, zero, low, high, shape):
    codes = RNG.integers(low, high + 1, shape, np.uint8)
    s = RNG.uniform(0.5, 1, (shape[0], -(-shape[1] // 32))).astype(np.float16).astype(np.float32)
    exact = Exact(Packing(format, 32, zero), "float16")
    middle = np.full(s.shape, 8, np.int16)
    rows = code_rows(codes, s, middle, 32)
    zeros = None if zero == "none" else middle
    expected = pack_exact(exact, codes - np.uint8(8) if zeros is None else codes, s, zeros)
    found = pack_stored(exact, rows, s, zeros)
    assert found is not None
    assert found.same_as(expected)
    assert np.array_equal(stored_errors(rows, found), tile_errors(values_of(rows), expected))
    codes[-1, -1] = high + 1
    assert pack_stored(exact, code_rows(codes, s, middle, 32), s, zeros) is None


def test_nibbles_are_packed_as_they_are(isa):
    codes = RNG.integers(0, 256, (40, 48), np.uint8)
    rows = scaled_rows(codes, "F4", 96, scales(40, 96, 32), 32)
    packing = Packing("mxfp4", 32)
    nibbles = np.stack((codes & 15, codes >> 4), axis=-1).reshape(40, 96)
    expected = binq.formats.get_format("int4").pack(
        nibbles.view(np.int8), packing.geometry((40, 96)), "code"
    )
    assert np.array_equal(pack_nibbles(packing, rows), expected)


@pytest.mark.parametrize(
    ("format", "method", "zero", "group"),
    [
        ("int4", "absmax", "none", 128),
        ("int4", "absmax", "code", 32),
        ("int4", "absmax", "offset", 64),
        ("int4", "mse", "none", None),
        ("int3", "absmax", "none", 64),
        ("ternary", "absmean", "none", 128),
        ("binary", "absmean", "offset", None),
        ("mxfp4", "absmax", "none", 32),
    ],
)
@pytest.mark.parametrize("threads_", [1, 3])
def test_rows_are_quantized_as_their_floats(isa, threads, threads_, format, method, zero, group):
    _core.set_num_threads(threads_)
    packing = Packing(format, group, zero)
    dtype = scale_dtype(packing.kind.scale_dtype)
    for lying in some_rows():
        values = values_of(lying)
        packed, errors = METHODS[method].quantize_rows(lying, packing, dtype)
        task = binq.methods.Task(values, packing, dtype)
        expected = METHODS[method].quantize(task)
        assert packed.same_as(expected)
        assert np.array_equal(errors, tile_errors(values, expected))


def some_rows():
    codes = RNG.integers(8, 0x70, (75, 1100), np.uint8)
    s = RNG.uniform(0.5, 1, (75, 9)).astype(np.float32)
    yield scaled_rows(codes, "F8_E4M3", 1100, s, 128)
    yield float_columns(floats((300, 70), ml_dtypes.bfloat16))
    yield float_rows(floats((33, 200), np.float64))
    words = RNG.integers(0, 1 << 32, (64, 70), np.uint32)
    yield word_columns(words, 4, s[:70, :4], np.full((70, 4), 7, np.int16), 128)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"kind": 9}, "kind"),
        ({"rows": 0}, "rows"),
        ({"rows": 5}, "5 times 64"),
        ({"stride": 63}, "64 bytes, 63 apart"),
        ({"stride": 65}, "65 apart"),
        ({"columns": 2**61}, "rows and columns"),
        ({"bits": 3}, "bits"),
        ({"group": 0}, "group"),
        ({"group": 16}, "scales"),
        ({"kind": 8, "rows": 4, "columns": 33, "bits": 4}, "whole words"),
        ({"kind": 6, "columns": 33}, "whole bytes"),
        ({"order": np.full(64, 2, np.int32)}, "2 groups, got 2"),
        ({"order": np.full(64, -1, np.int32)}, "2 groups, got -1"),
        ({"zeros": np.zeros((4, 3), np.int16)}, "zeros"),
    ],
)
def test_sizes_that_do_not_agree_are_refused(change, text):
    given = {
        "kind": _core.STORED_KINDS["codes"],
        "data": np.zeros(256, np.uint8),
        "stride": 64,
        "rows": 4,
        "columns": 64,
        "input_type": 0,
        "scales": np.zeros((4, 2), np.float32),
        "zeros": None,
        "order": None,
        "group": 32,
        "bits": 8,
        "is_signed": False,
    }
    StoredRows(*given.values())
    with pytest.raises(ValueError, match=text):
        StoredRows(*(given | change).values())
