"""What binq writes as GPTQ, AWQ and BitNet are the bytes of the libraries that own them."""

from pathlib import Path

import numpy as np
import pytest

import binq
from binq.formats import FORMATS
from binq.storage import get
from binq.storage.awq_writer import Awq
from binq.storage.bits import unpack
from binq.storage.gptq_writer import Gptq

GOLDEN = Path(__file__).parents[1] / "golden" / "packers.npz"
NAME = "model.layers.0.mlp.up_proj.weight"
MODULE = NAME.removesuffix(".weight")
FORMAT = {2: "int2", 3: "int3", 4: "int4", 8: "int8"}


def golden(case):
    with np.load(GOLDEN) as file:
        return {
            name.removeprefix(f"{case}/"): file[name]
            for name in file
            if name.startswith(f"{case}/")
        }


def packed(made, bits, symmetric):
    """Returns the codes of a golden case as binq has them."""
    codes, scales = made["codes"].astype(np.int16), made["group_scales"]
    format, zeros = FORMAT[bits], made["zeros"]
    if symmetric:
        codes, zeros = codes - (1 << (bits - 1)), None
    return binq.QuantizedArray.from_codes(
        codes, scales, format=format, group_size=32, zero_points=zeros
    )


def same(written, made, parts):
    assert len(written) == len(parts)
    for part in parts:
        array = written[f"{MODULE}.{part}"]
        assert array.dtype == made[part].dtype
        assert np.array_equal(array, made[part]), part


@pytest.mark.parametrize("bits", [bits for bits in FORMAT if FORMAT[bits] in FORMATS])
def test_symmetric_weights_are_gptqs_version_1(bits):
    made = golden(f"gptq.{bits}.symmetric.1")
    q = packed(made, bits, symmetric=True)
    same(get("gptq").write(NAME, q), made, ("qweight", "qzeros", "scales", "g_idx"))


def test_zero_points_are_gptqs_version_2():
    made = golden("gptq.4.asymmetric.2")
    q = packed(made, 4, symmetric=False)
    scheme = get("gptq").fitted({NAME: q})
    assert scheme.settings({NAME: q})["checkpoint_format"] == "gptq_v2"
    same(scheme.write(NAME, q), made, ("qweight", "qzeros", "scales", "g_idx"))
    with pytest.raises(binq.UnsupportedFormatError, match="version 1 has not"):
        get("gptq").write(NAME, q)


def test_awq():
    made = golden("awq")
    q = packed(made, 4, symmetric=False)
    same(get("awq").write(NAME, q), made, ("qweight", "qzeros", "scales"))


def test_bitnet():
    made = golden("bitnet")
    q = binq.QuantizedArray.from_codes(
        made["codes"], np.full((32, 1), 0.75), format="ternary", group_size=None
    )
    written = get("bitnet").write(NAME, q)
    assert np.array_equal(written[NAME], made["weight"])
    assert written[f"{NAME}_scale"].tolist() == [0.75]
    assert written[f"{NAME}_scale"].dtype == np.float32


def test_a_matrix_of_many_blocks_is_written_whole(monkeypatch):
    monkeypatch.setattr("binq.storage.coded_rows._BLOCK", 1)
    w = np.random.default_rng(0).standard_normal((104, 64))
    q = binq.quantize(w, "int4", group_size=32, symmetric=False)
    two = Gptq(2)
    several = two.write(NAME, q), get("awq").write(NAME, q)
    monkeypatch.undo()
    for one, other in zip(several, (two.write(NAME, q), get("awq").write(NAME, q)), strict=True):
        assert all(np.array_equal(one[name], other[name]) for name in one)


def weights(format="int4", shape=(64, 256), **settings):
    return binq.quantize(np.random.default_rng(1).standard_normal(shape), format, **settings)


