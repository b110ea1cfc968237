"""Products put together: experts by rows, lists of weights, prepared x; all bit for bit."""

import re
from concurrent.futures import ThreadPoolExecutor

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from strategies import activations, kinds, random_quantized

import binq

MODES = ("float32", "int16", "int8")


@pytest.fixture(params=[1, 3])
def threads(request):
    before = binq.get_num_threads()
    binq.set_num_threads(request.param)
    yield
    binq.set_num_threads(before)


def make(shape, format="int4", **arguments):
    return random_quantized(np.random.default_rng(7), format, shape, **arguments)


def normal(*shape):
    return np.random.default_rng(8).standard_normal(shape).astype(np.float32)


def assert_experts(x, q, experts, mode):
    """Each expert's rows are, to the bit, the product of those rows with its matrix."""
    y = binq.linear(x, q, experts=experts, activations=mode)
    assert y.dtype == np.float32
    assert y.shape == (len(x), q.shape[1])
    for expert in range(len(q)):
        chosen = experts == expert
        np.testing.assert_array_equal(
            y[chosen], binq.linear(x[chosen], q[expert], activations=mode)
        )


# Experts.


@settings(max_examples=60, deadline=None)
@given(kinds(), st.sampled_from(MODES), st.integers(0, 70), st.integers(1, 5), st.data())
def test_experts(kind, mode, rows, count, data):
    q = make((count, *data.draw(st.sampled_from([(33, 64), (70, 300), (1, 1)]))), kind[0])
    x = data.draw(activations((rows, q.shape[2])))
    experts = data.draw(st.lists(st.integers(0, count - 1), min_size=rows, max_size=rows))
    assert_experts(x, q, np.array(experts, np.int64), mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rows", [3, 200, 3000])
def test_large_experts_on_threads(threads, mode, rows):
    """More rows than a block, pieces for all threads, and rows that need floats."""
    q = make((4, 320, 640), "ternary")
    x = normal(rows, 640)
    x[1] = np.nan
    x[2, 7] = 1e38
    experts = np.random.default_rng(3).integers(0, 4, rows)
    assert_experts(x, q, experts, mode)


def test_experts_broadcast_against_the_rows():
    q, x = make((5, 40, 96)), normal(3, 1, 96)
    experts = np.random.default_rng(0).integers(0, 5, (3, 2))
    y = binq.linear(x, q, experts=experts)
    assert y.shape == (3, 2, 40)
    for token in range(3):
        for slot in range(2):
            np.testing.assert_array_equal(y[token, slot], x[token, 0] @ q[experts[token, slot]].T)
    np.testing.assert_array_equal(binq.linear(x[0], q, experts=experts[0]), y[0])
    np.testing.assert_array_equal(binq.linear(x[0, 0], q, experts=[4, 4, 0])[1], x[0, 0] @ q[4].T)
    assert binq.linear(x[0, 0], q, experts=2).shape == (40,)


@pytest.mark.parametrize("shape", [(0, 96), (3, 0, 96)])
def test_no_rows(shape):
    experts = np.zeros(shape[:-1], np.int32)
    assert binq.linear(normal(*shape), make((5, 40, 96)), experts=experts).shape == (
        *shape[:-1],
        40,
    )


def test_no_inputs_and_no_outputs():
    assert (binq.linear(normal(2, 0), make((3, 40, 0)), experts=[1, 0]) == 0).all()
    assert binq.linear(normal(2, 64), make((3, 0, 64)), experts=[1, 0]).shape == (2, 0)


def test_bias_and_out_of_experts():
    q, x, experts = make((3, 40, 96)), normal(4, 96), [2, 0, 2, 1]
    y = binq.linear(x, q, experts=experts)
    one, each = normal(40), normal(3, 40)
    np.testing.assert_array_equal(binq.linear(x, q, one, experts=experts), y + one)
    np.testing.assert_array_equal(binq.linear(x, q, each, experts=experts), y + each[experts])
    out = np.empty((4, 40), np.float32)
    assert binq.linear(x, q, experts=experts, out=out) is out
    np.testing.assert_array_equal(out, y)
    square = make((3, 96, 96))
    y = binq.linear(x, square, experts=experts)
    np.testing.assert_array_equal(binq.linear(x, square, experts=experts, out=x), y)


@pytest.mark.parametrize(
    ("experts", "error", "message"),
    [
        ([0, 3], IndexError, r"experts must be from 0 to 2, got 3 at (1,)"),
        ([-1, 0], IndexError, r"experts must be from 0 to 2, got -1 at (0,)"),
        ([0.0, 1.0], TypeError, "experts must hold integers, got dtype float64"),
        ([True, False], TypeError, "experts must hold integers, got dtype bool"),
        ([0, 1, 2], ValueError, "experts must have a shape that broadcasts against the rows of x"),
    ],
)
def test_wrong_experts(experts, error, message):
    with pytest.raises(error, match=re.escape(message)):
        binq.linear(normal(2, 96), make((3, 40, 96)), experts=experts)


def test_experts_need_a_stack():
    with pytest.raises(ValueError, match="q must be a stack"):
        binq.linear(normal(2, 96), make((40, 96)), experts=[0, 0])
    with pytest.raises(ValueError, match=r"x must have shape \(..., 96\)"):
        binq.linear(normal(2, 95), make((3, 40, 96)), experts=[0, 0])
    with pytest.raises(ValueError, match=r"bias must have shape \(40,\) or \(3, 40\), got \(3,\)"):
        binq.linear(normal(2, 96), make((3, 40, 96)), normal(3), experts=[0, 0])
    with pytest.raises(ValueError, match="activations must be one of"):
        binq.linear(normal(2, 96), make((3, 40, 96)), experts=[0, 0], activations="int4")


# Lists and prepared x.


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(kinds(), st.sampled_from([32, 128, None])), min_size=1, max_size=4),
    st.sampled_from(MODES),
    st.lists(st.integers(0, 5), max_size=2),
    st.data(),
)
def test_a_list_gives_the_list_of_products(packings, mode, lead, data):
    """Also of weights that are packed in several ways."""
    qs = [
        make(
            (data.draw(st.sampled_from([1, 33, 96])), 140),
            format,
            symmetric=symmetric,
            group_size=g,
        )
        for (format, symmetric), g in packings
    ]
    x = data.draw(activations((*lead, 140)))
    ys = binq.linear(x, qs, activations=mode)
    assert isinstance(ys, list)
    for y, q in zip(ys, qs, strict=True):
        np.testing.assert_array_equal(y, binq.linear(x, q, activations=mode))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rows", [1, 5, 3000])
