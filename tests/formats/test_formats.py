"""Formats: codes to packed bytes and back, against the layout written out number by number."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from strategies import group_sizes, kinds, packing_of, random_quantized, shapes

from binq import reference
from binq.array.choices import FORMAT_NAMES
from binq.array.packing import Packing
from binq.formats import (
    FORMATS,
    Geometry,
    get_format,
    tile_rows,
    untile_rows,
)
from binq.formats.zeros import CODE, NONE, OFFSET, pack_zeros, unpack_zeros, zeros_shape


def reference_levels(format):
    return reference.FORMATS[format].levels


def packed_by_the_book(format, codes, geometry, symmetric):
    """Returns the packed bytes, one weight at a time, as docs/formats.md has it."""
    packed = np.zeros(get_format(format).packed_shape(geometry), np.uint8)
    for n, k in np.ndindex(codes.shape):
        code = int(codes[n, k])
        tile, row, block, at = n // 32, n % 32, k // 8, k % 8
        if format == "binary":
            packed[tile, block, row] |= (code == 1) << at
        elif format == "ternary":
            packed[tile, block, 0, row] |= (code >= 0) << at
            packed[tile, block, 1, row] |= (code > 0) << at
        elif format in ("int2", "int3"):
            bits = int(format[3])
            stored = code + (1 << bits - 1) if symmetric else code
            for plane in range(bits):
                packed[tile, block, plane, row] |= (stored >> plane & 1) << at
        elif format == "int8":
            packed[tile, 2 * block + at // 4, row, at % 4] = code + 128 if symmetric else code
        else:
            nibble = code
            if symmetric:
                nibble = code + 8 if format == "int4" else reference_levels(format).index(code)
            packed[tile, block, row, at % 4] |= nibble << (4 * (at // 4))
    return packed


@settings(max_examples=40, deadline=None)
@given(kinds(), shapes(0, 70), group_sizes(), st.integers(0, 2**32 - 1))
def test_pack_follows_the_layout(kind, shape, group_size, seed):
    name, symmetric = kind
    geometry = Geometry(*shape, group_size)
    zero = packing_of(name, symmetric).zero
    levels = get_format(name).codes(zero)
    codes = np.random.default_rng(seed).choice(np.array(levels), shape).astype(np.int8)
    codes.flags.writeable = False
    packed = get_format(name).pack(codes, geometry, zero)
    codes = codes if levels[-1] < 128 else codes.view(np.uint8)
    np.testing.assert_array_equal(packed, packed_by_the_book(name, codes, geometry, zero == "none"))


@settings(max_examples=60, deadline=None)
@given(kinds(), shapes(lead=2), group_sizes(), st.integers(0, 2**32 - 1))
def test_zero_points_survive(kind, shape, group_size, seed):
    name, symmetric = kind
    q = random_quantized(np.random.default_rng(seed), name, shape, group_size, symmetric)
    if q.symmetric:
        return
    zero = packing_of(name, symmetric).zero
    geometry = Geometry(*shape[-2:], group_size)
    stored = q.zero_points if q.offsets is None else q.offsets
    values = unpack_zeros(zero, stored, geometry)
    assert values.shape == (*shape[:-1], geometry.scale_groups)
    bits = get_format(name).bits
    np.testing.assert_array_equal(pack_zeros(zero, values, geometry, bits), stored)


@settings(max_examples=60, deadline=None)
@given(shapes(lead=2), group_sizes(), st.integers(0, 2**32 - 1))
def test_tile_rows(shape, group_size, seed):
    geometry = Geometry(*shape[-2:], group_size)
    values = np.random.default_rng(seed).random((*shape[:-1], geometry.scale_groups))
    tiled = tile_rows(values, geometry)
    assert tiled.shape == (*shape[:-2], *geometry.scales_shape)
    assert tiled.flags.c_contiguous
    np.testing.assert_array_equal(untile_rows(tiled, geometry), values)
    for n in range(geometry.tiles * 32):
        row = tiled[..., n // 32, :, n % 32]
        expected = values[..., n, :] if n < geometry.out_features else np.zeros_like(row)
        np.testing.assert_array_equal(row, expected)


@pytest.mark.parametrize(
    ("out", "inner", "group", "tiles", "groups", "padded", "scale_groups", "kernel_group"),
    [
        (0, 0, 128, 0, 0, 0, 0, 128),
        (0, 0, None, 0, 0, 0, 1, 128),
        (1, 1, 32, 1, 1, 32, 1, 32),
        (32, 128, 128, 1, 1, 128, 1, 128),
        (33, 129, 128, 2, 2, 256, 2, 128),
        (33, 129, None, 2, 2, 256, 1, 128),
        (2880, 2880, 256, 90, 12, 3072, 12, 256),
        (151669, 1024, 64, 4740, 16, 1024, 16, 64),
    ],
)
def test_geometry(out, inner, group, tiles, groups, padded, scale_groups, kernel_group):
    geometry = Geometry(out, inner, group)
    assert geometry.tiles == tiles
    assert geometry.groups == groups
    assert geometry.padded_in == padded
    assert geometry.scale_groups == scale_groups
    assert geometry.kernel_group == kernel_group
    assert geometry.scales_shape == (tiles, scale_groups, 32)
    assert FORMATS["binary"].packed_shape(geometry) == (tiles, padded // 8, 32)
    assert zeros_shape(OFFSET, geometry, 4) == (tiles, scale_groups, 32)
    assert FORMATS["ternary"].packed_shape(geometry) == (tiles, padded // 8, 2, 32)
    assert FORMATS["int2"].packed_shape(geometry) == (tiles, padded // 8, 2, 32)
    assert FORMATS["int3"].packed_shape(geometry) == (tiles, padded // 8, 3, 32)
    assert FORMATS["int4"].packed_shape(geometry) == (tiles, padded // 8, 32, 4)
    assert FORMATS["int8"].packed_shape(geometry) == (tiles, padded // 4, 32, 4)
    assert zeros_shape(CODE, geometry, 4) == (tiles, scale_groups, 16)
    assert zeros_shape(CODE, geometry, 8) == (tiles, scale_groups, 32)


def test_geometry_is_immutable():
    with pytest.raises(AttributeError):
        Geometry(1, 1, 32).out_features = 2


def test_registry():
    names = ["binary", "ternary", "int2", "int3", "int4", "int8", "mxfp4", "iq4nl"]
    assert list(FORMATS) == names
    assert list(FORMATS) == list(FORMAT_NAMES)
    for name, format in FORMATS.items():
        assert get_format(name) is format
        assert format.name == name
    assert [f.bits for f in FORMATS.values()] == [1, 2, 2, 3, 4, 8, 4, 4]


@pytest.mark.parametrize("name", ["int5", "INT4", "", "binary "])
def test_unknown_format(name):
    known = ", ".join(map(repr, FORMATS))
    message = f"^format must be one of {known}, got {name!r}$"
    with pytest.raises(ValueError, match=message):
        get_format(name)


@pytest.mark.parametrize("name", [4, None, ["int4"], b"int4"])
def test_format_not_a_string(name):
    with pytest.raises(
        TypeError,
        match=r"^format must be one of 'binary', 'ternary', 'int2', 'int3', 'int4', .*, got ",
    ):
        get_format(name)


def test_levels():
    assert FORMATS["binary"].codes(NONE) == FORMATS["binary"].codes(OFFSET) == (-1, 1)
    assert FORMATS["ternary"].codes(NONE) == (-1, 0, 1)
    assert FORMATS["int2"].codes(NONE) == (-2, -1, 0, 1)
    assert FORMATS["int2"].codes(OFFSET) == (0, 1, 2, 3)
    assert FORMATS["int3"].codes(NONE) == tuple(range(-4, 4))
    assert FORMATS["int3"].codes(OFFSET) == tuple(range(8))
    assert FORMATS["int4"].codes(NONE) == tuple(range(-8, 8))
    assert FORMATS["int4"].codes(CODE) == tuple(range(16))
    assert FORMATS["int8"].codes(NONE) == tuple(range(-128, 128))
    assert FORMATS["int8"].codes(CODE) == tuple(range(256))
    assert FORMATS["mxfp4"].codes(NONE) == (-12, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 12)
    assert len(FORMATS["iq4nl"].codes(NONE)) == 16
    for name, format in FORMATS.items():
        assert format.spec.levels == reference.FORMATS[name].levels
        assert format.bias == reference.FORMATS[name].bias


def test_ternary_has_no_zero_points():
    with pytest.raises(ValueError, match="symmetric must be True for format 'ternary'"):
        Packing.checked("ternary", symmetric=False)