REFUSED = [
    ("gptq", weights(symmetric=False, zero="offset"), "an offset a group"),
    ("gptq", weights(shape=(8, 80), group_size=64), "the last ragged"),
    ("gptq", weights(shape=(8, 48), group_size=None), "48 inputs, not a multiple of 32"),
    ("gptq", weights(shape=(2, 8, 64), group_size=32), "a stack of matrices"),
    ("awq", weights(shape=(12, 64), group_size=32), "12 outputs, not a multiple of 8"),
    ("awq", weights(shape=(8, 80), group_size=64), "the last ragged"),
    ("awq", weights(symmetric=False, zero="offset"), "an offset a group"),
    ("bitnet", weights(), "format 'int4': they are ternary"),
    ("bitnet", weights("ternary"), "scales that differ, here from"),
    ("bitnet", weights("ternary", shape=(6, 64)), "6 outputs, not a multiple of 4"),
    *((form, weights()[:0], "no weights at all") for form in ("gptq", "awq", "bitnet")),
]


@pytest.mark.parametrize(("form", "q", "reason"), REFUSED, ids=str)
def test_what_is_refused(form, q, reason):
    with pytest.raises(binq.UnsupportedFormatError, match=f"up_proj.weight: .*{reason}"):
        get(form).fitted({NAME: q}).check(NAME, q)


@pytest.mark.parametrize("form", ["gptq", "awq", "bitnet"])
@pytest.mark.parametrize(
    ("name", "reason"),
    [("model.embed_tokens.weight", "an embedding"), ("x.bias", "names end in .weight")],
)
def test_names_that_are_refused(form, name, reason):
    with pytest.raises(binq.UnsupportedFormatError, match=reason):
        get(form).check(name, weights("ternary"))


@pytest.mark.parametrize("form", ["gptq", "awq"])
def test_scales_that_float16_does_not_hold_are_refused(form):
    codes = np.ones((8, 32), np.int8)
    odd = binq.QuantizedArray.from_codes(
        codes, np.full((8, 1), 1 / 3), format="int4", group_size=32
    )
    with pytest.raises(binq.UnsupportedFormatError, match="float32 scales that float16"):
        get(form).check(NAME, odd)
    half = odd.scales.copy()
    half[:] = 0.5
    same = binq.QuantizedArray("int4", (8, 32), 32, True, odd.packed, half)
    assert same.scales.dtype == np.float32
    written = get(form).write(NAME, same)[f"{MODULE}.scales"]
    assert written.dtype == np.float16
    assert (written == 0.5).all()


def test_a_group_size_that_all_have_is_found_for_awq():
    some = {f"a{size}.weight": weights(group_size=size) for size in (64, 128, 256, None)}
    scheme = get("awq").fitted(some)
    assert scheme.settings(some)["group_size"] == 64
    for name, q in some.items():
        assert scheme.write(name, q)[name.replace("weight", "scales")].shape == (4, 64)
    odd = {"a.weight": weights(shape=(8, 96), group_size=32), **some}
    assert get("awq").fitted(odd).settings(odd)["group_size"] == 32
    other = {"b.weight": weights(shape=(8, 96), group_size=None), **some}
    with pytest.raises(binq.UnsupportedFormatError, match="one group size for all"):
        get("awq").fitted(other).check("b.weight", other["b.weight"])
    with pytest.raises(binq.UnsupportedFormatError, match=r"these have \[-1, 64, 128\]"):
        Awq().settings(some)


def test_rows_of_one_group_stay_so_in_awq():
    q = weights(group_size=None)
    assert get("awq").fitted({NAME: q}).settings({NAME: q})["group_size"] == -1


def test_a_ragged_last_group_becomes_smaller_ones():
    q = weights(shape=(32, 160), group_size=128, symmetric=False)
    scales, zeros = q.group_scales(), q.group_zero_points()
    for form in ("gptq", "awq"):
        scheme = get(form).fitted({NAME: q})
        assert scheme.settings({NAME: q})["group_size"] == 32
        parts = scheme.write(NAME, q)
        assert np.array_equal(parts[f"{MODULE}.scales"], scales[:, [0, 0, 0, 0, 1]].T)
        assert len(parts[f"{MODULE}.qzeros"]) == 5
    stored = unpack(get("gptq").fitted({NAME: q}).write(NAME, q)[f"{MODULE}.qzeros"], 4, 32)
    assert np.array_equal(stored, zeros[:, [0, 0, 0, 0, 1]].T)
