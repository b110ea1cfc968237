"""What rounding the scale costs: nothing where float16 can hold the weights as they are."""

import numpy as np
import pytest

import binq
from binq.formats import FORMATS

PACKINGS = [
    (name, settings)
    for name, format in FORMATS.items()
    # Uneven levels have no step that all weights could be whole numbers of.
    if len(set(np.diff(format.codes("none")))) == 1
    for settings in ({}, *({"symmetric": False, "zero": zero} for zero in format.zero_kinds))
]
VALUES = (1.0, -1.0, 0.37, -0.37, 1 / 3, 0.1, -2.2, 7.3e-3, 1000.0)


def quantized(w, format, settings):
    return binq.quantize(np.tile(w, (32, 1)), format, group_size=64, **settings)


@pytest.mark.parametrize("importance", [None, np.arange(64) % 7])
@pytest.mark.parametrize(("format", "settings"), PACKINGS)
def test_constants_come_back_exactly(isa, format, settings, importance):
    for value in VALUES:
        w = np.full(64, np.float16(value), np.float32)
        q = quantized(w, format, settings | {"importance": importance})
        np.testing.assert_array_equal(q.dequantize()[0], w)


@pytest.mark.parametrize(("format", "settings"), PACKINGS)
def test_the_identity_comes_back_exactly(isa, format, settings):
    if format == "binary" and not settings:
        return  # Two levels of opposite sign.
    eye = np.eye(64, dtype=np.float32)
    q = binq.quantize(eye, format, group_size=64, **settings)
    np.testing.assert_array_equal(q.dequantize(), eye)


@pytest.mark.parametrize("step", [1, 3, 5, 0.7])
@pytest.mark.parametrize("most", [1, 2, 3, 7])
def test_multiples_of_what_float16_holds_come_back_exactly(isa, step, most):
    step = np.float16(step / 16).astype(np.float32)
    w = np.random.default_rng(most).integers(-most, most + 1, (40, 256)) * step
    settings_of_all = [{}, {"symmetric": False}, {"symmetric": False, "zero": "offset"}]
    if float(np.float16(most * step)) != most * step:
        settings_of_all.pop()  # The offset is a level: float16 must hold it too.
    for settings in settings_of_all:
        q = binq.quantize(w, "int4", group_size=32, **settings)
        np.testing.assert_array_equal(q.dequantize(), w)


@pytest.mark.parametrize("format", ["int2", "int4"])
def test_no_float16_beside_the_scale_is_better(isa, format):
    rng = np.random.default_rng(0)
    w = rng.standard_normal((200, 32)).astype(np.float32)
    q = binq.quantize(w, format, group_size=32)
    low, high = q._data.packing.kind.codes("none")[0], q._data.packing.kind.codes("none")[-1]
    scales = q.group_scales().astype(np.float16)

    def losses(scales):
        s = scales.astype(np.float64)
        steps = np.clip(np.rint(w / s), low, high)
        return np.square(w - s * steps).sum(axis=1)

    found = losses(scales)
    for side in (np.inf, -np.inf):
        beside = losses(np.nextafter(scales, np.float16(side)))
        assert (found <= beside * (1 + 1e-9)).all()
