"""The error of each activation mode against float64: the numbers that docs/accuracy.md states."""

import re
from pathlib import Path

import numpy as np
import pytest

import binq
from binq.formats import get_format
from binq.methods import METHODS

PAGE = Path(__file__).parent.parent / "docs" / "accuracy.md"
FORMATS = ("binary", "ternary", "int2", "int4")
MODES = ("float32", "int16", "int8")
INPUTS = ("Gaussian", "Student t5", "1 % outliers x 30")


def activations(kind: str) -> np.ndarray:
    rng = np.random.default_rng(5)
    shape = (64, 2048)
    if kind == "Student t5":
        return rng.standard_t(5, shape).astype(np.float32)
    x = rng.standard_normal(shape, dtype=np.float32)
    if kind == "Gaussian":
        return x
    return np.where(rng.random(shape) < 0.01, 30 * x, x).astype(np.float32)


def measured(format: str, mode: str, kind: str) -> float:
    """Returns the root mean square error of x @ q.T, relative to that of the exact product."""
    w = np.random.default_rng(6).standard_normal((512, 2048), dtype=np.float32)
    q = binq.quantize(w, format, method=METHODS[get_format(format).methods[-1]])
    x = activations(kind)
    exact = x.astype(np.float64) @ q.dequantize().T.astype(np.float64)
    y = binq.linear(x, q, activations=mode)
    return float(np.linalg.norm(y - exact) / np.linalg.norm(exact))


def stated() -> dict[tuple[str, str, str], float]:
    """Returns the table of the page: (format, mode, kind of x) -> error."""
    rows = re.findall(r"^\| (\w+) \| (\w+) \| (\S+) \| (\S+) \| (\S+) \|$", PAGE.read_text(), re.M)
    return {
        (format, mode, kind): float(value)
        for format, mode, *values in rows
        if format in FORMATS
        for kind, value in zip(INPUTS, values, strict=True)
    }


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("mode", ["int16", "int8"])
def test_the_page_states_what_the_integer_modes_do(isa, format, mode):
    table = stated()
    for kind in INPUTS:
        assert measured(format, mode, kind) == pytest.approx(table[format, mode, kind], rel=0.02)


@pytest.mark.parametrize("format", FORMATS)
def test_the_modes_keep_their_promises(isa, format):
    for kind in INPUTS:
        assert measured(format, "float32", kind) <= 1e-6
    for kind in INPUTS[:2]:
        assert measured(format, "int16", kind) <= 2e-4
        assert measured(format, "int8", kind) <= 1e-2
