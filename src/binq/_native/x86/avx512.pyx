"""The kernels for AVX-512 with VNNI, exported as the capsule ``table``.

The table is that of AVX2, which every such processor runs, with the products that wider vectors or
VNNI make faster in place of its own.
"""

from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_New
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset

from binq._native.x86.immintrin cimport *
from binq._native.x86.immintrin512 cimport *
from binq._native.table cimport *

from binq._native.x86 import avx2

include "activations.pxi"
include "scales.pxi"
include "avx512_int4.pxi"
include "avx512_ternary.pxi"
include "avx512_gemm.pxi"
include "transpose.pxi"
include "avx512_vector.pxi"
include "lut_gemm.pxi"
include "lut_gemm_kernels.pxi"
include "float_gemv.pxi"
include "avx512_float_gemv.pxi"


# int4, and ternary in batches of medium size, meet x as signed bytes: 1 plane for int8, 2 for int16.

cdef Py_ssize_t planes_int16_prepared(const Weights *w, Py_ssize_t rows) noexcept nogil:
    return plane_prepared_bytes(w, rows, 2)


cdef Py_ssize_t planes_int8_prepared(const Weights *w, Py_ssize_t rows) noexcept nogil:
    return plane_prepared_bytes(w, rows, 1)


cdef Py_ssize_t planes_scratch(const Weights *w, Py_ssize_t rows) noexcept nogil:
    return wide_scratch_bytes(rows)


cdef void int4_int16_prepare(const Weights *w, const float *x, Py_ssize_t x_stride, Py_ssize_t rows,
                             void *prepared, uint8_t *unfit,
                             Py_ssize_t row_begin, Py_ssize_t row_end) noexcept nogil:
    plane_prepare(w, x, x_stride, rows, prepared, unfit, row_begin, row_end, 2,
                  32639.0)


cdef void ternary_int16_prepare(const Weights *w, const float *x, Py_ssize_t x_stride, Py_ssize_t rows,
                                void *prepared, uint8_t *unfit,
                                Py_ssize_t row_begin, Py_ssize_t row_end) noexcept nogil:
    plane_prepare(w, x, x_stride, rows, prepared, unfit, row_begin, row_end, 2,
                  8191.0)


cdef void planes_int8_prepare(const Weights *w, const float *x, Py_ssize_t x_stride, Py_ssize_t rows,
                              void *prepared, uint8_t *unfit,
                              Py_ssize_t row_begin, Py_ssize_t row_end) noexcept nogil:
    plane_prepare(w, x, x_stride, rows, prepared, unfit, row_begin, row_end, 1,
                  127.0)


cdef void int4_int16_multiply(const Weights *w, const void *prepared, Py_ssize_t rows,
                              float *out, Py_ssize_t out_stride, void *scratch,
                              const Piece *piece) noexcept nogil:
    plane_multiply(w, prepared, rows, out, out_stride, scratch, piece,
                   FORMAT_INT4, 2)


cdef void int4_int8_multiply(const Weights *w, const void *prepared, Py_ssize_t rows,
                             float *out, Py_ssize_t out_stride, void *scratch,
                             const Piece *piece) noexcept nogil:
    plane_multiply(w, prepared, rows, out, out_stride, scratch, piece,
                   FORMAT_INT4, 1)


cdef void ternary_int16_multiply(const Weights *w, const void *prepared, Py_ssize_t rows,
                                 float *out, Py_ssize_t out_stride, void *scratch,
                                 const Piece *piece) noexcept nogil:
    plane_multiply(w, prepared, rows, out, out_stride, scratch, piece,
                   FORMAT_TERNARY, 2)


cdef void ternary_int8_multiply(const Weights *w, const void *prepared, Py_ssize_t rows,
                                float *out, Py_ssize_t out_stride, void *scratch,
                                const Piece *piece) noexcept nogil:
    plane_multiply(w, prepared, rows, out, out_stride, scratch, piece,
                   FORMAT_TERNARY, 1)


cdef Py_ssize_t lut_gemm_int16_binary_scratch(const Weights *w, Py_ssize_t rows) noexcept nogil:
    return lut_gemm_scratch_bytes(w, 1, LANES_INT32)


cdef void lut_gemm_int16_binary(const Weights *w, const void *prepared, Py_ssize_t rows,
                               float *out, Py_ssize_t out_stride, void *scratch,
                               const Piece *piece) noexcept nogil:
    lut_gemm_multiply(w, prepared, rows, out, out_stride, scratch, piece, 1,
                     LANES_INT32)