@pytest.mark.parametrize("format", ["binary", "ternary", "int4"])
def test_prepared_x(threads, format, mode, rows):
    qs = [make((size, 640), format) for size in (320, 64, 33)]
    x = normal(rows, 640)
    if rows > 1:
        x[1] = np.inf
    expected = [binq.linear(x, q, activations=mode) for q in qs]
    p = binq.prepare(x, like=qs[1], activations=mode)
    for y, q in zip(expected, qs, strict=True):
        np.testing.assert_array_equal(binq.linear(p, q), y)
        np.testing.assert_array_equal(binq.linear(p, q, activations=mode), y)
    for results in (binq.linear(p, qs), binq.linear(x, tuple(qs), activations=mode)):
        for y, result in zip(expected, results, strict=True):
            np.testing.assert_array_equal(result, y)


def test_prepared_x_is_a_copy():
    q, x = make((33, 96)), normal(2, 96)
    x[0, 0] = np.nan  # computed by floats at the time of the product
    p, y = binq.prepare(x, like=q), binq.linear(x, q)
    x[:] = 0
    np.testing.assert_array_equal(binq.linear(p, q), y)
    assert p.shape == (2, 96)
    assert p.activations == "int16"
    assert repr(p) == "Prepared(shape=(2, 96), int4 g128, int16)"


def test_prepared_x_meets_stacks_bias_and_out():
    q, x = make((3, 33, 96)), normal(2, 96)
    p = binq.prepare(x, like=q)
    np.testing.assert_array_equal(binq.linear(p, q), binq.linear(x, q))
    np.testing.assert_array_equal(
        binq.linear(p, q[0], normal(33)), binq.linear(x, q[0], normal(33))
    )
    out = np.empty((2, 33), np.float32)
    assert binq.linear(p, q[1], out=out) is out
    np.testing.assert_array_equal(out, binq.linear(x, q[1]))
    one = binq.prepare(x[0], like=q)
    assert binq.linear(one, q[0]).shape == (33,)


@pytest.mark.parametrize("shape", [(0, 96), (40, 0), (40, 96)])
def test_prepared_x_of_nothing(shape):
    q = make(shape)
    p = binq.prepare(normal(0, shape[1]), like=q)
    assert binq.linear(p, q).shape == (0, shape[0])
    p = binq.prepare(normal(2, shape[1]), like=q)
    np.testing.assert_array_equal(binq.linear(p, q), binq.linear(normal(2, shape[1]), q))
    np.testing.assert_array_equal(binq.linear(p, [q, q])[1], binq.linear(p, q))


