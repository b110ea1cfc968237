"""Weights in a rotated basis: transform, products, values, files."""

import copy
import pickle

import numpy as np
import pytest

import binq
from binq import Rotation
from binq.errors import FormatError
from binq.files import metadata
from binq.reference import rotation as reference

FORMATS = {"binary": [-1, 1], "ternary": [-1, 0, 1], "int2": [-2, -1, 0, 1], "int4": range(-8, 8)}


def rng(*key):
    return np.random.default_rng([len(str(key)), *map(ord, str(key))])


def signs_of(size):
    return rng("signs", size).choice([-1, 1], size)


def weights(format="ternary", shape=(40, 256), block=64, group_size=64):
    r = rng(format, shape)
    codes = r.choice(list(FORMATS[format]), shape)
    groups = 1 if group_size is None else -(-shape[-1] // group_size)
    scales = r.uniform(0.5, 2, (*shape[:-1], groups)).astype(np.float16)
    rotation = Rotation.of(block, signs_of(shape[-1]))
    made = {"format": format, "group_size": group_size}
    return (
        binq.QuantizedArray.from_codes(codes, scales, rotation=rotation, **made),
        binq.QuantizedArray.from_codes(codes, scales, **made),
    )


def matrix(block, size, signs):
    """Returns H S of a whole row, from the definition of Sylvester's matrix."""
    bits = np.arange(size)
    common = np.bitwise_count(bits[:, None] % block & bits % block)
    h = (1.0 - 2 * (common % 2)) * (bits[:, None] // block == bits // block)
    return h / np.sqrt(block) * signs


@pytest.mark.parametrize("block", [1, 2, 4, 8, 16, 32, 64, 128, 512, 1024, 4096])
@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.usefixtures("isa")
def test_kernel_is_the_reference_to_the_bit(block, rows):
    size = max(3 * block, 8)
    size += -size % block
    x = rng(block, rows).standard_normal((rows, size)).astype(np.float32)
    signs = signs_of(size).astype(np.float32)
    rotation = Rotation.of(block, signs)
    there = rotation.forward(x)
    np.testing.assert_array_equal(there, reference.rotate(x, signs, block))
    back = there.copy()
    rotation.back(back)
    np.testing.assert_array_equal(back, reference.rotate_back(there, signs, block))
    np.testing.assert_allclose(back, x, rtol=0, atol=1e-5)
    if size <= 512:
        np.testing.assert_allclose(there, x @ matrix(block, size, signs).T, rtol=0, atol=1e-5)


def test_many_rows_are_shared_among_threads():
    x = rng("many").standard_normal((2000, 256)).astype(np.float32)
    rotation = Rotation.of(64, signs_of(256))
    before = binq.get_num_threads()
    try:
        binq.set_num_threads(1)
        one = rotation.forward(x)
        binq.set_num_threads(2)
        np.testing.assert_array_equal(rotation.forward(x), one)
    finally:
        binq.set_num_threads(before)


@pytest.mark.parametrize("format", FORMATS)
def test_dequantize_gives_the_basis_of_x(format):
    q, plain = weights(format)
    expected = plain.dequantize() @ matrix(64, 256, signs_of(256))
    np.testing.assert_allclose(q.dequantize(), expected, rtol=0, atol=1e-4)
    np.testing.assert_array_equal(q[3:9].dequantize(), q.dequantize()[3:9])
    np.testing.assert_array_equal(q[[7, 1, 7]].dequantize(), q.dequantize()[[7, 1, 7]])
    np.testing.assert_array_equal(q.dequantize(np.float64), q.dequantize().astype(np.float64))
    np.testing.assert_array_equal((2 * q).dequantize(), 2 * q.dequantize())


@pytest.mark.parametrize("mode", ["float32", "int16", "int8"])
@pytest.mark.parametrize("rows", [1, 7, 40])
def test_products_rotate_x(mode, rows):
    q, plain = weights("ternary")
    x = rng("x", rows).standard_normal((rows, 256)).astype(np.float32)
    turned = q.rotation.forward(x)
    expected = binq.linear(turned, plain, activations=mode)
    np.testing.assert_array_equal(binq.linear(x, q, activations=mode), expected)
    prepared = binq.prepare(x, like=q, activations=mode)
    np.testing.assert_array_equal(binq.linear(prepared, q), expected)
    np.testing.assert_array_equal(binq.linear(x, [q, plain, q], activations=mode)[2], expected)
    np.testing.assert_array_equal(
        binq.linear(x, [q, plain], activations=mode)[1], binq.linear(x, plain, activations=mode)
    )
    np.testing.assert_array_equal(binq.linear(x[:1], q[3:9], activations=mode), expected[:1, 3:9])
    near = x.astype(np.float64) @ q.dequantize().T.astype(np.float64)
    bound = {"float32": 1e-6, "int16": 3e-4, "int8": 2e-2}[mode]
    assert np.linalg.norm(expected - near) <= bound * np.linalg.norm(near)
    with pytest.raises(ValueError, match="prepared for"):
        binq.linear(prepared, plain)


def test_stacks_and_experts():
    q, plain = weights("int4", (3, 40, 256), group_size=32)
    x = rng("experts").standard_normal((5, 256)).astype(np.float32)
    ids = [2, 0, 1, 1, 2]
    expected = binq.linear(q.rotation.forward(x), plain, experts=ids)
    np.testing.assert_array_equal(binq.linear(x, q, experts=ids), expected)
    np.testing.assert_array_equal(x @ q.mT, q.rotation.forward(x) @ plain.mT)
    np.testing.assert_array_equal(x @ q[1].T, q.rotation.forward(x) @ plain[1].T)


def test_a_value_with_its_rotation(tmp_path):
    q, plain = weights()
    assert q != plain
    assert str(q._data.packing) == "ternary g64 rotated 64"
    for same in (copy.deepcopy(q), pickle.loads(pickle.dumps(q))):
        assert same == q
        assert same.rotation == q.rotation
    assert binq.concatenate([q, q]).rotation == q.rotation
    assert binq.stack([q, q])[1] == q
    with pytest.raises(ValueError, match="do not join along columns"):
        binq.concatenate([q, q], axis=1)
    with pytest.raises(ValueError, match="rotation"):
        binq.concatenate([q, plain])
    path = tmp_path / "m.safetensors"
    binq.save_file({"w": q, "plain": plain}, path)
    loaded = binq.load_file(path)
    assert loaded["w"] == q
    assert loaded["plain"] == plain
    assert metadata.Description.of(q).version == 4
    np.testing.assert_array_equal(loaded["w"].dequantize(), q.dequantize())


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('"block":64', '"block":48', "power of two"),
        ('"block":64', '"block":"64"', "block must be an integer"),
        ('"block":64', '"stage":64', "exactly block and flips"),
        ('"flips":"', '"flips":"00', "signs of 256 inputs"),
        ('"flips":"', '"flips":"zz', "hexadecimal"),
        ('"version":4', '"version":3', "must have exactly"),
        ('"version":4', '"version":6', "newer"),
    ],
)
def test_descriptions_that_do_not_fit_are_refused(old, new, reason):
    text = metadata.dump({"w": metadata.Description.of(weights()[0])})
    assert old in text
    with pytest.raises((FormatError, binq.UnsupportedFormatError), match=reason):
        metadata.parse(text.replace(old, new), "m")


@pytest.mark.parametrize(
    ("block", "signs", "reason"),
    [
        (48, np.ones(96), "power of two"),
        (64, np.ones(96), "divides 96"),
        (32, np.zeros(96), "−1 and 1"),
        (32, np.ones((3, 32)), "one axis"),
    ],
)
def test_rotations_that_there_are_not(block, signs, reason):
    with pytest.raises(ValueError, match=reason):
        Rotation.of(block, signs)


def test_arguments_of_from_codes():
    made = {"format": "binary", "group_size": 32}
    with pytest.raises(TypeError, match="must be a Rotation"):
        binq.QuantizedArray.from_codes(np.ones((2, 64), int), np.ones((2, 2)), rotation=64, **made)
    with pytest.raises(ValueError, match="signs of 64 inputs"):
        binq.QuantizedArray.from_codes(
            np.ones((2, 64), int), np.ones((2, 2)), rotation=Rotation.of(32, np.ones(32)), **made
        )
