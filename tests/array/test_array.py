"""QuantizedArray: attributes, slicing, numpy's protocols, pickle; the words of every error."""

import copy
import gc
import pickle
import re
import sys
import weakref

import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from strategies import (
    codes_of,
    group_sizes,
    kinds,
    packing_of,
    quantized_arrays,
    random_quantized,
    relay,
    shapes,
)

import binq

RNG_SEED = 20261124


def make(format="int4", shape=(70, 300), group_size=128, symmetric=True, scale_dtype=np.float16):
    rng = np.random.default_rng(RNG_SEED)
    return random_quantized(rng, format, shape, group_size, symmetric, scale_dtype)


def weights_by_the_book(codes, scales, zero, group_size, zero_points=None):
    """Returns w = s * (c - z), or s * c + m, in float32 from logical arrays."""
    in_features = codes.shape[-1]
    group = np.arange(in_features) // (group_size or max(1, in_features))
    scales = scales.astype(np.float32)[..., group]
    if zero == "none":
        return scales * codes.astype(np.float32)
    if zero == "code":
        return scales * (codes.astype(np.int16) - zero_points[..., group].astype(np.int16)).astype(
            np.float32
        )
    midpoints = zero_points.astype(np.float32)[..., group]
    return scales * codes.astype(np.float32) + midpoints


# What it holds.


@settings(max_examples=60, deadline=None)
@given(quantized_arrays())
def test_dequantize_is_scale_times_code(q):
    codes, zero_points = q.codes(), q.group_zero_points()
    zero = q._data.packing.zero
    expected = weights_by_the_book(codes, q.group_scales(), zero, q.group_size, zero_points)
    np.testing.assert_array_equal(q.dequantize(), expected)
    assert q.dequantize().dtype == np.float32
    assert codes.shape == q.shape


@settings(max_examples=60, deadline=None)
@given(kinds(), shapes(lead=2), group_sizes(), st.integers(0, 2**32 - 1), st.booleans())
def test_from_codes_loses_nothing(kind, shape, group_size, seed, wide):
    name, symmetric = kind
    rng = np.random.default_rng(seed)
    codes = rng.choice(np.array(codes_of(name, symmetric)), shape)
    group = group_size or max(1, shape[-1])
    logical = (*shape[:-1], 1 if group_size is None else -(-shape[-1] // group))
    scales = rng.standard_normal(logical).astype(np.float32 if wide else np.float16)
    zero_points = None
    zero = packing_of(name, symmetric).zero
    if zero == "code":
        zero_points = rng.integers(0, codes_of(name, symmetric)[-1] + 1, logical)
    elif zero == "offset":
        zero_points = rng.standard_normal(logical).astype(scales.dtype)
    for array in (codes, scales, zero_points):
        if array is not None:
            array.flags.writeable = False
    zeros = {"zero_points" if zero == "code" or name == "binary" else "offsets": zero_points}
    q = binq.QuantizedArray.from_codes(codes, scales, format=name, group_size=group_size, **zeros)
    assert (q.shape, q.group_size, q.format) == (shape, group_size, name)
    assert (q._data.packing.zero, q.symmetric) == (zero, zero == "none")
    np.testing.assert_array_equal(q.codes(), codes)
    np.testing.assert_array_equal(q.group_scales(), scales)
    if q.symmetric:
        assert q.group_zero_points() is None
    else:
        np.testing.assert_array_equal(q.group_zero_points(), zero_points)


def test_from_codes_takes_lists_and_other_integer_types():
    q = binq.QuantizedArray.from_codes(
        [[1, -1, 0]], [[0.5]], format="ternary", group_size=np.int64(32)
    )
    assert q.group_size == 32
    assert q.dequantize().tolist() == [[0.5, -0.5, 0.0]]


def test_from_codes_keeps_float32_scales_only_where_float16_is_not_exact():
    def scales_of(value):
        codes = np.ones((1, 1), np.uint8)
        return binq.QuantizedArray.from_codes(codes, [[value]], format="int4").scales.dtype

    assert scales_of(0.5) == np.float16
    assert scales_of(np.float64(65504)) == np.float16
    assert scales_of(2.0**-24) == np.float16
    assert scales_of(0.1) == np.float32
    assert scales_of(65520.0) == np.float32
    assert scales_of(2.0**-25) == np.float32


def test_from_codes_gives_midpoints_the_dtype_of_the_scales():
    q = binq.QuantizedArray.from_codes(
        [[1, -1]], [[0.5]], format="binary", zero_points=[[np.float32(0.1)]]
    )
    assert q.scales.dtype == q.zero_points.dtype == np.float32
    floats = np.float32(0.1) + np.array([[0.5, -0.5]], np.float32)
    np.testing.assert_array_equal(q.dequantize(), floats)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"format": "int5"},
            ValueError,
            "format must be one of 'binary', 'ternary', 'int2', 'int3', 'int4'",
        ),
        ({"group_size": 0}, ValueError, "group_size must be 32, 64, 128, 256 or None, got 0"),
        ({"codes": [[0.5]]}, TypeError, "codes must hold integers, got dtype float64"),
        ({"codes": [[8]]}, ValueError, "codes must be from -8 to 7, got 8 at (0, 0)"),
        ({"codes": [1]}, ValueError, "the shape of codes must be (..., out_features, in_features)"),
        (
            {"group_size": "128"},
            TypeError,
            "group_size must be 32, 64, 128, 256 or None, got '128'",
        ),
        (
            {"scales": [[1e-50]]},
            ValueError,
            "scales must be 0 or at least 1.4e-45, float32's smallest, got 1e-50 at (0, 0)",
        ),
        ({"scales": [[1.0, 1.0]]}, ValueError, "scales must have shape (1, 1), got (1, 2)"),
        ({"scales": [[np.nan]]}, ValueError, "scales must be finite, got nan at (0, 0)"),
        ({"zero_points": [[16]]}, ValueError, "zero_points must be from 0 to 15, got 16"),
        ({"zero_points": [[1.0]]}, TypeError, "zero_points must hold integers"),
        ({"zero_points": [1]}, ValueError, "zero_points must have shape (1, 1), got (1,)"),
        (
            {"format": "ternary", "zero_points": [[0.0]]},
            ValueError,
            "symmetric must be True for format 'ternary'",
        ),
        (
            {"format": "binary", "zero_points": [[np.inf]]},
            ValueError,
            "zero_points must be finite, got inf at (0, 0)",
        ),
    ],
)
def test_from_codes_fails(arguments, error, message):
    call = {"codes": [[1]], "scales": [[1.0]], "format": "int4"} | arguments
    with pytest.raises(error, match=re.escape(message)):
        binq.QuantizedArray.from_codes(call.pop("codes"), call.pop("scales"), **call)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16, np.float32, ">f4"])