@pytest.mark.parametrize(
    ("other", "name"),
    [
        (make((33, 96), "ternary"), "ternary g128"),
        (make((33, 96), group_size=32), "int4 g32"),
        (make((33, 96), group_size=None), "int4 row"),
        (make((33, 96), symmetric=False), "int4 g128 asymmetric"),
    ],
)
def test_x_prepared_for_other_weights(other, name):
    p = binq.prepare(normal(2, 96), like=make((33, 96)))
    message = f"x was prepared for int4 g128 weights, got {name} ones"
    for q in (other, [make((33, 96)), other]):
        with pytest.raises(ValueError, match=message):
            binq.linear(p, q)


def test_wrong_use_of_prepared_x():
    q = make((33, 96))
    p = binq.prepare(normal(2, 96), like=q, activations="int8")
    with pytest.raises(ValueError, match="activations must be 'int8', as x was prepared"):
        binq.linear(p, q, activations="int16")
    with pytest.raises(ValueError, match=r"x must have shape \(..., 128\)"):
        binq.linear(p, make((33, 128)))
    with pytest.raises(ValueError, match=r"for q\[1\] of shape \(33, 128\)"):
        binq.linear(p, [q, make((33, 128))])
    with pytest.raises(ValueError, match=r"x must have shape \(..., 96\)"):
        binq.prepare(normal(2, 95), like=q)
    with pytest.raises(TypeError, match="like must be a QuantizedArray, got Transposed: pass like"):
        binq.prepare(normal(2, 96), like=q.T)
    with pytest.raises(ValueError, match="activations must be one of"):
        binq.prepare(normal(2, 96), like=q, activations="int4")
    with pytest.raises(TypeError, match="got a prepared one"):
        binq.prepare(p, like=q)
    with pytest.raises(TypeError, match="got a prepared one"):
        binq.linear(p, make((3, 33, 96)), experts=[0])


def test_x_prepared_for_no_rows_of_weights():
    p = binq.prepare(normal(2, 96), like=make((0, 96)))
    np.testing.assert_array_equal(binq.linear(p, make((33, 96))), normal(2, 96) @ make((33, 96)).T)


def test_bias_and_out_of_a_list():
    qs, x = [make((33, 96)), make((96, 96))], normal(2, 96)
    biases = [normal(33), None]
    outs = [None, np.empty((2, 96), np.float32)]
    ys = binq.linear(x, qs, biases, out=outs)
    np.testing.assert_array_equal(ys[0], binq.linear(x, qs[0], biases[0]))
    np.testing.assert_array_equal(ys[1], binq.linear(x, qs[1]))
    assert ys[1] is outs[1]
    expected = ys[1].copy()
    assert binq.linear(x, qs, out=[None, x])[1] is x
    np.testing.assert_array_equal(x, expected)
    assert binq.linear(x, []) == []


def test_a_list_of_stacks_by_experts():
    qs, x = [make((3, 33, 96)), make((3, 64, 96), "binary")], normal(2, 96)
    ys = binq.linear(x, qs, experts=[2, 1])
    for y, q in zip(ys, qs, strict=True):
        np.testing.assert_array_equal(y, binq.linear(x, q, experts=[2, 1]))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"q": [make((33, 96)), 1]}, TypeError, r"q\[1\] must be a QuantizedArray, got int"),
        ({"q": [make((33, 96)).T]}, TypeError, r"pass q\[0\], not q\[0\].T"),
        ({"bias": [None]}, ValueError, "bias must be a list of 2, one for each of q, got 1"),
        (
            {"bias": normal(33)},
            ValueError,
            "bias must be a list of 2, one for each of q, got ndarray",
        ),
        ({"bias": [None, normal(3)]}, ValueError, r"bias must have shape \(33,\), got \(3,\)"),
        ({"out": [None, normal(2, 3)]}, ValueError, r"out must have shape \(2, 33\), got \(2, 3\)"),
        ({"activations": "int4"}, ValueError, "activations must be one of"),
        ({"x": normal(2, 95)}, ValueError, r"x must have shape \(..., 96\) for q\[0\]"),
    ],
)
def test_wrong_lists(arguments, error, message):
    given = {"x": normal(2, 96), "q": [make((33, 96)), make((33, 96))]} | arguments
    with pytest.raises(error, match=message):
        binq.linear(**given)


def test_threads_of_the_caller_may_share_prepared_x():
    q, x = make((320, 640)), normal(8, 640)
    p, y = binq.prepare(x, like=q), binq.linear(x, q)
    with ThreadPoolExecutor(4) as pool:
        for result in pool.map(lambda _: binq.linear(p, q), range(40)):
            np.testing.assert_array_equal(result, y)
