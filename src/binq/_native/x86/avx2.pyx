"""The kernels for AVX2, FMA and F16C, exported as the capsule ``table``."""

from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset

from binq._native.x86.immintrin cimport *
from binq._native.table cimport *

include "../common/float16.pxi"
include "../common/quantizers.pxi"
include "activations.pxi"
include "scales.pxi"
include "avx2_arrays.pxi"
include "../common/measure.pxi"
include "avx2_int4_tile.pxi"
include "avx2_int4_gemm.pxi"
include "avx2_int4_gemv.pxi"
include "avx2_lut_tables.pxi"
include "avx2_lut_sums.pxi"
include "avx2_lut_gemv.pxi"
include "avx2_int4_float.pxi"
include "transpose.pxi"
include "avx2_vector.pxi"
include "lut_gemm.pxi"
include "lut_gemm_kernels.pxi"
include "float_gemv.pxi"
include "avx2_float_gemv.pxi"


# int4 meets x as signed bytes: 1 plane for int8, 2 for int16. Binary and ternary meet few rows of x by
# tables in registers, many by tables in cache.

cdef Py_ssize_t int4_int16_prepared(const Weights *w, Py_ssize_t rows) noexcept nogil:
    return plane_prepared_bytes(w, rows, 2)


cdef void int4_int16_prepare(const Weights *w, const float *x, Py_ssize_t x_stride, Py_ssize_t rows,
                             void *prepared, uint8_t *unfit,
                             Py_ssize_t row_begin, Py_ssize_t row_end) noexcept nogil:
    plane_prepare(w, x, x_stride, rows, prepared, unfit, row_begin, row_end, 2, 32639.0)


cdef void int4_int16_multiply(const Weights *w, const void *prepared, Py_ssize_t rows,
                              float *out, Py_ssize_t out_stride, void *scratch,
                              const Piece *piece) noexcept nogil:
    plane_multiply(w, prepared, rows, out, out_stride, scratch, piece, 2)


cdef Py_ssize_t int4_int8_prepared(const Weights *w, Py_ssize_t rows) noexcept nogil:
    return plane_prepared_bytes(w, rows, 1)


cdef void int4_int8_prepare(const Weights *w, const float *x, Py_ssize_t x_stride, Py_ssize_t rows,
                            void *prepared, uint8_t *unfit,
                            Py_ssize_t row_begin, Py_ssize_t row_end) noexcept nogil:
    plane_prepare(w, x, x_stride, rows, prepared, unfit, row_begin, row_end, 1, 127.0)


cdef void int4_int8_multiply(const Weights *w, const void *prepared, Py_ssize_t rows,
                             float *out, Py_ssize_t out_stride, void *scratch,
                             const Piece *piece) noexcept nogil:
    plane_multiply(w, prepared, rows, out, out_stride, scratch, piece, 1)



cdef Py_ssize_t int4_scratch(const Weights *w, Py_ssize_t rows) noexcept nogil:
    return plane_scratch_bytes(w, rows)


cdef Py_ssize_t int4_float32_prepared(const Weights *w, Py_ssize_t rows) noexcept nogil:
    return float_prepared_bytes(w, rows)


cdef Py_ssize_t int4_float32_scratch(const Weights *w, Py_ssize_t rows) noexcept nogil:
    return float_scratch_bytes(w, rows)


cdef void int4_float32_prepare(const Weights *w, const float *x, Py_ssize_t x_stride, Py_ssize_t rows,
                               void *prepared, uint8_t *unfit,
                               Py_ssize_t row_begin, Py_ssize_t row_end) noexcept nogil:
    float_prepare(w, x, x_stride, rows, prepared, unfit, row_begin, row_end)


cdef void int4_float32_multiply(const Weights *w, const void *prepared, Py_ssize_t rows,
                                float *out, Py_ssize_t out_stride, void *scratch,
                                const Piece *piece) noexcept nogil:
    float_multiply(w, prepared, rows, out, out_stride, scratch, piece)


cdef Py_ssize_t lut_gemv_int16_prepared(const Weights *w, Py_ssize_t rows) noexcept nogil:
    return lut_gemv_prepared_bytes(w, rows, 3)


cdef void lut_gemv_int16_prepare(const Weights *w, const float *x, Py_ssize_t x_stride, Py_ssize_t rows,
                               void *prepared, uint8_t *unfit,
                               Py_ssize_t row_begin, Py_ssize_t row_end) noexcept nogil:
    lut_gemv_prepare(w, x, x_stride, rows, prepared, unfit, row_begin, row_end, 3, 8191.0)


