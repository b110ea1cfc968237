"""The reference against bytes and numbers worked out by hand."""

import numpy as np
import pytest

from binq import reference

KINDS = [
    ("binary", True),
    ("binary", False),
    ("ternary", True),
    ("int4", True),
    ("int4", False),
    ("int8", True),
    ("int8", False),
]
LEVELS = {
    ("binary", True): [-1, 1],
    ("binary", False): [-1, 1],
    ("ternary", True): [-1, 0, 1],
    ("int4", True): range(-8, 8),
    ("int4", False): range(16),
    ("int8", True): range(-128, 128),
    ("int8", False): range(256),
}


def random_weights(rng, format, symmetric, shape, group_size, scale_dtype=np.float16):
    """Returns random (codes, scales, zero points), all in row-major order."""
    logical = (shape[0], reference.count_scale_groups(shape[1], group_size))
    levels = list(LEVELS[format, symmetric])
    codes = rng.choice(levels, shape).astype(np.uint8 if levels[-1] > 127 else np.int8)
    scales = rng.uniform(-1, 1, logical).astype(scale_dtype)
    zero_points = None
    if not symmetric and format in ("int4", "int8"):
        zero_points = rng.integers(0, len(levels), logical).astype(np.uint8)
    elif not symmetric:
        zero_points = rng.uniform(-1, 1, logical).astype(scale_dtype)
    return codes, scales, zero_points


def stored(codes, scales, zero_points, format, group_size):
    return (
        reference.pack(codes, format, group_size, zero_points is None),
        reference.tile_scales(scales),
        None if zero_points is None else reference.pack_zero_points(zero_points, format),
    )


def test_binary_bytes():
    codes = np.array([[1, -1, -1, -1, -1, -1, -1, 1], [-1, 1, 1, -1, -1, -1, -1, -1]])
    packed = reference.pack(codes, "binary", 32)
    assert packed.shape == (1, 4, 32)
    assert packed[0, 0, :3].tolist() == [0b10000001, 0b00000110, 0]
    assert not packed[0, 1:].any()


def test_ternary_bytes():
    codes = np.array([[1, 0, -1, 0, 1, -1, -1, -1]])
    packed = reference.pack(codes, "ternary", 32)
    assert packed.shape == (1, 4, 2, 32)
    assert packed[0, 0, :, 0].tolist() == [0b00011011, 0b00010001]
    assert packed.sum() == 0b00011011 + 0b00010001


def test_the_unwritten_ternary_pair_reads_as_zero():
    packed = np.zeros((1, 4, 2, 32), np.uint8)
    packed[0, 0, 1, 0] = 0b1
    assert reference.unpack(packed, "ternary", 1, 2).tolist() == [[0, -1]]


def test_int4_bytes():
    codes = np.array([[-8, -7, 0, 7, 1, 2, 3, -1]])
    packed = reference.pack(codes, "int4", 32)
    assert packed.shape == (1, 4, 32, 4)
    assert packed[0, 0, 0].tolist() == [0x90, 0xA1, 0xB8, 0x7F]
    assert packed.any(axis=-1).sum() == 1


def test_int4_asymmetric_bytes():
    codes = np.array([[0, 1, 2, 3, 4, 5, 6, 15]])
    packed = reference.pack(codes, "int4", 32, symmetric=False)
    assert packed[0, 0, 0].tolist() == [0x40, 0x51, 0x62, 0xF3]


def test_int8_bytes():
    codes = np.array([[-128, -127, 0, 127, 1, 2, 3, -1]])
    packed = reference.pack(codes, "int8", 32)
    assert packed.shape == (1, 8, 32, 4)
    assert packed[0, :2, 0].tolist() == [[0, 1, 128, 255], [129, 130, 131, 127]]
    assert packed.any(axis=-1).sum() == 2
    codes = np.array([[0, 1, 2, 255]])
    packed = reference.pack(codes, "int8", 32, symmetric=False)
    assert packed[0, 0, 0].tolist() == [0, 1, 2, 255]
    assert reference.unpack(packed, "int8", 1, 4, symmetric=False).dtype == np.uint8


def test_int8_zero_points_are_bytes():
    zero_points = np.array([[200], [3]], np.uint8)
    packed = reference.pack_zero_points(zero_points, "int8")
    assert packed.shape == (1, 1, 32)
    assert packed[0, 0, :3].tolist() == [200, 3, 0]
    assert (reference.unpack_zero_points(packed, 2) == zero_points).all()


def test_zero_point_bytes():
    zero_points = np.zeros((20, 1), np.uint8)
    zero_points[[0, 16, 3, 19], 0] = [1, 2, 15, 4]
    packed = reference.pack_zero_points(zero_points)
    assert packed.shape == (1, 1, 16)
    assert packed[0, 0, [0, 1, 3]].tolist() == [0x21, 0x00, 0x4F]


