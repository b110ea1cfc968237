"""The kernels for AVX2, FMA and F16C, exported as the capsule ``table``."""

from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset

from binq._kernels.immintrin cimport *
from binq._kernels.table cimport *

include "float16.pxi"
include "quantizers.pxi"
include "avx2_activations.pxi"
include "avx2_scales.pxi"
include "avx2_arrays.pxi"
include "measure.pxi"
include "avx2_tile.pxi"
include "avx2_matmul.pxi"
include "avx2_few.pxi"
include "avx2_lookup.pxi"
include "avx2_lookup_sums.pxi"
include "avx2_lookup_matmul.pxi"
include "avx2_float.pxi"
include "turn.pxi"
include "avx2_vector.pxi"
include "columns.pxi"
include "columns_kernels.pxi"
include "float_few.pxi"
include "avx2_float_few.pxi"


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


cdef Py_ssize_t lookup_int16_prepared(const Weights *w, Py_ssize_t rows) noexcept nogil:
    return lookup_prepared_bytes(w, rows, 3)


cdef void lookup_int16_prepare(const Weights *w, const float *x, Py_ssize_t x_stride, Py_ssize_t rows,
                               void *prepared, uint8_t *unfit,
                               Py_ssize_t row_begin, Py_ssize_t row_end) noexcept nogil:
    lookup_prepare(w, x, x_stride, rows, prepared, unfit, row_begin, row_end, 3, 8191.0)


cdef void lookup_int16_binary(const Weights *w, const void *prepared, Py_ssize_t rows,
                              float *out, Py_ssize_t out_stride, void *scratch,
                              const Piece *piece) noexcept nogil:
    lookup_multiply(w, prepared, rows, out, out_stride, scratch, piece, 1, 3)


cdef void lookup_int16_ternary(const Weights *w, const void *prepared, Py_ssize_t rows,
                               float *out, Py_ssize_t out_stride, void *scratch,
                               const Piece *piece) noexcept nogil:
    lookup_multiply(w, prepared, rows, out, out_stride, scratch, piece, 2, 3)


cdef Py_ssize_t lookup_int8_prepared(const Weights *w, Py_ssize_t rows) noexcept nogil:
    return lookup_prepared_bytes(w, rows, 2)


cdef void lookup_int8_prepare(const Weights *w, const float *x, Py_ssize_t x_stride, Py_ssize_t rows,
                              void *prepared, uint8_t *unfit,
                              Py_ssize_t row_begin, Py_ssize_t row_end) noexcept nogil:
    lookup_prepare(w, x, x_stride, rows, prepared, unfit, row_begin, row_end, 2, 127.0)


cdef void lookup_int8_binary(const Weights *w, const void *prepared, Py_ssize_t rows,
                             float *out, Py_ssize_t out_stride, void *scratch,
                             const Piece *piece) noexcept nogil:
    lookup_multiply(w, prepared, rows, out, out_stride, scratch, piece, 1, 2)


cdef void lookup_int8_ternary(const Weights *w, const void *prepared, Py_ssize_t rows,
                              float *out, Py_ssize_t out_stride, void *scratch,
                              const Piece *piece) noexcept nogil:
    lookup_multiply(w, prepared, rows, out, out_stride, scratch, piece, 2, 2)


cdef Py_ssize_t lookup_scratch(const Weights *w, Py_ssize_t rows) noexcept nogil:
    return lookup_scratch_bytes(rows)


cdef Py_ssize_t few_floats_binary_prepared(const Weights *w, Py_ssize_t rows) noexcept nogil:
    return few_floats_prepared_bytes(w, rows, 1)


cdef void few_floats_binary_prepare(const Weights *w, const float *x, Py_ssize_t x_stride, Py_ssize_t rows,
                                    void *prepared, uint8_t *unfit,
                                    Py_ssize_t row_begin, Py_ssize_t row_end) noexcept nogil:
    few_floats_prepare(w, x, x_stride, rows, prepared, unfit, row_begin, row_end, 1)


