"""numpy's functions on packed weights: explicit conversion, shapes, and refusals that help."""

import re

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse
import scipy.spatial
from strategies import random_quantized

import binq


def make(format="int4", shape=(70, 300), symmetric=True):
    rng = np.random.default_rng(20261124)
    return random_quantized(rng, format, shape, 128, symmetric)


def test_asarray():
    q = make()
    w = q.dequantize()
    np.testing.assert_array_equal(np.asarray(q), w)
    np.testing.assert_array_equal(np.array(q, copy=True), w)
    assert np.asarray(q, np.float64).dtype == np.float64
    assert np.asarray(q, np.float32).dtype == np.float32
    assert np.array(q).flags.writeable
    for operand in (q, q.T):
        with pytest.raises(ValueError, match="copy=False"):
            np.array(operand, copy=False)


def test_functions_that_tell_the_shape():
    q = make()
    assert np.shape(q) == (70, 300)
    assert np.shape(q.T) == (300, 70)
    assert np.ndim(q) == 2
    assert np.size(q) == 21000
    assert np.size(q, 0) == 70
    assert np.size(q.T, axis=0) == 300


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("add", lambda q: q + 1),
        ("add", lambda q: np.add(1, q)),
        ("add.reduce", lambda q: np.add.reduce(q)),
        ("less", lambda q: q < 1),
        ("isnan", lambda q: np.isnan(q)),
        ("equal", lambda q: np.zeros(3) == q),
        ("sum", lambda q: np.sum(q)),
        ("mean", lambda q: np.mean(q)),
        ("norm", lambda q: np.linalg.norm(q)),
        ("save", lambda q: np.save("x.npy", q)),
        ("mean", lambda q: q.mean()),
        ("astype", lambda q: q.astype(np.float16)),
        ("reshape", lambda q: q.reshape(-1)),
        ("tolist", lambda q: q.tolist()),
        ("sum", lambda q: q.sum(axis=0)),
        ("vstack", lambda q: np.vstack([q, q])),
    ],
)
@pytest.mark.parametrize("transposed", [False, True])
def test_everything_else_says_dequantize(name, call, transposed):
    q = make().T if transposed else make()
    message = f"numpy.{name} does not work on packed weights: call .dequantize() for a float array"
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        call(q)


def test_copies():
    q = make()
    for copied in (q.copy(), np.copy(q)):
        assert copied == q
        assert not np.shares_memory(copied.packed, q.packed)
    assert q.T.copy() == q.T
    assert np.copy(q.T).shape == (300, 70)


def test_transposing():
    q, stack = make(), make(shape=(3, 40, 64))
    for view in (np.transpose(q), q.transpose(), q.transpose(1, 0), np.matrix_transpose(q)):
        assert view == q.T
    assert np.transpose(q.T) is q
    assert q.transpose((0, 1)) is q
    assert stack.transpose(0, 2, 1) == stack.mT
    assert np.linalg.matrix_transpose(stack) == stack.mT
    message = (
        r"axes of packed weights of shape \(3, 40, 64\) are transposed only by swapping the last"
    )
    for call in (stack.transpose, lambda: np.transpose(stack, (1, 0, 2))):
        with pytest.raises(ValueError, match=message):
            call()


def test_products_by_other_names():
    q = make()
    x = np.random.default_rng(1).standard_normal((2, 5, 300), dtype=np.float32)
    y = x @ q.T
    np.testing.assert_array_equal(np.linalg.matmul(x, q.T), y)
    np.testing.assert_array_equal(np.inner(x, q), y)
    np.testing.assert_array_equal(np.inner(q, x), np.moveaxis(y, -1, 0))
    np.testing.assert_array_equal(np.inner(q, x[0, 0]), y[0, 0])
    with pytest.raises(TypeError, match=r"numpy\.inner takes one matrix"):
        np.inner(x, q.T)


@pytest.mark.parametrize(
    "subscripts", ["abi,oi->abo", "abi,oi->oba", "abi,oi", "iba,oi->abo", "a b i , o i -> b a o"]
)
def test_einsum_of_products(subscripts):
    q = make()
    shape = (300, 5, 2) if subscripts.startswith("iba") else (2, 5, 300)
    x = np.random.default_rng(1).standard_normal(shape, dtype=np.float32)
    expected = np.einsum(subscripts, x, q.dequantize())
    np.testing.assert_allclose(np.einsum(subscripts, x, q), expected, atol=1e-2)
    out = np.empty_like(expected)
    assert np.einsum(subscripts, x, q, out=out) is out
    np.testing.assert_allclose(out, expected, atol=1e-2)
    swapped = ",".join(reversed(subscripts.partition("->")[0].replace(" ", "").split(",")))
    swapped += "->" + (subscripts.partition("->")[2].replace(" ", "") or "abo")
    np.testing.assert_array_equal(np.einsum(swapped, q, x), out)
    turned = subscripts.replace("o i", "i o").replace("oi", "io")
    np.testing.assert_array_equal(np.einsum(turned, x, q.T), out)


def test_einsum_of_stacks():
    q = make(shape=(3, 40, 64))
    x = np.random.default_rng(1).standard_normal((5, 3, 64), dtype=np.float32)
    expected = np.einsum("tei,eoi->teo", x, q.dequantize())
    np.testing.assert_allclose(np.einsum("tei,eoi->teo", x, q), expected, atol=2e-2)
    np.testing.assert_allclose(np.einsum("tei,eio->oet", x, q.mT), expected.T, atol=2e-2)