@pytest.mark.parametrize("shape", [(70, 300), (2, 33, 65), (0, 5), (2, 0, 5), (5, 0)])
def test_dequantize_dtypes_and_out(dtype, shape):
    q = make(shape=shape)
    expected = q.dequantize().astype(dtype)
    result = q.dequantize(dtype)
    assert result.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(result, expected)
    out = np.full(shape, 77, dtype)
    assert q.dequantize(out=out) is out
    np.testing.assert_array_equal(out, expected)
    strided = np.full((*shape[:-1], 2 * shape[-1]), 77, dtype)
    q.dequantize(out=strided[..., ::2])
    np.testing.assert_array_equal(strided[..., ::2], expected)
    assert (strided[..., 1::2] == 77).all()


def test_dequantize_converts_in_blocks(monkeypatch):
    q = make(shape=(150, 40))
    monkeypatch.setattr("binq.array.array._BLOCK", 64 * 40)
    np.testing.assert_array_equal(q.dequantize(np.float64), q.dequantize())


def test_dequantize_fails():
    q = make(shape=(3, 5))
    with pytest.raises(TypeError, match="dtype must be a float dtype, got int64"):
        q.dequantize(np.int64)
    with pytest.raises(TypeError, match="dtype must be a float dtype, got int32"):
        q.dequantize(out=np.empty((3, 5), np.int32))
    with pytest.raises(TypeError, match="out must have dtype float16, got float32"):
        q.dequantize(np.float16, out=np.empty((3, 5), np.float32))
    with pytest.raises(ValueError, match=r"out must have shape \(3, 5\), got \(5, 3\)"):
        q.dequantize(out=np.empty((5, 3), np.float32))


def test_attributes():
    q = make("int4", (70, 300))
    assert q.shape == (70, 300)
    assert (q.ndim, q.size, len(q)) == (2, 21000, 70)
    assert q.dtype == np.float32
    assert (q.format, q.group_size, q.symmetric) == ("int4", 128, True)
    assert q.nbytes == 3 * 384 // 8 * 128 + 3 * 3 * 32 * 2
    assert q.bits_per_weight == 8 * q.nbytes / 21000
    assert q.packed.dtype == np.uint8
    assert q.packed.shape == (3, 48, 32, 4)
    assert q.scales.dtype == np.float16
    assert q.zero_points is None
    assert make("int4", (0, 5)).bits_per_weight == 0.0


