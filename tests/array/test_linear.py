"""Products: numpy's rules for shapes, every kind of x, out and bias; the words of every error."""

import re
import threading
from concurrent.futures import ThreadPoolExecutor

import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from strategies import (
    FLOAT_DTYPES,
    activations,
    quantized_arrays,
    random_quantized,
    relay,
    shapes,
    sizes,
)

import binq

# Largest error of y relative to |x| @ |w|.T, which bounds the rounding of every term.
MODES = {"float32": 1e-6, "int16": 3e-4, "int8": 2e-2}


def make(shape=(70, 300), format="int4", **arguments):
    return random_quantized(np.random.default_rng(7), format, shape, **arguments)


def normal(*shape, dtype=np.float32):
    x = np.random.default_rng(8).standard_normal(shape).astype(dtype)
    x.flags.writeable = False
    return x


def assert_product(y, x, w, mode="int16", bias=None):
    """Checks y = x @ w.mT + bias, within what the mode promises."""
    x, w = np.asarray(x).astype(np.float64), w.astype(np.float64).mT
    expected, magnitude = np.matmul(x, w), np.matmul(np.abs(x), np.abs(w))
    # An activation of the integer modes is off by up to half a step of the largest of its group.
    largest = np.max(np.abs(x), axis=-1, keepdims=True, initial=0)
    magnitude = magnitude + np.matmul(np.broadcast_to(largest, x.shape), np.abs(w))
    if bias is not None:
        expected = expected + bias
        magnitude = magnitude + np.abs(bias)
    assert y.dtype == np.float32
    assert y.shape == expected.shape
    assert (np.abs(y - expected) <= MODES[mode] * magnitude + 1e-30).all()


@settings(max_examples=60, deadline=None)
@given(
    quantized_arrays(shapes(0, 150)),
    st.lists(st.integers(0, 4), max_size=2),
    st.sampled_from(sorted(MODES)),
    st.data(),
)
def test_linear(q, lead, mode, data):
    x = data.draw(activations((*lead, q.shape[1]), FLOAT_DTYPES))
    bias = data.draw(st.none() | activations((q.shape[0],), FLOAT_DTYPES))
    y = binq.linear(x, q, bias, activations=mode)
    assert y.flags.c_contiguous
    assert y.flags.writeable
    floats = None if bias is None else bias.astype(np.float64)
    assert_product(y, x, q.dequantize(), mode, floats)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(sorted(MODES)))
def test_stacks_broadcast_like_matmul(data, mode):
    """Leading axes of x and of the weights broadcast, each with sizes 1 and missing axes."""
    batch = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=3))

    def part_of(batch):
        kept = batch[data.draw(st.integers(0, len(batch))) :]
        return tuple(data.draw(st.sampled_from((1, size))) for size in kept)

    rows, out_features, in_features = (data.draw(sizes(0, 70)) for _ in range(3))
    q = make((*part_of(batch), out_features, in_features), "ternary")
    x = normal(*part_of(batch), rows, in_features)
    assert_product(binq.linear(x, q, activations=mode), x, q.dequantize(), mode)


def test_one_vector_meets_every_matrix_of_a_stack():
    q = make((2, 3, 33, 64))
    assert_product(normal(64) @ q.mT, normal(64), q.dequantize())
    assert (normal(64) @ q.mT).shape == (2, 3, 33)


def test_a_stack_is_the_stack_of_its_products():
    q, x = make((3, 33, 64)), normal(3, 5, 64)
    y = x @ q.mT
    for expert in range(3):
        np.testing.assert_array_equal(y[expert], x[expert] @ q[expert].T)


def test_a_row_alone_is_the_row_of_the_batch():
    q, x = make(), normal(9, 300)
    np.testing.assert_array_equal(np.stack([row @ q.T for row in x]), x @ q.T)


# All the spellings.