def test_scales_of_a_row_are_one_column_of_a_tile():
    scales = np.arange(33 * 2, dtype=np.float16).reshape(33, 2)
    tiled = reference.tile_scales(scales)
    assert tiled.shape == (2, 2, 32)
    assert tiled[0, 1, 5] == 11
    assert tiled[1, :, 0].tolist() == [64, 65]
    assert not tiled[1, :, 1:].any()


@pytest.mark.parametrize(("format", "symmetric"), KINDS)
@pytest.mark.parametrize("group_size", [32, 64, 128, 256, None])
@pytest.mark.parametrize("shape", [(1, 1), (33, 129), (64, 256), (5, 300), (0, 7), (7, 0)])
def test_pack_and_unpack_are_inverse(format, symmetric, group_size, shape):
    rng = np.random.default_rng(1)
    codes, scales, zero_points = random_weights(rng, format, symmetric, shape, group_size)
    packed, tiled, packed_zeros = stored(codes, scales, zero_points, format, group_size)
    assert (reference.unpack(packed, format, *shape, symmetric) == codes).all()
    assert (reference.untile_scales(tiled, shape[0]) == scales).all()
    if packed_zeros is not None:
        back = reference.unpack_zero_points(packed_zeros, shape[0])
        assert (back == zero_points).all()


def test_dequantize_by_hand():
    codes = np.array([[0, 15, 7]], np.int8)
    parts = stored(codes, np.array([[0.5]], np.float16), np.array([[7]], np.uint8), "int4", 32)
    weights = reference.dequantize(*parts, format="int4", shape=(1, 3), group_size=32)
    assert weights.tolist() == [[-3.5, 4.0, 0.0]]


def test_dequantize_two_levels_by_hand():
    codes = np.array([[1, -1]], np.int8)
    parts = stored(codes, np.array([[2.0]], "e"), np.array([[0.25]], "e"), "binary", 64)
    weights = reference.dequantize(*parts, format="binary", shape=(1, 2), group_size=64)
    assert weights.tolist() == [[2.25, -1.75]]


def test_activations_by_hand():
    x = np.array([[1.0, -0.5, 0.25], [0, 0, 0], [np.inf, 0, 0], [2.0**-101, 0, 0]], np.float32)
    integers, scales, unfit = reference.quantize_activations(x, 32, 127)
    assert integers.shape == (4, 1, 32)
    assert integers[0, 0, :3].tolist() == [127, -64, 32]  # 63.5 and 31.75; halves go to even
    assert scales[:, 0].tolist() == [np.float32(1) / np.float32(127), 0, 0, 0]
    assert unfit.tolist() == [False, False, True, True]


@pytest.mark.parametrize(("format", "symmetric"), KINDS)
@pytest.mark.parametrize("group_size", [32, 128, None])
@pytest.mark.parametrize(
    ("activations", "bound"), [("float32", 1e-6), ("int16", 2e-4), ("int8", 1e-2)]
)
def test_matmul_is_near_the_float64_product(format, symmetric, group_size, activations, bound):
    rng = np.random.default_rng(2)
    shape = (45, 300)
    parts = stored(*random_weights(rng, format, symmetric, shape, group_size), format, group_size)
    kind = {"format": format, "shape": shape, "group_size": group_size}
    x = rng.standard_normal((5, 300), dtype=np.float32)
    exact = x.astype(np.float64) @ reference.dequantize(*parts, **kind).T.astype(np.float64)
    y = reference.matmul(x, *parts, **kind, activations=activations)
    assert y.dtype == np.float32
    assert np.linalg.norm(y - exact) <= bound * np.linalg.norm(exact)


@pytest.mark.parametrize("activations", ["int16", "int8"])
def test_an_unfit_row_leaves_the_others_alone(activations):
    rng = np.random.default_rng(3)
    shape = (33, 70)
    parts = stored(*random_weights(rng, "ternary", True, shape, 32), "ternary", 32)
    kind = {"format": "ternary", "shape": shape, "group_size": 32, "activations": activations}
    x = rng.standard_normal((3, 70), dtype=np.float32)
    expected = reference.matmul(x, *parts, **kind)
    x[1, 3] = np.nan
    x[2] *= np.float32(2.0**-110)
    y = reference.matmul(x, *parts, **kind)
    assert (y[0] == expected[0]).all()
    assert np.isnan(y[1]).all()
    assert np.allclose(y[2] * 2.0**110, expected[2], rtol=0.05, atol=0.05)


def test_empty_weights():
    for shape in ((0, 5), (3, 0), (0, 0)):
        parts = stored(
            np.zeros(shape, np.int8),
            np.zeros((shape[0], -(-shape[1] // 32)), "e"),
            None,
            "int4",
            32,
        )
        y = reference.matmul(
            np.ones((2, shape[1]), "f"), *parts, format="int4", shape=shape, group_size=32
        )
        assert y.shape == (2, shape[0])
        assert not y.any()