@pytest.mark.parametrize(
    ("format", "symmetric", "bits"),
    [
        ("binary", True, 1.125),
        ("binary", False, 1.25),
        ("ternary", True, 2.125),
        ("int4", True, 4.125),
        ("int4", False, 4.15625),
    ],
)
def test_bits_per_weight(format, symmetric, bits):
    assert make(format, (64, 256), 128, symmetric).bits_per_weight == bits


def test_repr_is_one_line():
    assert repr(make()) == (
        "QuantizedArray(int4, shape=(70, 300), group_size=128, 7.241 bits/weight, 18.6 KiB)"
    )
    assert repr(make("binary", (2, 3), None, False)) == (
        "QuantizedArray(binary asymmetric, shape=(2, 3), group_size=None, "
        "853.3 bits/weight, 640 bytes)"
    )
    assert repr(make("ternary", (0, 3)).T).endswith("0 bits/weight, 0 bytes).T")
    assert repr(make("ternary", (1, 0, 3)).mT).endswith(".mT")


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (2**20 - 1, "1024.0 KiB"),
        (2**20, "1.0 MiB"),
        (3 * 2**29, "1.5 GiB"),
        (2**52, "4096.0 TiB"),
    ],
)
def test_readable_bytes(count, text):
    assert binq.array.array._readable_bytes(count) == text


def test_it_is_immutable():
    q = make("int4", symmetric=False)
    for part in (q.packed, q.scales, q._data.zeros):
        with pytest.raises(ValueError, match="read-only"):
            part[...] = 0
    for name in ("shape", "packed", "format", "something"):
        with pytest.raises(AttributeError):
            setattr(q, name, 1)


def test_weak_references():
    q = make()
    alive = weakref.ref(q)
    assert alive() is q
    del q
    gc.collect()
    assert alive() is None


# The constructor.


def stored(q):
    return [q.format, q.shape, q.group_size, q.symmetric, q.packed, q.scales, q.zero_points]


@settings(max_examples=30, deadline=None)
@given(quantized_arrays())
def test_constructor_takes_the_stored_arrays(q):
    offsets = q.offsets if q.zero_points is None else None
    same = binq.QuantizedArray(*stored(q), offsets=offsets)
    assert same == q
    assert np.shares_memory(same.packed, q.packed) or q.packed.size == 0


def test_constructor_leaves_its_arguments_writable():
    q = make()
    packed, scales = q.packed.copy(), q.scales.copy()
    same = binq.QuantizedArray("int4", list(q.shape), 128, np.True_, packed, scales)
    assert packed.flags.writeable
    assert not same.packed.flags.writeable
    assert np.shares_memory(same.packed, packed)


def test_constructor_takes_any_memory_layout():
    q = make(symmetric=False)
    arguments = [relay(a, "fortran") if isinstance(a, np.ndarray) else a for a in stored(q)]
    same = binq.QuantizedArray(*arguments)
    assert same == q
    assert pickle.loads(pickle.dumps(same)) == q
    np.testing.assert_array_equal(same.dequantize(), q.dequantize())
    np.testing.assert_array_equal(same[:32].codes(), q[:32].codes())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"format": "q4_0"}, ValueError, "format must be one of"),
        ({"shape": (70,)}, ValueError, "shape must be (..., out_features, in_features)"),
        ({"shape": (70, -300)}, ValueError, "shape[1] must be from 0 to"),
        ({"shape": (70, 300.0)}, TypeError, "shape[1] must be an integer, got 300.0"),
        ({"shape": (96, 384)}, None, ""),
        (
            {"shape": (97, 300)},
            ValueError,
            "packed must have shape (4, 48, 32, 4), got (3, 48, 32, 4)",
        ),
        ({"shape": (1, 70, 300)}, ValueError, "packed must have shape (1, 3, 48, 32, 4)"),
        ({"group_size": 100}, ValueError, "group_size must be 32, 64, 128, 256 or None, got 100"),
        ({"group_size": 32}, ValueError, "packed must have shape (3, 40, 32, 4)"),
        ({"group_size": None}, ValueError, "scales must have shape (3, 1, 32), got (3, 3, 32)"),
        ({"symmetric": 1}, TypeError, "symmetric must be True or False, got 1"),
        ({"symmetric": False}, TypeError, "zero_points must be a numpy array, got NoneType"),
        (
            {"zero_points": np.zeros((3, 3, 16), np.uint8)},
            ValueError,
            "zero_points must be None where symmetric is True",
        ),
        (
            {"symmetric": False, "zero_points": np.zeros((3, 3, 32), np.uint8)},
            ValueError,
            "zero_points must have shape (3, 3, 16), got (3, 3, 32)",
        ),
        (
            {"symmetric": False, "zero_points": np.zeros((3, 3, 16), np.float16)},
            TypeError,
            "zero_points must have dtype uint8, got float16",
        ),
        ({"packed": [1, 2]}, TypeError, "packed must be a numpy array, got list"),
        (
            {"packed": np.zeros((3, 48, 32, 4), np.int8)},
            TypeError,
            "packed must have dtype uint8, got int8",
        ),
        (
            {"scales": np.zeros((3, 3, 32))},
            TypeError,
            "scales must have dtype float16, float32, bfloat16 or uint8, got float64",
        ),
    ],
)
def test_constructor_checks(change, error, message):
    names = ("format", "shape", "group_size", "symmetric", "packed", "scales", "zero_points")
    arguments = dict(zip(names, stored(make()), strict=True)) | change
    if error is None:
        binq.QuantizedArray(**arguments)
        return
    with pytest.raises(error, match=re.escape(message)):
        binq.QuantizedArray(**arguments)