def test_spellings_agree():
    q, x = make(), normal(5, 300)
    y = binq.linear(x, q)
    for other in (
        x @ q.T,
        x @ q.mT,
        np.matmul(x, q.T),
        np.dot(x, q.T),
        binq.matmul(x, q.T),
        x.tolist() @ q.T,
        (q @ x.T).T,
        np.matmul(q, x.T).T,
        np.dot(q, x.T).T,
        np.array([q @ row for row in x]),
        np.array([np.dot(q, row) for row in x]),
        np.array([binq.matmul(q, row) for row in x]),
    ):
        np.testing.assert_array_equal(other, y)
        assert other.dtype == np.float32


def test_matmul_takes_a_mode_and_out():
    q, x = make(), normal(5, 300)
    out = np.empty((5, 70), np.float32)
    assert binq.matmul(x, q.T, activations="int8", out=out) is out
    np.testing.assert_array_equal(out, binq.linear(x, q, activations="int8"))
    assert (binq.matmul(x, q.T) != out).any()
    column = np.empty((70, 5), np.float32)
    assert binq.matmul(q, x.T, activations="int8", out=column) is column
    np.testing.assert_array_equal(column, out.T)
    vector = np.empty(70, np.float32)
    assert np.matmul(q, x[0], out=vector) is vector
    np.testing.assert_array_equal(vector, (x @ q.T)[0])


def test_weights_on_the_left_of_a_stack():
    q, x = make((3, 33, 64)), normal(3, 64, 5)
    y = q @ x
    assert y.shape == (3, 33, 5)
    np.testing.assert_array_equal(y, (x.mT @ q.mT).mT)


def test_matmul_into_its_own_operand():
    q = make((64, 64))
    x = np.array(normal(5, 64))
    expected = x @ q.T
    x @= q.T
    np.testing.assert_array_equal(x, expected)


