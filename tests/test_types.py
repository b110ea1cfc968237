"""What a type checker says of programs that use binq."""

import sys
import typing
from pathlib import Path

import pytest
from mypy import api

import binq
from binq import _core
from binq.array import choices
from binq.formats import FORMATS
from binq.formats.zeros import CODE, OFFSET
from binq.methods import METHODS

SOURCE = Path(binq.__file__).parent.parent
PROGRAM = """
import numpy as np
import binq

w = np.zeros((64, 64), np.float32)
q = binq.quantize(w, "int4", method="absmax", scale_dtype=np.float16)
y = binq.linear(w, q, activations="int8") + w @ q.T
{line}
"""


@pytest.fixture(scope="module")
def check(tmp_path_factory):
    folder = tmp_path_factory.mktemp("types")

    def check(line):
        program = folder / "program.py"
        program.write_text(PROGRAM.format(line=line))
        cache = f"--cache-dir={folder / 'cache'}"
        return api.run([str(program), "--strict", "--follow-imports=silent", cache])

    # From where the tests' own process imports it, be it installed or not.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MYPYPATH", str(SOURCE))
        yield check


def test_a_right_program_passes(check):
    out, err, code = check("")
    assert code == 0, out + err


@pytest.mark.parametrize(
    "line",
    [
        'binq.quantize(w, "int5")',
        'binq.quantize(w, "int4", method="mses")',
        'binq.quantize(w, "int4", symmetric=False, zero="codes")',
        'binq.quantize(w, "int4", scale_dtype="float64")',
        'binq.quantize(w, "int4", nonfinite="nan")',
        'binq.linear(w, q, activations="int4")',
        'binq.matmul(w, q.T, activations="fp32")',
        'binq.QuantizedArray.from_codes(w, w, format="int5")',
        'binq.quantize_checkpoint("a", "b", "int5")',
    ],
)
def test_a_wrong_word_is_named(check, line):
    out, _, code = check(line)
    assert code == 1
    # Of several forms of a function, mypy names none.
    forms = ('No overload variant of "linear"', 'No overload variant of "quantize"')
    assert 'incompatible type "Literal[' in out or any(form in out for form in forms)
    assert out.count("error:") == 1


def test_the_words_are_those_that_exist():
    words = {name: set(typing.get_args(getattr(choices, name))) for name in vars(choices)}
    assert words["FormatName"] == set(FORMATS)
    assert words["MethodName"] == set(METHODS)
    assert words["ZeroName"] == {CODE, OFFSET}
    assert words["ActivationsName"] == set(_core.ACTIVATIONS)


def test_types_are_shipped():
    assert (Path(sys.modules["binq"].__file__).parent / "py.typed").exists()
