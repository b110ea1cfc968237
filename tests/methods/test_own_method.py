"""Methods of a user's own: what they may return, and what is refused by name."""

import numpy as np
import pytest

import binq
from binq.methods import METHODS, Method, Packed, Packing, ScaleRange

W = np.random.default_rng(0).standard_normal((2, 64, 128), dtype=np.float32)


class Own(Method):
    name = "own"

    def __init__(self, quantize=METHODS["absmax"].quantize):
        self.make = quantize

    def check(self, packing):
        if packing.format != "int4":
            raise ValueError(f"method 'own' has no {packing.format!r}")

    def quantize(self, task):
        return self.make(task)


def test_its_weights_are_taken_as_they_are():
    assert binq.quantize(W, "int4", method=Own()) == binq.quantize(W, "int4", method="absmax")


def test_codes_and_scales_make_packed_weights():
    def make(task):
        scales = np.full((2, 64, 2), 0.25, task.scale_dtype)
        return Packed.of_codes(task.packing, np.full(W.shape, 3, np.int8), scales)

    q = binq.quantize(W, "int4", group_size=64, method=Own(make))
    assert (q.dequantize() == 0.75).all()
    assert repr(q._data) == "<Packed int4 g64, shape=(2, 64, 128)>"


def test_it_may_ask_for_float32_scales():
    def make(task):
        if task.scale_dtype == np.float16:
            raise ScaleRange
        return METHODS["mse"].quantize(task)

    with pytest.warns(binq.ScaleRangeWarning):
        assert binq.quantize(W, "int4", method=Own(make)).scales.dtype == np.float32


def short_scales(task):
    return Packed.of_codes(
        task.packing, np.zeros(W.shape, np.int8), np.ones((2, 32, 1), np.float16)
    )


def wide_scales(task):
    return Packed.of_codes(task.packing, np.zeros(W.shape, np.int8), np.ones((2, 64, 1)))


OTHER = binq.quantize(W, "int4", group_size=32)._data


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda task: None, TypeError, "method 'own' must return a Packed, got NoneType"),
        (lambda task: OTHER, ValueError, r"must return int4 g128 of shape .*, got int4 g32"),
        (short_scales, ValueError, r"scales must have shape \(2, 64, 1\), got"),
        (wide_scales, TypeError, "scales must have dtype .*got float64"),
    ],
)
def test_what_does_not_fit_is_refused(make, error, text):
    with pytest.raises(error, match=text):
        binq.quantize(W, "int4", method=Own(make))


def test_what_is_not_a_method_is_refused():
    with pytest.raises(TypeError, match=r"an instance of binq\.methods\.Method, got class Own"):
        binq.quantize(W, "int4", method=Own)
    with pytest.raises(TypeError, match=r"one of 'mse', .* or an instance .*, got int"):
        binq.quantize(W, "int4", method=3)
    nameless = Own()
    nameless.name = None
    with pytest.raises(TypeError, match="the name of a method must be a string, got None"):
        binq.quantize(W, "int4", method=nameless)
    with pytest.raises(ValueError, match="method 'own' has no 'ternary'"):
        binq.quantize(W, "ternary", method=Own())
    with pytest.raises(ValueError, match="importance must be None for method 'own'"):
        binq.quantize(W, "int4", method=Own(), importance=np.ones(128))


def test_packing_prints_what_it_is():
    assert str(Packing.checked("int4", 64, False)) == "int4 g64 asymmetric"