cdef void lut_gemv_int16_binary(const Weights *w, const void *prepared, Py_ssize_t rows,
                              float *out, Py_ssize_t out_stride, void *scratch,
                              const Piece *piece) noexcept nogil:
    lut_gemv_multiply(w, prepared, rows, out, out_stride, scratch, piece, 1, 3)


cdef void lut_gemv_int16_ternary(const Weights *w, const void *prepared, Py_ssize_t rows,
                               float *out, Py_ssize_t out_stride, void *scratch,
                               const Piece *piece) noexcept nogil:
    lut_gemv_multiply(w, prepared, rows, out, out_stride, scratch, piece, 2, 3)


cdef Py_ssize_t lut_gemv_int8_prepared(const Weights *w, Py_ssize_t rows) noexcept nogil:
    return lut_gemv_prepared_bytes(w, rows, 2)


cdef void lut_gemv_int8_prepare(const Weights *w, const float *x, Py_ssize_t x_stride, Py_ssize_t rows,
                              void *prepared, uint8_t *unfit,
                              Py_ssize_t row_begin, Py_ssize_t row_end) noexcept nogil:
    lut_gemv_prepare(w, x, x_stride, rows, prepared, unfit, row_begin, row_end, 2, 127.0)


cdef void lut_gemv_int8_binary(const Weights *w, const void *prepared, Py_ssize_t rows,
                             float *out, Py_ssize_t out_stride, void *scratch,
                             const Piece *piece) noexcept nogil:
    lut_gemv_multiply(w, prepared, rows, out, out_stride, scratch, piece, 1, 2)


cdef void lut_gemv_int8_ternary(const Weights *w, const void *prepared, Py_ssize_t rows,
                              float *out, Py_ssize_t out_stride, void *scratch,
                              const Piece *piece) noexcept nogil:
    lut_gemv_multiply(w, prepared, rows, out, out_stride, scratch, piece, 2, 2)


cdef Py_ssize_t lut_gemv_scratch(const Weights *w, Py_ssize_t rows) noexcept nogil:
    return lut_gemv_scratch_bytes(rows)


cdef Py_ssize_t float_gemv_binary_prepared(const Weights *w, Py_ssize_t rows) noexcept nogil:
    return float_gemv_prepared_bytes(w, rows, 1)


cdef void float_gemv_binary_prepare(const Weights *w, const float *x, Py_ssize_t x_stride, Py_ssize_t rows,
                                    void *prepared, uint8_t *unfit,
                                    Py_ssize_t row_begin, Py_ssize_t row_end) noexcept nogil:
    float_gemv_prepare(w, x, x_stride, rows, prepared, unfit, row_begin, row_end, 1)


cdef Py_ssize_t float_gemv_ternary_prepared(const Weights *w, Py_ssize_t rows) noexcept nogil:
    return float_gemv_prepared_bytes(w, rows, 2)


cdef void float_gemv_ternary_prepare(const Weights *w, const float *x, Py_ssize_t x_stride, Py_ssize_t rows,
                                     void *prepared, uint8_t *unfit,
                                     Py_ssize_t row_begin, Py_ssize_t row_end) noexcept nogil:
    float_gemv_prepare(w, x, x_stride, rows, prepared, unfit, row_begin, row_end, 2)


cdef Py_ssize_t float_gemv_scratch(const Weights *w, Py_ssize_t rows) noexcept nogil:
    return float_gemv_scratch_bytes(rows)


cdef KernelTable kernel_table
kernel_table.version = TABLE_VERSION
kernel_table.name = "avx2"
# The rows of x up to which each kernel is the fastest are measured.
kernel_table.matmul[FORMAT_BINARY][ACTIVATIONS_FLOAT32][0] = MatmulKernel(
    3, 1, 4, float_gemv_binary_prepared, float_gemv_binary_prepare, float_gemv_scratch,
    float_gemv_binary)
kernel_table.matmul[FORMAT_BINARY][ACTIVATIONS_FLOAT32][1] = MatmulKernel(
    ANY_ROWS, 8, 64, lut_gemm_float32_prepared, lut_gemm_float32_prepare,
    lut_gemm_float32_binary_scratch, lut_gemm_float32_binary)
kernel_table.matmul[FORMAT_BINARY][ACTIVATIONS_INT16][0] = MatmulKernel(
    ANY_ROWS, 1, 2, lut_gemv_int16_prepared, lut_gemv_int16_prepare, lut_gemv_scratch,
    lut_gemv_int16_binary)