def test_weights_that_look_like_nothing_else():
    with pytest.raises(TypeError, match="matmul needs a QuantizedArray or its transpose, got list"):
        binq.matmul([1.0], np.ones(1))
    with pytest.raises(TypeError, match=r"q must be a QuantizedArray, got ndarray$"):
        binq.linear([1.0], np.ones((1, 1)))
    with pytest.raises(TypeError, match=r"q must be a QuantizedArray, got Transposed: pass q, not"):
        binq.linear([1.0], make().T)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda q, x: x @ q, TypeError, "x @ q sums over the rows of q, of shape (70, 300)"),
        (lambda q, x: np.dot(x, q), TypeError, "write x @ q.T"),
        (lambda q, x: x[:70] @ q, TypeError, "are quantized as quantize(w.T, ...); then"),
        (lambda q, x: q.T @ x, TypeError, "or quantize(w.T, ...) @ x with w the floats of q"),
        (
            lambda q, x: binq.linear(x[:70], q),
            ValueError,
            "got (70,): weights (in_features, out_features), multiplied as x @ w, are quantized",
        ),
        (lambda q, x: q.T @ x, TypeError, "write q.dequantize().T @ x"),
        (lambda q, x: q @ q.T, TypeError, "the product of two packed arrays is not supported"),
        (lambda q, x: q @ q, TypeError, "call .dequantize() on one"),
        (
            lambda q, x: np.matmul(x, q.T, dtype=np.float64),
            TypeError,
            "matmul with packed weights takes no dtype=",
        ),
        (lambda q, x: np.matmul(x, q.T, axes=[]), TypeError, "takes no axes="),
        (lambda q, x: 3 @ q.T, ValueError, "x must have shape (..., 300)"),
        (
            lambda q, x: q @ np.ones((5, 2)),
            ValueError,
            "x must have shape (..., 300, columns) for weights of shape (70, 300), got (5, 2)",
        ),
        (lambda q, x: q @ np.full((300, 1), 1e300), ValueError, "x[0, 0] = 1e+300 does not fit"),
        (lambda q, x: q @ np.ones((300, 2), complex), TypeError, "x must hold real numbers"),
        (lambda q, x: q @ np.ma.ones(300), TypeError, "x must be a plain array, got a masked one"),
        (
            lambda q, x: binq.matmul(q, np.ones((300, 2)), out=np.empty((3, 2), np.float32)),
            ValueError,
            "out must have shape (70, 2), got (3, 2)",
        ),
        (
            lambda q, x: np.matmul(q, np.ones((300, 2)), out=np.empty((70, 2))),
            TypeError,
            "out must have dtype float32, got float64",
        ),
        (
            lambda q, x: binq.matmul(x, q.T, out=np.ma.empty(70, np.float32)),
            TypeError,
            "out must be a numpy array, got MaskedArray",
        ),
        (lambda q, x: "ab" @ q.T, TypeError, "x must hold real numbers, got dtype <U2"),
    ],
)
def test_pairs_that_fail(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call(make(), normal(300))


@pytest.mark.parametrize("shape", [(64, 64), (3, 64, 64)])
def test_square_weights_get_no_hint_that_could_be_wrong(shape):
    # (in, out) weights of GPT-2, Keras, Flax, ONNX: x @ q.T would be wrong without a word.
    q = make(shape)
    with pytest.raises(TypeError) as caught:
        normal(2, 64) @ q
    assert f"quantize({'w.T' if len(shape) == 2 else 'w.mT'}, ...)" in str(caught.value)
    assert "q.T" not in str(caught.value)
    assert "q.mT" not in str(caught.value)
    with pytest.raises(TypeError, match=r"write x @ q\.mT$"):
        normal(2, 64) @ make((3, 40, 64))


def test_dot_takes_no_stacks():
    with pytest.raises(TypeError, match=r"numpy\.dot takes no stack of packed weights"):
        np.dot(normal(64), make((3, 33, 64)).mT)
    with pytest.raises(TypeError, match=r"numpy.dot\(q, x\) takes an x of 1 or 2 axes"):
        np.dot(make((33, 64)), normal(3, 64, 5))


# x.


@pytest.mark.parametrize("layout", ["fortran", "strided", "reversed", "offset", "unaligned"])
@pytest.mark.parametrize("mode", MODES)
def test_layout_of_x_makes_no_difference(layout, mode):
    q, x = make(), normal(5, 300)
    y = binq.linear(x, q, activations=mode)
    np.testing.assert_array_equal(binq.linear(relay(x, layout), q, activations=mode), y)


@pytest.mark.parametrize(
    "dtype",
    [np.float16, np.float64, ml_dtypes.bfloat16, ">f4", ">f8", np.int8, np.uint64, bool],
)
def test_dtype_of_x(dtype):
    q = make()
    x = (normal(5, 300) * 3).astype(np.int8).astype(dtype)
    np.testing.assert_array_equal(x @ q.T, x.astype(np.float32) @ q.T)


@pytest.mark.skipif(
    np.finfo(np.longdouble).max == np.finfo(np.float64).max, reason="longdouble is float64"
)
def test_x_that_no_float64_holds():
    x = np.zeros(300, np.longdouble)
    x[7] = np.longdouble("1e400")
    with pytest.raises(ValueError, match=r"^x\[7\] = 1e\+400 does not fit float32"):
        x @ make().T


def test_x_that_float32_cannot_hold():
    x = np.zeros((2, 300))
    x[1, 5] = 1e300
    message = r"^x\[1, 5\] = 1e\+300 does not fit float32 \(largest 3.4028235e\+38\)$"
    with pytest.raises(ValueError, match=message):
        x @ make().T


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nonfinite_rows_stay_alone(mode, value):
    q = make(format="binary")
    x = np.array(normal(4, 300))
    clean = binq.linear(x, q, activations=mode)
    x[2, 17] = value
    y = binq.linear(x, q, activations=mode)
    np.testing.assert_array_equal(np.delete(y, 2, 0), np.delete(clean, 2, 0))
    with np.errstate(invalid="ignore"):
        expected = x[2] @ q.dequantize().T
    np.testing.assert_array_equal(y[2], expected)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.ones((2, 299)), ValueError, "x must have shape (..., 300) for weights of shape"),
        (np.ones((300, 2)), ValueError, "of shape (70, 300), got (300, 2)"),
        (1.0, ValueError, "got ()"),
        (np.ones(300, complex), TypeError, "x must hold real numbers, got dtype complex128"),
        (["a"] * 300, TypeError, "x must hold real numbers, got dtype <U1"),
        ([None] * 300, TypeError, "x must hold real numbers, got dtype object"),
        (np.ma.ones(300), TypeError, "x must be a plain array, got a masked one"),
        (make(), TypeError, "x must be a plain array, got QuantizedArray: call .dequantize() for"),
        (make().T, TypeError, "x must be a plain array, got Transposed: call .dequantize() for"),
        ([[1, 2], [3]], ValueError, "x must be an array: "),
    ],
)
def test_x_fails(x, error, message):
    with pytest.raises(error, match=re.escape(message)):
        binq.linear(x, make())


