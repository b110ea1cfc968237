"""The kernels for AVX2, FMA and F16C, exported as the capsule ``table``."""

from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_New
from libc.stdint cimport int8_t, int16_t, int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from binq._native.x86.immintrin cimport *
from binq._native.table cimport *

from binq._native.x86 import avx2_base

include "../common/float16.pxi"
include "activations.pxi"
include "scales.pxi"
include "avx2_code_tile.pxi"
include "avx2_int4_gemv.pxi"
include "avx2_int4_gemm.pxi"
include "avx2_word_gemm.pxi"
include "avx2_lut_tables.pxi"
include "avx2_lut_sums.pxi"
include "avx2_lut_gemv.pxi"
include "avx2_lut_planes.pxi"
include "avx2_int8_float.pxi"
include "avx2_int4_float.pxi"
include "transpose.pxi"
include "avx2_vector.pxi"
include "lut_gemm.pxi"
include "lut_gemm_kernels.pxi"
include "float_gemv.pxi"
include "avx2_float_gemv.pxi"
include "../common/engine.pxi"
include "engines.pxi"

cdef Engine FLOATS_OF_CODES = Engine(float_prepared, float_prepare, float_scratch, float_multiply)
cdef Engine WORDS = Engine(word_prepared, word_prepare, word_scratch, word_multiply)
cdef Engine LUT_GEMV = Engine(
    lut_gemv_prepared, lut_gemv_prepare, lut_gemv_scratch, lut_gemv_multiply)
cdef Engine LUT_PLANES = Engine(
    lut_gemv_prepared, lut_gemv_prepare, lut_gemv_scratch, lut_planes_multiply)
cdef Engine FLOAT_GEMV = Engine(
    float_gemv_prepared, float_gemv_prepare, float_gemv_scratch, float_gemv_multiply)

cdef enum:
    PLANES_FROM = 9               # rows of x, from which on codes are unpacked

cdef KernelTable kernel_table = (
    <const KernelTable *>PyCapsule_GetPointer(avx2_base.table, "binq.KernelTable"))[0]
cdef MatmulKernel[ACTIVATION_MODES][TIERS] *product = kernel_table.matmul
kernel_table.name = "avx2"


cdef void fill_products() noexcept:
    # Of every format, by its layout. Levels and bytes do not fit the sums of 16 bits of PLANES.
    cdef int format, mode
    for format in range(FORMATS):
        set_tier(product[format][ACTIVATIONS_FLOAT32], FLOATS_OF_CODES, ANY_ROWS, 1, 1)
        for mode in (ACTIVATIONS_INT16, ACTIVATIONS_INT8):
            if has_plane_tables(format, mode):
                set_tier(product[format][mode], LUT_PLANES, ANY_ROWS, 1, 2)
                add_tier(product[format][mode], PLANES_FROM,
                         WORDS if mode == ACTIVATIONS_INT16 else PLANES, 1, 1)
            elif SPECS[format].layout == LEVELS:
                set_tier(product[format][mode], WORDS, ANY_ROWS, 1, 1)
            elif SPECS[format].layout == BYTES:
                set_tier(product[format][mode], WORDS, ANY_ROWS, 1, 4)
            else:
                set_tier(product[format][mode], PLANES, ANY_ROWS, 1,
                         4 if SPECS[format].layout == NIBBLES else 1)
            if mode == ACTIVATIONS_INT16 and SPECS[format].layout == NIBBLES:
                add_tier(product[format][mode], PLANES_FROM, WORDS, 1, 1)


fill_products()
# Formats with engines of their own.
#        product                                          engine, rows of x, at once: rows, tiles
set_tier(product[FORMAT_BINARY][ACTIVATIONS_FLOAT32], FLOAT_GEMV, ANY_ROWS, 1, 4)
add_tier(product[FORMAT_BINARY][ACTIVATIONS_FLOAT32], 4, LUT_GEMM, 8, 64)
set_tier(product[FORMAT_BINARY][ACTIVATIONS_INT16], LUT_GEMV, ANY_ROWS, 1, 2)
set_tier(product[FORMAT_BINARY][ACTIVATIONS_INT8], LUT_GEMV, ANY_ROWS, 1, 2)
add_tier(product[FORMAT_BINARY][ACTIVATIONS_INT8], 14, LUT_GEMM, 16, 64)
set_tier(product[FORMAT_TERNARY][ACTIVATIONS_FLOAT32], FLOAT_GEMV, ANY_ROWS, 1, 4)
add_tier(product[FORMAT_TERNARY][ACTIVATIONS_FLOAT32], 3, LUT_GEMM, 8, 64)
set_tier(product[FORMAT_TERNARY][ACTIVATIONS_INT16], LUT_GEMV, ANY_ROWS, 1, 2)
add_tier(product[FORMAT_TERNARY][ACTIVATIONS_INT16], 7, LUT_GEMM, 8, 64)
set_tier(product[FORMAT_TERNARY][ACTIVATIONS_INT8], LUT_GEMV, ANY_ROWS, 1, 2)
add_tier(product[FORMAT_TERNARY][ACTIVATIONS_INT8], 11, LUT_GEMM, 16, 64)

table = PyCapsule_New(&kernel_table, "binq.KernelTable", NULL)