kernel_table.matmul[FORMAT_BINARY][ACTIVATIONS_INT8][0] = MatmulKernel(
    14, 1, 2, lut_gemv_int8_prepared, lut_gemv_int8_prepare, lut_gemv_scratch, lut_gemv_int8_binary)
kernel_table.matmul[FORMAT_BINARY][ACTIVATIONS_INT8][1] = MatmulKernel(
    ANY_ROWS, 16, 64, lut_gemm_int8_prepared, lut_gemm_int8_prepare, lut_gemm_int8_binary_scratch,
    lut_gemm_int8_binary)
kernel_table.matmul[FORMAT_TERNARY][ACTIVATIONS_FLOAT32][0] = MatmulKernel(
    1, 1, 4, float_gemv_ternary_prepared, float_gemv_ternary_prepare, float_gemv_scratch,
    float_gemv_ternary)
kernel_table.matmul[FORMAT_TERNARY][ACTIVATIONS_FLOAT32][1] = MatmulKernel(
    ANY_ROWS, 8, 64, lut_gemm_float32_prepared, lut_gemm_float32_prepare,
    lut_gemm_float32_ternary_scratch, lut_gemm_float32_ternary)
kernel_table.matmul[FORMAT_TERNARY][ACTIVATIONS_INT16][0] = MatmulKernel(
    6, 1, 2, lut_gemv_int16_prepared, lut_gemv_int16_prepare, lut_gemv_scratch, lut_gemv_int16_ternary)
kernel_table.matmul[FORMAT_TERNARY][ACTIVATIONS_INT16][1] = MatmulKernel(
    ANY_ROWS, 8, 64, lut_gemm_int16_prepared, lut_gemm_int16_prepare,
    lut_gemm_int16_ternary_scratch, lut_gemm_int16_ternary)
kernel_table.matmul[FORMAT_TERNARY][ACTIVATIONS_INT8][0] = MatmulKernel(
    11, 1, 2, lut_gemv_int8_prepared, lut_gemv_int8_prepare, lut_gemv_scratch, lut_gemv_int8_ternary)
kernel_table.matmul[FORMAT_TERNARY][ACTIVATIONS_INT8][1] = MatmulKernel(
    ANY_ROWS, 16, 64, lut_gemm_int8_prepared, lut_gemm_int8_prepare, lut_gemm_int8_ternary_scratch,
    lut_gemm_int8_ternary)
kernel_table.matmul[FORMAT_INT4][ACTIVATIONS_FLOAT32][0] = MatmulKernel(
    ANY_ROWS, 1, 1, int4_float32_prepared, int4_float32_prepare, int4_float32_scratch,
    int4_float32_multiply)
kernel_table.matmul[FORMAT_INT4][ACTIVATIONS_INT16][0] = MatmulKernel(
    ANY_ROWS, 1, 1, int4_int16_prepared, int4_int16_prepare, int4_scratch, int4_int16_multiply)
kernel_table.matmul[FORMAT_INT4][ACTIVATIONS_INT8][0] = MatmulKernel(
    ANY_ROWS, 1, 1, int4_int8_prepared, int4_int8_prepare, int4_scratch, int4_int8_multiply)
kernel_table.quantize_scratch_bytes = quantize_scratch_bytes
kernel_table.quantize[FORMAT_BINARY] = quantize_binary
kernel_table.quantize[FORMAT_TERNARY] = quantize_ternary
kernel_table.quantize[FORMAT_INT4] = quantize_int4
kernel_table.dequantize[FORMAT_BINARY] = dequantize_binary
kernel_table.dequantize[FORMAT_TERNARY] = dequantize_ternary
kernel_table.dequantize[FORMAT_INT4] = dequantize_int4
kernel_table.unpack[FORMAT_BINARY] = unpack_binary
kernel_table.unpack[FORMAT_TERNARY] = unpack_ternary
kernel_table.unpack[FORMAT_INT4] = unpack_int4
kernel_table.pack[FORMAT_BINARY] = pack_binary
kernel_table.pack[FORMAT_TERNARY] = pack_ternary
kernel_table.pack[FORMAT_INT4] = pack_int4
kernel_table.measure[FORMAT_BINARY] = measure_binary
kernel_table.measure[FORMAT_TERNARY] = measure_ternary
kernel_table.measure[FORMAT_INT4] = measure_int4

table = PyCapsule_New(&kernel_table, "binq.KernelTable", NULL)