def test_stacks_that_do_not_broadcast():
    message = "the leading axes of x (2, 5, 64) do not broadcast against those of the weights (3,"
    with pytest.raises(ValueError, match=re.escape(message)):
        normal(2, 5, 64) @ make((3, 33, 64)).mT


@pytest.mark.parametrize("mode", ["int4", "float64", "", 16, None, ["int8"]])
def test_unknown_mode(mode):
    kind = ValueError if isinstance(mode, str) else TypeError
    message = f"activations must be one of 'float32', 'int16', 'int8', got {mode!r}"
    with pytest.raises(kind, match=re.escape(message)):
        binq.linear(normal(300), make(), activations=mode)


# bias.


def test_bias_is_added_last():
    q, x = make(), normal(5, 300)
    bias = normal(70)
    np.testing.assert_array_equal(binq.linear(x, q, bias), x @ q.T + bias)
    np.testing.assert_array_equal(binq.linear(x, q, bias.tolist()), x @ q.T + bias)
    np.testing.assert_array_equal(binq.linear(x[0], q, bias), x[0] @ q.T + bias)


def test_bias_of_a_stack():
    q, x = make((3, 33, 64)), normal(3, 5, 64)
    bias = normal(3, 33)
    y = x @ q.mT
    np.testing.assert_array_equal(binq.linear(x, q, bias), y + bias[:, None])
    np.testing.assert_array_equal(binq.linear(x, q, bias[0]), y + bias[0])
    np.testing.assert_array_equal(binq.linear(x[0, 0], q, bias), x[0, 0] @ q.mT + bias)


@pytest.mark.parametrize(
    ("shape", "bias", "error", "message"),
    [
        ((70, 300), np.ones(1), ValueError, "bias must have shape (70,), got (1,)"),
        ((70, 300), 0.5, ValueError, "bias must have shape (70,), got ()"),
        ((70, 300), np.ones((5, 70)), ValueError, "bias must have shape (70,), got (5, 70)"),
        ((3, 70, 300), np.ones(3), ValueError, "bias must have shape (70,) or (3, 70), got (3,)"),
        ((70, 300), ["a"] * 70, TypeError, "bias must hold real numbers"),
        ((70, 300), [1e40] * 70, ValueError, "bias[0] = 1e+40 does not fit float32"),
    ],
)
def test_bias_fails(shape, bias, error, message):
    with pytest.raises(error, match=re.escape(message)):
        binq.linear(normal(5, 300), make(shape), bias)


# out.


