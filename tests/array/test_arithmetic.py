"""-q, 2 * q, q * row_scales: only scales change."""

import re

import numpy as np
import pytest
from strategies import random_quantized

KINDS = [
    ("binary", True),
    ("binary", False),
    ("ternary", True),
    ("int2", "code"),
    ("int4", True),
    ("int4", False),
]


def make(format="int4", shape=(70, 300), symmetric=True, **arguments):
    rng = np.random.default_rng(20261124)
    return random_quantized(rng, format, shape, 128, symmetric, **arguments)


@pytest.mark.parametrize(("format", "symmetric"), KINDS)
@pytest.mark.parametrize("shape", [(70, 300), (3, 33, 64), (0, 5)])
def test_negative(format, symmetric, shape):
    q = make(format, shape, symmetric)
    np.testing.assert_array_equal((-q).dequantize(), -q.dequantize())
    np.testing.assert_array_equal((-q.mT).dequantize(), -q.mT.dequantize())
    assert np.shares_memory((-q).packed, q.packed) or not q.size
    assert (-q).scales.dtype == np.float16
    assert np.negative(-q) == q
    assert +q is q
    # Padding stays zero bits, as files have it.
    assert not (-q).scales[..., -1:, :, shape[-2] % 32 or 32 :].view(np.uint16).any()


@pytest.mark.parametrize(("format", "symmetric"), KINDS)
def test_numbers(format, symmetric):
    q = make(format, symmetric=symmetric)
    w = q.dequantize()
    assert (2 * q).scales.dtype == np.float16
    np.testing.assert_array_equal((2 * q).dequantize(), 2 * w)
    np.testing.assert_array_equal((q / np.float64(4)).dequantize(), w / 4)
    np.testing.assert_allclose((0.1 * q).dequantize(), np.float32(0.1) * w, rtol=3e-7, atol=1e-7)
    assert (0.1 * q).scales.dtype == np.float32
    np.testing.assert_array_equal((q.T * 2).dequantize(), (2 * w).T)
    assert not (q * 0).dequantize().any()
    np.testing.assert_array_equal((q * np.ones((1, 1))).dequantize(), w)


@pytest.mark.parametrize(("format", "symmetric"), KINDS)
def test_one_factor_a_row(format, symmetric):
    q = make(format, symmetric=symmetric)
    w = q.dequantize()
    rows = (2.0 ** np.arange(-35, 35) / 2**10).astype(np.float32)[:, None]
    rows = np.resize(np.array([0.5, 2, -1, 4], np.float32), (70, 1))
    for product in (q * rows, rows * q, np.multiply(q, rows)):
        np.testing.assert_array_equal(product.dequantize(), w * rows)
    np.testing.assert_array_equal((q / rows).dequantize(), w / rows)
    np.testing.assert_array_equal((q.T * rows[:, 0]).dequantize(), w.T * rows[:, 0])
    np.testing.assert_array_equal((rows.T * q.T).dequantize(), w.T * rows.T)


def test_factors_of_stacks():
    q = make(shape=(3, 33, 64))
    w = q.dequantize()
    each = np.array([1, -2, 4.0])[:, None, None]
    np.testing.assert_array_equal((q * each).dequantize(), (w * each).astype(np.float32))
    rows = np.resize([1.0, 2.0], (33, 1))
    np.testing.assert_array_equal((rows * q).dequantize(), (w * rows).astype(np.float32))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda q: q * np.ones(300),
            ValueError,
            "factors must be a number or have shape (70, 1), one",
        ),
        (lambda q: q * np.ones((70, 300)), ValueError, "columns share scales"),
        (
            lambda q: q * np.ones((69, 1)),
            ValueError,
            "factors must be a number or have shape (70, 1)",
        ),
        (lambda q: q * np.ones((2, 1, 1)), ValueError, "factors must be a number or have shape"),
        (lambda q: q.T * np.ones((300, 1)), ValueError, "factors must be a number or have shape"),
        (lambda q: q * 1j, TypeError, "factors must hold real numbers, got dtype complex128"),
        (lambda q: q * "a", TypeError, "factors must hold real numbers"),
        (
            lambda q: q * np.inf,
            ValueError,
            "factors must leave products with the scales that float32",
        ),
        (lambda q: q * 1e300, ValueError, "does not fit float32"),
        (lambda q: q * 1e-44, ValueError, "factors must leave products"),
        (lambda q: q / 0, ValueError, "factors must leave quotients"),
        (lambda q: 1 / q, TypeError, "numpy.divide does not work on packed weights"),
        (lambda q: q * q, TypeError, "two packed arrays cannot be multiplied with each other"),
        (
            lambda q: np.multiply(q, 2, dtype=np.float32),
            TypeError,
            "numpy.multiply of packed weights",
        ),
    ],
)
def test_what_scales_do_not_hold_is_refused(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call(make())


def test_nothing_changes_in_place():
    q = make()
    with pytest.raises(TypeError, match=r"packed weights cannot be changed: write q = 2 \* q"):
        q *= 2