def test_ternary_cannot_be_asymmetric():
    arguments = stored(make("ternary"))
    arguments[3] = False
    with pytest.raises(ValueError, match="symmetric must be True for format 'ternary'"):
        binq.QuantizedArray(*arguments)


def test_binary_midpoints_have_the_dtype_of_the_scales():
    arguments = stored(make("binary", symmetric=False))
    arguments[6] = arguments[6].astype(np.float32)
    with pytest.raises(TypeError, match="zero_points must have dtype float16, got float32"):
        binq.QuantizedArray(*arguments)


# Copies, comparison, pickle.


def test_copies():
    q = make(symmetric=False)
    assert copy.copy(q) is q
    deep = copy.deepcopy(q)
    assert deep == q
    assert not np.shares_memory(deep.packed, q.packed)
    assert not deep.packed.flags.writeable
    assert copy.deepcopy(make()) == make()


def test_equality():
    q = make()
    assert q == q
    assert q == make()
    assert q != make(symmetric=False)
    assert make(symmetric=False) != q
    assert q != make("ternary")
    assert q != make(shape=(71, 300))
    assert q != make(group_size=64)
    assert q != make(scale_dtype=np.float32)
    assert q != "int4"
    assert (q == None) is False  # noqa: E711
    assert q.T == make().T
    assert q != q.T
    assert q.T != make("ternary").T
    assert binq.QuantizedArray("int4", q.shape, 128, True, q.packed, q.scales * 2) != q
    with pytest.raises(TypeError, match=r"numpy\.equal does not work on packed weights"):
        _ = q == q.dequantize()


def test_nan_scales_equal_themselves():
    q = make()
    scales = np.full_like(q.scales, np.nan)
    first, second = (
        binq.QuantizedArray("int4", q.shape, 128, True, q.packed, scales.copy()) for _ in range(2)
    )
    assert first == second


def test_unhashable():
    with pytest.raises(TypeError, match="unhashable type: 'QuantizedArray'"):
        hash(make())


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@settings(max_examples=10, deadline=None)
@given(quantized_arrays())
def test_pickle(protocol, q):
    again = pickle.loads(pickle.dumps(q, protocol))
    assert again == q
    assert not again.packed.flags.writeable


def test_pickle_out_of_band_copies_nothing():
    q = make("int4", (256, 1024), symmetric=False)
    buffers = []
    data = pickle.dumps(q, protocol=5, buffer_callback=buffers.append)
    assert len(data) < 1000
    assert len(buffers) == 3
    again = pickle.loads(data, buffers=buffers)
    assert again == q
    assert np.shares_memory(again.packed, q.packed)


def test_pickled_after_use():
    q = make()
    x = np.ones(300, np.float32)
    expected = x @ q.T
    np.testing.assert_array_equal(x @ pickle.loads(pickle.dumps(q)).T, expected)


def test_sizeof_counts_the_weights():
    q = make(shape=(256, 256))
    assert sys.getsizeof(q) >= q.nbytes
