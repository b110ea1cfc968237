"""The native door: no shape that slips through becomes a read or write out of bounds."""

import numpy as np
import pytest
from strategies import random_quantized

import binq
from binq import _core

INT8 = _core.ACTIVATIONS["int8"]


@pytest.fixture
def matrix() -> _core.PackedMatrix:
    return random_quantized(np.random.default_rng(0), "int4", (40, 100))._data.matrices()[0]


@pytest.mark.parametrize(
    ("x_shape", "out_shape"),
    [((2, 99), (2, 40)), ((2, 101), (2, 40)), ((2, 100), (1, 40)), ((2, 100), (2, 41))],
)
def test_multiply_refuses_other_shapes(matrix, x_shape, out_shape):
    x, out = np.zeros(x_shape, np.float32), np.zeros(out_shape, np.float32)
    with pytest.raises(ValueError, match="x and out must have the shapes of the product"):
        matrix.multiply(x, out, INT8)


@pytest.mark.parametrize("shape", [(39, 100), (40, 99), (100, 40), (0, 0)])
def test_dequantize_and_unpack_refuse_other_shapes(matrix, shape):
    with pytest.raises(ValueError, match=r"the output must have shape \(40, 100\), got"):
        matrix.dequantize(np.zeros(shape, np.float32))
    with pytest.raises(ValueError, match=r"the output must have shape \(40, 100\), got"):
        matrix.unpack(np.zeros(shape, np.int8))


@pytest.mark.parametrize("format", ["binary", "ternary", "int4"])
@pytest.mark.parametrize("part", ["packed", "scales", "zero_points"])
def test_short_buffers_are_refused(format, part):
    symmetric = format == "ternary"
    q = random_quantized(np.random.default_rng(0), format, (40, 100), 32, symmetric)
    kind = q._data.packing
    numbers = kind.kind.spec.number, _core.ZEROS[kind.zero]
    parts = {
        "packed": q.packed.reshape(-1),
        "scales": q.scales.reshape(-1).view(np.uint8),
        "zero_points": None if symmetric else q._data.zeros.reshape(-1).view(np.uint8),
    }
    _core.PackedMatrix(*numbers, *parts.values(), 40, 100, 32, False, False)
    if parts[part] is None:
        return
    parts[part] = parts[part][:-1]
    with pytest.raises(ValueError, match=r"(zero_points|offsets|packed|scales) must have"):
        _core.PackedMatrix(*numbers, *parts.values(), 40, 100, 32, False, False)


@pytest.mark.parametrize(("format", "mode"), [(-1, 0), (99, 0), (0, -1), (0, 3)])
def test_unknown_numbers_of_formats_and_modes_are_refused(format, mode):
    packed, scales = np.zeros(32 * 4, np.uint8), np.zeros(64, np.uint8)
    x, out = np.zeros((1, 32), np.float32), np.zeros((1, 32), np.float32)
    with pytest.raises(ValueError, match="must be one of"):
        _core.PackedMatrix(format, 0, packed, scales, None, 32, 32, 32, False, False).multiply(
            x, out, mode
        )


def test_empty_products():
    for rows, out_features, in_features in ((0, 3, 4), (2, 0, 4), (2, 3, 0)):
        q = binq.quantize(np.zeros((out_features, in_features), np.float32), "int4")
        y = binq.linear(np.ones((rows, in_features), np.float32), q)
        np.testing.assert_array_equal(y, np.zeros((rows, out_features), np.float32))


@pytest.mark.parametrize(
    ("format", "group_size", "nbytes", "message"),
    [
        (99, 32, 1024, "format must be one of"),
        (-1, 32, 1024, "format must be one of"),
        (3, 4, 512, "group_size must be"),
        (4, 32, 511, "packed must have 512 bytes, got 511"),
    ],
)
def test_pack_refuses_what_its_kernels_do_not_know(format, group_size, nbytes, message):
    with pytest.raises(ValueError, match=message):
        _core.pack(format, 0, np.ones((32, 32), np.int8), np.zeros(nbytes, np.uint8), group_size)


@pytest.mark.parametrize("zero", [-1, 1, 3])
def test_kinds_of_zero_that_a_format_has_not_are_refused(zero):
    packed, scales = np.zeros(32 * 4, np.uint8), np.zeros(64, np.uint8)
    with pytest.raises(ValueError, match="zero must be one of the format's kinds"):
        _core.PackedMatrix(0, zero, packed, scales, scales, 32, 32, 32, False, False)


def test_arrays_of_another_kind_are_refused(matrix):
    x, out = np.zeros((2, 100), np.float32), np.zeros((2, 40), np.float32)
    with pytest.raises(ValueError, match="x must have 2 dimensions of 'f', got 2 of 'd'"):
        matrix.multiply(x.astype(np.float64), out, INT8)
    with pytest.raises(ValueError, match="x must have 2 dimensions of 'f', got 1 of 'f'"):
        matrix.multiply(x[0], out, INT8)
    with pytest.raises(ValueError, match="contiguous"):
        matrix.multiply(np.zeros((100, 2), np.float32).T, out, INT8)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        matrix.multiply(x, out, INT8)
    with pytest.raises(TypeError):
        matrix.multiply(None, out, INT8)


def bytes_of(n):
    return np.zeros(n, np.uint8)


def test_a_matrix_does_not_change(matrix):
    """A second try that fails must not leave sizes without their buffers."""
    before = np.empty((40, 100), np.float32)
    matrix.dequantize(before)
    arguments = (0, 0, bytes_of(128), bytes_of(64), None)
    for sizes, error in (((1 << 20, 1 << 10, 32), ValueError), ((32, 32, 32), RuntimeError)):
        with pytest.raises(error, match=r"must have|does not change"):
            matrix.__init__(*arguments, *sizes, False, False)
    after = np.empty((40, 100), np.float32)
    matrix.dequantize(after)
    np.testing.assert_array_equal(after, before)


def test_a_matrix_that_was_never_made_is_empty():
    matrix = _core.PackedMatrix.__new__(_core.PackedMatrix)
    with pytest.raises(ValueError, match="must have"):
        matrix.__init__(0, 0, bytes_of(1), bytes_of(64), None, 32, 32, 32, False, False)
    with pytest.raises(ValueError, match=r"must have shape \(0, 0\)"):
        matrix.dequantize(np.zeros((32, 32), np.float32))


@pytest.mark.parametrize("sizes", [(-1, -32), (-32, 32), (1 << 32, 1 << 35), (1 << 50, 0)])
def test_sizes_that_wrap_around_are_refused(sizes):
    with pytest.raises(ValueError, match=r"negative|more than fit in memory"):
        _core.PackedMatrix(0, 0, bytes_of(0), bytes_of(0), None, *sizes, 32, False, False)


@pytest.mark.parametrize(
    ("method", "input_type", "stride"), [(77, 0, 128), (0, 9, 128), (0, -1, 128), (0, 0, 1 << 60)]
)
def test_quantize_refuses_unknown_numbers(method, input_type, stride):
    with pytest.raises(ValueError, match="must"):
        _core.quantize(
            0, 0, method, bytes_of(256), input_type, stride, 2, 32, 32, False, False,
            bytes_of(128), bytes_of(64), None,
        )  # fmt: skip