@pytest.mark.parametrize("view", ["c", "fortran", "strided", "reversed", "unaligned"])
@pytest.mark.parametrize("shape", [(33, 64), (3, 33, 64)])
def test_out_of_any_layout(view, shape):
    q, x = make(shape), normal(3, 5, 64)
    expected = x @ q.mT
    whole = np.full((3, 5, 66), 9, np.float32)
    out = {
        "c": np.empty((3, 5, 33), np.float32),
        "fortran": np.empty((3, 5, 33), np.float32, "F"),
        "strided": whole[..., ::2],
        "reversed": np.empty((3, 5, 33), np.float32)[::-1, :, ::-1],
        "unaligned": np.empty(3 * 5 * 33 * 4 + 1, np.uint8)[1:].view(np.float32).reshape(3, 5, 33),
    }[view]
    assert binq.linear(x, q, out=out) is out
    np.testing.assert_array_equal(out, expected)
    assert (whole[..., 1::2] == 9).all()
    bias = normal(33)
    assert np.array_equal(binq.linear(x, q, bias, out=out), expected + bias)
    assert np.matmul(x, q.mT, out=out) is out
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("mode", MODES)
def test_out_may_overlap_x(mode):
    q = make((64, 64))
    memory = np.array(normal(6, 64))
    x = memory[1:]
    expected = binq.linear(x.copy(), q, activations=mode)
    binq.linear(x, q, activations=mode, out=memory[:-1])
    np.testing.assert_array_equal(memory[:-1], expected)


def test_out_may_overlap_bias():
    q, x = make((64, 64)), normal(64)
    bias = np.array(normal(64))
    expected = x @ q.T + bias
    np.testing.assert_array_equal(binq.linear(x, q, bias, out=bias), expected)


@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        ([0.0], TypeError, "out must be a numpy array, got list"),
        (np.empty((5, 70)), TypeError, "out must have dtype float32, got float64"),
        (np.empty((5, 70), ">f4"), TypeError, "out must have dtype float32, got >f4"),
        (np.empty((70, 5), np.float32), ValueError, "out must have shape (5, 70), got (70, 5)"),
        (np.broadcast_to(np.float32(0), (5, 70)), ValueError, "out must be writable"),
    ],
)
def test_out_fails(out, error, message):
    with pytest.raises(error, match=re.escape(message)):
        binq.linear(normal(5, 300), make(), out=out)


# Nothing to compute.


@pytest.mark.parametrize(
    ("x_shape", "q_shape"),
    [
        ((0, 64), (33, 64)),
        ((5, 64), (0, 64)),
        ((5, 0), (33, 0)),
        ((0,), (33, 0)),
        ((0, 0), (0, 0)),
        ((5, 64), (0, 33, 64)),
        ((3, 0, 64), (3, 33, 64)),
        ((0, 3, 5, 64), (3, 33, 64)),
        ((3, 5, 0), (3, 33, 0)),
    ],
)
@pytest.mark.parametrize("mode", MODES)
def test_empty_products(x_shape, q_shape, mode):
    q = make(q_shape)
    x = normal(*x_shape)
    bias = normal(q_shape[-2])
    expected = np.matmul(x, q.dequantize().mT)
    np.testing.assert_array_equal(binq.linear(x, q, activations=mode), expected)
    y = binq.linear(x, q, bias, activations=mode, out=np.full(expected.shape, 7, np.float32))
    np.testing.assert_array_equal(y, expected + bias)


# Many threads, many weights.


def test_first_products_from_many_threads():
    """The native form is made on first use, by whichever threads come first."""
    q, x = make((3, 96, 256)), normal(4, 256)
    expected = x @ make((3, 96, 256)).mT
    start = threading.Barrier(8)

    def work(_):
        start.wait()
        return x @ q.mT

    with ThreadPoolExecutor(8) as pool:
        for y in pool.map(work, range(8)):
            np.testing.assert_array_equal(y, expected)


def test_more_than_two_to_the_31_weights():
    rows, columns = 2**17 + 64, 2**14
    assert rows * columns > 2**31
    packed = np.zeros((rows // 32, columns // 8, 32), np.uint8)
    packed[-1] = 255
    scales = np.ones((rows // 32, columns // 128, 32), np.float16)
    q = binq.QuantizedArray("binary", (rows, columns), 128, True, packed, scales)
    x = np.ones(columns, np.float32)
    y = x @ q.T
    assert (y[:-32] == -columns).all()
    assert (y[-32:] == columns).all()
    assert (q[-1:].dequantize() == 1).all()