cdef Py_ssize_t few_floats_ternary_prepared(const Weights *w, Py_ssize_t rows) noexcept nogil:
    return few_floats_prepared_bytes(w, rows, 2)


cdef void few_floats_ternary_prepare(const Weights *w, const float *x, Py_ssize_t x_stride, Py_ssize_t rows,
                                     void *prepared, uint8_t *unfit,
                                     Py_ssize_t row_begin, Py_ssize_t row_end) noexcept nogil:
    few_floats_prepare(w, x, x_stride, rows, prepared, unfit, row_begin, row_end, 2)


cdef Py_ssize_t few_floats_scratch(const Weights *w, Py_ssize_t rows) noexcept nogil:
    return few_floats_scratch_bytes(rows)


cdef KernelTable kernel_table
kernel_table.version = TABLE_VERSION
kernel_table.name = "avx2"
# The rows of x up to which each kernel is the fastest are measured.
kernel_table.matmul[FORMAT_BINARY][ACTIVATIONS_FLOAT32][0] = MatmulKernel(
    3, 1, 4, few_floats_binary_prepared, few_floats_binary_prepare, few_floats_scratch,
    few_floats_binary)
kernel_table.matmul[FORMAT_BINARY][ACTIVATIONS_FLOAT32][1] = MatmulKernel(
    ANY_ROWS, 8, 64, columns_float32_prepared, columns_float32_prepare,
    columns_float32_binary_scratch, columns_float32_binary)
kernel_table.matmul[FORMAT_BINARY][ACTIVATIONS_INT16][0] = MatmulKernel(
    ANY_ROWS, 1, 2, lookup_int16_prepared, lookup_int16_prepare, lookup_scratch,
    lookup_int16_binary)
kernel_table.matmul[FORMAT_BINARY][ACTIVATIONS_INT8][0] = MatmulKernel(
    14, 1, 2, lookup_int8_prepared, lookup_int8_prepare, lookup_scratch, lookup_int8_binary)
kernel_table.matmul[FORMAT_BINARY][ACTIVATIONS_INT8][1] = MatmulKernel(
    ANY_ROWS, 16, 64, columns_int8_prepared, columns_int8_prepare, columns_int8_binary_scratch,
    columns_int8_binary)
kernel_table.matmul[FORMAT_TERNARY][ACTIVATIONS_FLOAT32][0] = MatmulKernel(
    1, 1, 4, few_floats_ternary_prepared, few_floats_ternary_prepare, few_floats_scratch,
    few_floats_ternary)
kernel_table.matmul[FORMAT_TERNARY][ACTIVATIONS_FLOAT32][1] = MatmulKernel(
    ANY_ROWS, 8, 64, columns_float32_prepared, columns_float32_prepare,
    columns_float32_ternary_scratch, columns_float32_ternary)
kernel_table.matmul[FORMAT_TERNARY][ACTIVATIONS_INT16][0] = MatmulKernel(
    6, 1, 2, lookup_int16_prepared, lookup_int16_prepare, lookup_scratch, lookup_int16_ternary)
kernel_table.matmul[FORMAT_TERNARY][ACTIVATIONS_INT16][1] = MatmulKernel(
    ANY_ROWS, 8, 64, columns_int16_prepared, columns_int16_prepare,
    columns_int16_ternary_scratch, columns_int16_ternary)
kernel_table.matmul[FORMAT_TERNARY][ACTIVATIONS_INT8][0] = MatmulKernel(
    11, 1, 2, lookup_int8_prepared, lookup_int8_prepare, lookup_scratch, lookup_int8_ternary)
kernel_table.matmul[FORMAT_TERNARY][ACTIVATIONS_INT8][1] = MatmulKernel(
    ANY_ROWS, 16, 64, columns_int8_prepared, columns_int8_prepare, columns_int8_ternary_scratch,
    columns_int8_ternary)
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