@pytest.mark.parametrize(
    "call",
    [
        lambda q, x: np.einsum("ij->i", q),
        lambda q, x: np.einsum("i,oi->", x, q),
        lambda q, x: np.einsum("o,oi->i", x[:70], q),
        lambda q, x: np.einsum("...i,oi->...o", x, q),
        lambda q, x: np.einsum("i,oi->oi", x, q),
        lambda q, x: np.einsum(x, [0], q, [1, 0], [1]),
        lambda q, x: np.einsum("i,oi,o->o", x, q, x[:70]),
    ],
)
def test_einsum_of_anything_else(call):
    with pytest.raises(
        TypeError, match=r"numpy\.einsum multiplies packed weights where it sums over"
    ):
        call(make(), np.ones(300, np.float32))


def test_einsum_of_wrong_sizes():
    with pytest.raises(ValueError, match=r"axis 'i' has 299 in x of shape \(299,\) and 300 in the"):
        np.einsum("i,oi->o", np.ones(299), make())
    with pytest.raises(ValueError, match=r"'bi' has other axes than x of shape \(300,\)"):
        np.einsum("bi,oi->bo", np.ones(300), make())
    with pytest.raises(TypeError, match="the product of two packed arrays"):
        np.einsum("bi,oi->bo", make(), make())


def test_array_equal(monkeypatch):
    monkeypatch.setattr("binq.array.functions._BLOCK", 32 * 300)
    for q in (make(), make(shape=(2, 70, 300), symmetric=False)):
        w = q.dequantize()
        for one, other in ((q, q), (q, w), (w, q), (q.mT, w.mT), (q.mT, q.mT), (q.copy(), q)):
            assert np.array_equal(one, other) is True
        w[..., 69, 299] += 1
        for one, other in ((q, w), (q, -q), (q, w[..., :5]), (w.mT, q.mT), (q, "a"), (q.mT, -q.mT)):
            assert np.array_equal(one, other) is False
    square = make(shape=(40, 40))
    assert np.array_equal(square, square.T) is bool(
        np.array_equal(square.dequantize(), square.dequantize().T)
    )
    # The same weights in another form.
    ternary = make("ternary")
    codes, scales = ternary.codes(), ternary.group_scales()
    int4 = binq.QuantizedArray.from_codes(codes, scales, format="int4")
    assert np.array_equal(ternary, int4)


class Holder:
    q = make()


UNSEEN = [
    lambda q: np.array([q, q]),
    lambda q: np.asarray([q]),
    lambda q: np.asarray((q, q), np.float64),
    lambda q: np.array([part for part in (q, q)]),  # noqa: C416
    lambda q: np.r_[q, q],
    lambda q: np.ascontiguousarray(q),
    lambda q: np.asfortranarray(q),
    lambda q: np.require(q, np.float32),
    lambda q: np.full(q.shape, q),
    lambda q: scipy.spatial.distance.cdist(np.ones((1, q.shape[1])), q),
    lambda q: scipy.linalg.norm(q),
    lambda q: binq.quantize([q, q], "int4"),
    lambda q: np.testing.assert_array_equal(q, q),
]


@pytest.mark.parametrize("call", UNSEEN, ids=range(len(UNSEEN)))
@pytest.mark.parametrize("transposed", [False, True])
def test_nothing_makes_floats_unseen(call, transposed):
    q = make().T if transposed else make()
    with pytest.raises((TypeError, ValueError), match=r"np\.asarray\(q\)|dequantize"):
        call(q)
    w = np.zeros(q.shape)
    with pytest.raises(TypeError, match=r"an assignment would turn packed weights into floats"):
        w[:] = q


def test_scipy_words_it_its_own_way():
    with pytest.raises(ValueError, match="unrecognized csr_matrix constructor") as caught:
        scipy.sparse.csr_matrix(make())
    assert "np.asarray(q)" in str(caught.value.__cause__)


def test_asked_for_floats_are_given():
    q, asked, holder = make(), np.asarray, Holder()
    w = q.dequantize()
    for given in (
        np.asarray(q),
        np.asarray(q, dtype=np.float32),
        np.asarray(q, np.float32),
        np.asarray(a=q),
        np.asanyarray(q),
        np.array(q),
        np.array(q, dtype=np.float32),
        np.array(q, ndmin=1),
        asked(q),
        np.asarray(holder.q),
        np.asarray({"q": [q]}["q"][0]),
        np.asarray(make()),
        np.asarray(q[0:70]),
        np.asarray(q.T).T,
        np.asarray(q if w.size else w),
        *map(np.asarray, [q]),
        *[np.asarray(part) for part in (q,)],
    ):
        np.testing.assert_array_equal(given, w)
    assert np.asarray(q).dtype == np.float32
    namespace = {"np": np, "q": q}
    exec("w = np.asarray(q)", namespace)
    np.testing.assert_array_equal(namespace["w"], w)
    np.testing.assert_array_equal(eval("np.asarray(q)", {"np": np}, {"q": q}), w)


@pytest.mark.parametrize("name", ["concatenate", "stack"])
def test_what_binq_joins_itself_is_named(name):
    q = binq.quantize(np.eye(32, 64), "int4")
    with pytest.raises(TypeError, match=rf"use binq\.{name}, or call \.dequantize\(\)"):
        getattr(np, name)([q, q])
