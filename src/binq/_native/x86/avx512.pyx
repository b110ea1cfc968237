"""The kernels for AVX-512 with VNNI, exported as the capsule ``table``.

The table is that of AVX2, which every such processor runs, with the products that wider vectors or
VNNI make faster in place of its own.
"""

from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_New
from libc.stdint cimport int8_t, int16_t, int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from binq._native.x86.immintrin cimport *
from binq._native.x86.immintrin512 cimport *
from binq._native.table cimport *

from binq._native.x86 import avx2

include "activations.pxi"
include "scales.pxi"
include "avx2_lut_tables.pxi"
include "avx2_lut_sums.pxi"
include "avx2_lut_gemv.pxi"
include "avx2_lut_planes.pxi"
include "avx512_nibbles.pxi"
include "avx512_bytes.pxi"
include "avx512_planes.pxi"
include "avx512_gemm.pxi"
include "transpose.pxi"
include "avx512_vector.pxi"
include "lut_gemm.pxi"
include "lut_gemm_kernels.pxi"
include "float_gemv.pxi"
include "avx512_float_gemv.pxi"
include "../common/engine.pxi"
include "engines.pxi"


cdef void wider(MatmulKernel *tier, Py_ssize_t most_rows) noexcept:
    # FLOAT_GEMV with the wider loop, and tables as that reads them.
    tier.prepare = float_gemv_prepare
    tier.multiply = float_gemv_multiply
    tier.most_rows = most_rows


cdef void more_registers(MatmulKernel *tier) noexcept:
    # LUT_GEMV of AVX2 compiled for twice the registers.
    tier.multiply = lut_gemv_multiply


cdef enum:
    PLANES_FROM = 3               # rows of x, from which on codes are unpacked

cdef KernelTable kernel_table = (
    <const KernelTable *>PyCapsule_GetPointer(avx2.table, "binq.KernelTable"))[0]
cdef MatmulKernel[ACTIVATION_MODES][TIERS] *product = kernel_table.matmul
kernel_table.name = "avx512"


cdef void fill_products() noexcept:
    # Of every format; those that have engines of their own follow.
    cdef int format, mode
    for format in range(FORMATS):
        if format == FORMAT_BINARY or format == FORMAT_TERNARY:
            continue
        for mode in (ACTIVATIONS_INT16, ACTIVATIONS_INT8):
            if has_plane_tables(format, mode):
                # Few rows as on AVX2, compiled for twice the registers.
                product[format][mode][0].multiply = lut_planes_multiply
                add_tier(product[format][mode], PLANES_FROM, PLANES, 1, 4)
            else:
                set_tier(product[format][mode], PLANES, ANY_ROWS, 1, 4)


fill_products()
#        product                                          engine, rows of x, at once: rows, tiles
more_registers(product[FORMAT_BINARY][ACTIVATIONS_INT16])
more_registers(product[FORMAT_BINARY][ACTIVATIONS_INT8])
more_registers(product[FORMAT_TERNARY][ACTIVATIONS_INT16])
more_registers(product[FORMAT_TERNARY][ACTIVATIONS_INT8])
wider(product[FORMAT_BINARY][ACTIVATIONS_FLOAT32], 6)
add_tier(product[FORMAT_BINARY][ACTIVATIONS_FLOAT32], 9, LUT_GEMM, 16, 64)
add_tier(product[FORMAT_BINARY][ACTIVATIONS_INT16], 14, LUT_GEMM, 16, 64)
product[FORMAT_BINARY][ACTIVATIONS_INT8][0].most_rows = ANY_ROWS
add_tier(product[FORMAT_BINARY][ACTIVATIONS_INT8], 24, LUT_GEMM, 32, 64)
wider(product[FORMAT_TERNARY][ACTIVATIONS_FLOAT32], 3)
add_tier(product[FORMAT_TERNARY][ACTIVATIONS_FLOAT32], 9, LUT_GEMM, 16, 64)
add_tier(product[FORMAT_TERNARY][ACTIVATIONS_INT16], 3, PLANES, 1, 4)
add_tier(product[FORMAT_TERNARY][ACTIVATIONS_INT16], 14, LUT_GEMM, 16, 64)
add_tier(product[FORMAT_TERNARY][ACTIVATIONS_INT8], 4, PLANES, 1, 4)
add_tier(product[FORMAT_TERNARY][ACTIVATIONS_INT8], 29, LUT_GEMM, 32, 64)

table = PyCapsule_New(&kernel_table, "binq.KernelTable", NULL)