cdef void add_tier(MatmulKernel *tiers, Py_ssize_t least_rows, MatmulKernel kernel) noexcept:
    # Gives `kernel` the products of so many rows of x and more.
    while tiers.most_rows < least_rows - 1:
        tiers += 1
    tiers.most_rows = least_rows - 1
    tiers[1] = kernel


cdef KernelTable kernel_table = (
    <const KernelTable *>PyCapsule_GetPointer(avx2.table, "binq.KernelTable"))[0]
kernel_table.name = "avx512"
kernel_table.matmul[FORMAT_INT4][ACTIVATIONS_INT16][0] = MatmulKernel(
    ANY_ROWS, 1, 4, planes_int16_prepared, int4_int16_prepare, planes_scratch, int4_int16_multiply)
kernel_table.matmul[FORMAT_INT4][ACTIVATIONS_INT8][0] = MatmulKernel(
    ANY_ROWS, 1, 4, planes_int8_prepared, planes_int8_prepare, planes_scratch, int4_int8_multiply)
# The rows of x from which on each kernel is the fastest are measured.
kernel_table.matmul[FORMAT_BINARY][ACTIVATIONS_FLOAT32][0].multiply = float_gemv_binary
kernel_table.matmul[FORMAT_BINARY][ACTIVATIONS_FLOAT32][0].most_rows = 6
add_tier(kernel_table.matmul[FORMAT_BINARY][ACTIVATIONS_FLOAT32], 9, MatmulKernel(
    ANY_ROWS, 16, 64, lut_gemm_float32_prepared, lut_gemm_float32_prepare,
    lut_gemm_float32_binary_scratch, lut_gemm_float32_binary))
add_tier(kernel_table.matmul[FORMAT_BINARY][ACTIVATIONS_INT16], 14, MatmulKernel(
    ANY_ROWS, 16, 64, lut_gemm_int16_prepared, lut_gemm_int16_prepare,
    lut_gemm_int16_binary_scratch, lut_gemm_int16_binary))
kernel_table.matmul[FORMAT_BINARY][ACTIVATIONS_INT8][0].most_rows = ANY_ROWS
add_tier(kernel_table.matmul[FORMAT_BINARY][ACTIVATIONS_INT8], 24, MatmulKernel(
    ANY_ROWS, 32, 64, lut_gemm_int8_prepared, lut_gemm_int8_prepare, lut_gemm_int8_binary_scratch,
    lut_gemm_int8_binary))
kernel_table.matmul[FORMAT_TERNARY][ACTIVATIONS_FLOAT32][0].multiply = float_gemv_ternary
kernel_table.matmul[FORMAT_TERNARY][ACTIVATIONS_FLOAT32][0].most_rows = 3
add_tier(kernel_table.matmul[FORMAT_TERNARY][ACTIVATIONS_FLOAT32], 9, MatmulKernel(
    ANY_ROWS, 16, 64, lut_gemm_float32_prepared, lut_gemm_float32_prepare,
    lut_gemm_float32_ternary_scratch, lut_gemm_float32_ternary))
add_tier(kernel_table.matmul[FORMAT_TERNARY][ACTIVATIONS_INT16], 3, MatmulKernel(
    ANY_ROWS, 1, 4, planes_int16_prepared, ternary_int16_prepare, planes_scratch,
    ternary_int16_multiply))
add_tier(kernel_table.matmul[FORMAT_TERNARY][ACTIVATIONS_INT16], 14, MatmulKernel(
    ANY_ROWS, 16, 64, lut_gemm_int16_prepared, lut_gemm_int16_prepare,
    lut_gemm_int16_ternary_scratch, lut_gemm_int16_ternary))
add_tier(kernel_table.matmul[FORMAT_TERNARY][ACTIVATIONS_INT8], 4, MatmulKernel(
    ANY_ROWS, 1, 4, planes_int8_prepared, planes_int8_prepare, planes_scratch,
    ternary_int8_multiply))
add_tier(kernel_table.matmul[FORMAT_TERNARY][ACTIVATIONS_INT8], 29, MatmulKernel(
    ANY_ROWS, 32, 64, lut_gemm_int8_prepared, lut_gemm_int8_prepare, lut_gemm_int8_ternary_scratch,
    lut_gemm_int8_ternary))

table = PyCapsule_New(&kernel_table, "binq.KernelTable", NULL)
