"""The published test vectors: every kernel set gives their bytes and bits."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest

import binq
from binq.formats import FORMATS

FOLDER = Path(__file__).parents[1] / "vectors"
FILES = sorted(FOLDER.glob("*.json"))


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def vector(request):
    return json.loads(request.param.read_text())


def scale_type(vector):
    return "u1" if vector.get("scale_dtype") == "e8m0" else "<f2"


def loaded(vector):
    """Returns the weights that the stored bytes of a vector make."""
    rows, columns = vector["shape"]
    tiles, groups = -(-rows // 32), -(-columns // vector["group_size"])
    packing_shape = (tiles, groups, 32)
    zeros, zero_kind = None, vector["zero"]
    zeros_shape = packing_shape if vector["format"] == "int8" else (tiles, groups, 16)
    if zero_kind == "code":
        zeros = np.frombuffer(bytes.fromhex(vector["stored_zeros"]), np.uint8)
        zeros = zeros.reshape(zeros_shape)
    elif zero_kind == "offset":
        zeros = np.frombuffer(bytes.fromhex(vector["stored_zeros"]), "<f2").reshape(packing_shape)
    like = binq.quantize(np.zeros(vector["shape"]), vector["format"], group_size=32)
    packed = np.frombuffer(bytes.fromhex(vector["packed"]), np.uint8).reshape(like.packed.shape)
    scales = np.frombuffer(bytes.fromhex(vector["stored_scales"]), scale_type(vector))
    scales = scales.reshape(packing_shape)
    key = "offsets" if zero_kind == "offset" and vector["format"] != "binary" else "zero_points"
    return binq.QuantizedArray(
        vector["format"],
        vector["shape"],
        vector["group_size"],
        zero_kind == "none",
        packed,
        scales,
        **({} if zeros is None else {key: zeros}),
    )


def test_every_kind_has_a_vector():
    kinds = {(v["format"], v["zero"]) for v in (json.loads(p.read_text()) for p in FILES)}
    assert kinds == {
        (name, zero) for name, f in FORMATS.items() for zero in ("none", *f.zero_kinds)
    }


def test_the_files_are_what_the_reference_makes():
    made = runpy.run_path(str(FOLDER / "make_vectors.py"))
    for kind in made["KINDS"]:
        assert made["path"](*kind).read_text() == made["text"](*kind)


def test_quantizing_gives_the_bytes(isa, vector):
    zero = None if vector["zero"] == "none" else vector["zero"]
    q = binq.quantize(
        np.array(vector["weights"], np.float32),
        vector["format"],
        group_size=vector["group_size"],
        symmetric=zero is None,
        zero=zero,
    )
    assert q == loaded(vector)
    np.testing.assert_array_equal(q.codes(), vector["codes"])
    np.testing.assert_array_equal(q.group_scales(), vector["scales"])


def test_products_have_the_bits(isa, vector):
    q = loaded(vector)
    x = np.array(vector["x"], np.float32)
    for mode, rows in vector["products"].items():
        y = binq.linear(x, q, activations=mode)
        assert [[f"{word:08x}" for word in row] for row in y.view(np.uint32).tolist()] == rows
    exact = np.array(vector["exact"])
    norms = np.linalg.norm(x.astype(np.float64), axis=1)[:, None] * 100
    assert (np.abs(binq.linear(x, q, activations="float32") - exact) <= 1e-6 * norms).all()
