"""Pack, unpack and dequantize on every kernel set: byte for byte the reference."""

import hypothesis.strategies as st
import numpy as np
from hypothesis import HealthCheck, given, settings
from strategies import GROUP_SIZES, kinds, random_quantized, sizes

from binq import _core, reference
from binq.formats import get_format

reuse_isa = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
cases = given(
    kind=kinds(),
    group_size=st.sampled_from(GROUP_SIZES),
    out_features=sizes(1, 140),
    in_features=sizes(1, 600),
    scale_dtype=st.sampled_from((np.float16, np.float32)),
    seed=st.integers(0, 2**32 - 1),
)


@reuse_isa
@cases
def test_pack_and_unpack_equal_the_reference(
    isa, kind, group_size, out_features, in_features, scale_dtype, seed
):
    format, symmetric = kind
    rng = np.random.default_rng(seed)
    q = random_quantized(rng, format, (out_features, in_features), group_size, symmetric)
    codes = q.codes()
    packed = reference.pack(codes, format, group_size, q.symmetric)
    np.testing.assert_array_equal(q.packed, packed)
    again = np.full(packed.size, 0xA5, np.uint8)
    packing = q._data.packing
    zero = _core.ZEROS[packing.zero]
    _core.pack(packing.kind.spec.number, zero, codes.view(np.int8), again, group_size or 0)
    np.testing.assert_array_equal(again.reshape(packed.shape), packed)
    unpacked = reference.unpack(packed, format, out_features, in_features, q.symmetric)
    np.testing.assert_array_equal(codes, unpacked)


@reuse_isa
@cases
def test_dequantize_equals_the_reference(
    isa, kind, group_size, out_features, in_features, scale_dtype, seed
):
    format, symmetric = kind
    rng = np.random.default_rng(seed)
    q = random_quantized(
        rng, format, (out_features, in_features), group_size, symmetric, scale_dtype
    )
    wanted = reference.dequantize(
        q.packed,
        q.scales,
        q._data.zeros,
        format=format,
        shape=q.shape,
        group_size=group_size,
    )
    np.testing.assert_array_equal(q.dequantize().view(np.uint32), wanted.view(np.uint32))


def test_every_binary_and_ternary_byte_unpacks_to_its_bits(isa):
    """Exhaustive: all 256 bytes in both planes."""
    packed = np.zeros((8, 4, 2, 32), np.uint8)
    values = np.arange(256, dtype=np.uint8).reshape(8, 32)
    packed[:, 0, 0] = values
    packed[:, 1, 1] = values
    packed[:, 2] = values[:, None]
    scales = np.ones((8, 1, 32), np.float16)
    codes = np.empty((256, 32), np.int8)
    matrix = _core.PackedMatrix(
        get_format("ternary").spec.number, 0,
        packed.reshape(-1), scales.reshape(-1).view(np.uint8), None,
        256, 32, 32, False, False,
    )  # fmt: skip
    matrix.unpack(codes)
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    bits = bits.astype(np.int8)
    np.testing.assert_array_equal(codes[:, :8], (bits + 0) // 2 + (bits - 1) * (bits == 0) + 0)
    np.testing.assert_array_equal(codes[:, 8:16], bits - 1)
    np.testing.assert_array_equal(codes[:, 16:24], 2 * bits - 1)
    np.testing.assert_array_equal(codes[:, 24:], -1)


def test_every_float16_scale_times_every_int4_code(isa):
    """Exhaustive: 65,536 scales times 16 codes, compared as bits (NaN payloads aside)."""
    halves = np.arange(65536, dtype=np.uint16).view(np.float16).reshape(-1, 1)
    codes = np.tile(np.arange(-8, 8, dtype=np.int8), (65536, 2))
    packed = reference.pack(codes, "int4", 32, True)
    scales = reference.tile_scales(halves)
    matrix = _core.PackedMatrix(
        get_format("int4").spec.number, 0,
        packed.reshape(-1), scales.reshape(-1).view(np.uint8), None,
        65536, 32, 32, False, False,
    )  # fmt: skip
    out = np.empty((65536, 32), np.float32)
    matrix.dequantize(out)
    with np.errstate(invalid="ignore"):
        wanted = halves.astype(np.float32) * codes.astype(np.float32)
    nan = np.isnan(wanted)
    np.testing.assert_array_equal(np.isnan(out), nan)
    np.testing.assert_array_equal(out[~nan].view(np.uint32), wanted[~nan].view(np.uint32))


def test_large_weights_dequantize_as_small_ones(isa, threads):
    """16 MB and more are written past the caches: whole tiles and the last rows and columns."""
    _core.set_num_threads(1)
    for format, symmetric in (("binary", False), ("ternary", True), ("int4", False)):
        rng = np.random.default_rng(7)
        shape = (40, 106_500)
        q = random_quantized(rng, format, shape, 128, symmetric)
        wanted = np.concatenate([q[:32].dequantize(), q[32:].dequantize()])
        for shift in (0, 1, 4):  # floats past an aligned address
            buffer = np.full(wanted.size + 24, np.nan, np.float32)
            first = -buffer.ctypes.data % 64 // 4 + shift
            out = buffer[first : first + wanted.size].reshape(shape)
            q.dequantize(out=out)
            np.testing.assert_array_equal(out.view(np.uint32), wanted.view(np.uint32))
            assert np.isnan(buffer[:first]).all()
            assert np.isnan(buffer[first + wanted.size :]).all()
