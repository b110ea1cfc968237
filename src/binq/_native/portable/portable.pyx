"""The kernels that every CPU runs, in plain loops, exported as the capsule ``table``."""

from cpython.pycapsule cimport PyCapsule_New
from libc.math cimport rintf
from libc.stdint cimport int8_t, int16_t, int32_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset

from binq._native.table cimport *

include "../common/float16.pxi"
include "../common/quantizers.pxi"
include "tile.pxi"
include "gemm.pxi"
include "../common/arrays.pxi"
include "../common/measure.pxi"


cdef Py_ssize_t prepared_float32(const Weights *w, Py_ssize_t rows) noexcept nogil:
    return prepared_bytes(w, rows, ACTIVATIONS_FLOAT32)


cdef Py_ssize_t prepared_int16(const Weights *w, Py_ssize_t rows) noexcept nogil:
    return prepared_bytes(w, rows, ACTIVATIONS_INT16)


cdef Py_ssize_t prepared_int8(const Weights *w, Py_ssize_t rows) noexcept nogil:
    return prepared_bytes(w, rows, ACTIVATIONS_INT8)


cdef Py_ssize_t scratch_any(const Weights *w, Py_ssize_t rows) noexcept nogil:
    return scratch_bytes(w, rows)


cdef void prepare_float32(const Weights *w, const float *x, Py_ssize_t x_stride, Py_ssize_t rows,
                          void *prepared, uint8_t *unfit,
                          Py_ssize_t row_begin, Py_ssize_t row_end) noexcept nogil:
    prepare_rows(w, x, x_stride, rows, prepared, unfit, row_begin, row_end,
                 ACTIVATIONS_FLOAT32, 1.0)


cdef void prepare_int8(const Weights *w, const float *x, Py_ssize_t x_stride, Py_ssize_t rows,
                       void *prepared, uint8_t *unfit,
                       Py_ssize_t row_begin, Py_ssize_t row_end) noexcept nogil:
    prepare_rows(w, x, x_stride, rows, prepared, unfit, row_begin, row_end,
                 ACTIVATIONS_INT8, 127.0)


cdef void prepare_int16_lookup(const Weights *w, const float *x, Py_ssize_t x_stride, Py_ssize_t rows,
                               void *prepared, uint8_t *unfit,
                               Py_ssize_t row_begin, Py_ssize_t row_end) noexcept nogil:
    prepare_rows(w, x, x_stride, rows, prepared, unfit, row_begin, row_end,
                 ACTIVATIONS_INT16, 8191.0)


cdef void prepare_int16_int4(const Weights *w, const float *x, Py_ssize_t x_stride, Py_ssize_t rows,
                             void *prepared, uint8_t *unfit,
                             Py_ssize_t row_begin, Py_ssize_t row_end) noexcept nogil:
    prepare_rows(w, x, x_stride, rows, prepared, unfit, row_begin, row_end,
                 ACTIVATIONS_INT16, 32639.0)


cdef void multiply_binary_float32(const Weights *w, const void *prepared, Py_ssize_t rows,
                                  float *out, Py_ssize_t out_stride, void *scratch,
                                  const Piece *piece) noexcept nogil:
    multiply_tiles(w, prepared, rows, out, out_stride, scratch, piece,
                   FORMAT_BINARY, ACTIVATIONS_FLOAT32)


cdef void multiply_binary_int16(const Weights *w, const void *prepared, Py_ssize_t rows,
                                float *out, Py_ssize_t out_stride, void *scratch,
                                const Piece *piece) noexcept nogil:
    multiply_tiles(w, prepared, rows, out, out_stride, scratch, piece,
                   FORMAT_BINARY, ACTIVATIONS_INT16)


cdef void multiply_binary_int8(const Weights *w, const void *prepared, Py_ssize_t rows,
                               float *out, Py_ssize_t out_stride, void *scratch,
                               const Piece *piece) noexcept nogil:
    multiply_tiles(w, prepared, rows, out, out_stride, scratch, piece,
                   FORMAT_BINARY, ACTIVATIONS_INT8)


cdef void multiply_ternary_float32(const Weights *w, const void *prepared, Py_ssize_t rows,
                                   float *out, Py_ssize_t out_stride, void *scratch,
                                   const Piece *piece) noexcept nogil:
    multiply_tiles(w, prepared, rows, out, out_stride, scratch, piece,
                   FORMAT_TERNARY, ACTIVATIONS_FLOAT32)


cdef void multiply_ternary_int16(const Weights *w, const void *prepared, Py_ssize_t rows,
                                 float *out, Py_ssize_t out_stride, void *scratch,
                                 const Piece *piece) noexcept nogil:
    multiply_tiles(w, prepared, rows, out, out_stride, scratch, piece,
                   FORMAT_TERNARY, ACTIVATIONS_INT16)


cdef void multiply_ternary_int8(const Weights *w, const void *prepared, Py_ssize_t rows,
                                float *out, Py_ssize_t out_stride, void *scratch,
                                const Piece *piece) noexcept nogil:
    multiply_tiles(w, prepared, rows, out, out_stride, scratch, piece,
                   FORMAT_TERNARY, ACTIVATIONS_INT8)


cdef void multiply_int4_float32(const Weights *w, const void *prepared, Py_ssize_t rows,
                                float *out, Py_ssize_t out_stride, void *scratch,
                                const Piece *piece) noexcept nogil:
    multiply_tiles(w, prepared, rows, out, out_stride, scratch, piece,
                   FORMAT_INT4, ACTIVATIONS_FLOAT32)


cdef void multiply_int4_int16(const Weights *w, const void *prepared, Py_ssize_t rows,
                              float *out, Py_ssize_t out_stride, void *scratch,
                              const Piece *piece) noexcept nogil:
    multiply_tiles(w, prepared, rows, out, out_stride, scratch, piece,
                   FORMAT_INT4, ACTIVATIONS_INT16)


cdef void multiply_int4_int8(const Weights *w, const void *prepared, Py_ssize_t rows,
                             float *out, Py_ssize_t out_stride, void *scratch,
                             const Piece *piece) noexcept nogil:
    multiply_tiles(w, prepared, rows, out, out_stride, scratch, piece,
                   FORMAT_INT4, ACTIVATIONS_INT8)


cdef KernelTable kernel_table
kernel_table.version = TABLE_VERSION
kernel_table.name = "portable"
kernel_table.matmul[FORMAT_BINARY][ACTIVATIONS_FLOAT32][0] = MatmulKernel(
    ANY_ROWS, 1, 1, prepared_float32, prepare_float32, scratch_any, multiply_binary_float32)
kernel_table.matmul[FORMAT_BINARY][ACTIVATIONS_INT16][0] = MatmulKernel(
    ANY_ROWS, 1, 1, prepared_int16, prepare_int16_lookup, scratch_any, multiply_binary_int16)
kernel_table.matmul[FORMAT_BINARY][ACTIVATIONS_INT8][0] = MatmulKernel(
    ANY_ROWS, 1, 1, prepared_int8, prepare_int8, scratch_any, multiply_binary_int8)
kernel_table.matmul[FORMAT_TERNARY][ACTIVATIONS_FLOAT32][0] = MatmulKernel(
    ANY_ROWS, 1, 1, prepared_float32, prepare_float32, scratch_any, multiply_ternary_float32)
kernel_table.matmul[FORMAT_TERNARY][ACTIVATIONS_INT16][0] = MatmulKernel(
    ANY_ROWS, 1, 1, prepared_int16, prepare_int16_lookup, scratch_any, multiply_ternary_int16)
kernel_table.matmul[FORMAT_TERNARY][ACTIVATIONS_INT8][0] = MatmulKernel(
    ANY_ROWS, 1, 1, prepared_int8, prepare_int8, scratch_any, multiply_ternary_int8)
kernel_table.matmul[FORMAT_INT4][ACTIVATIONS_FLOAT32][0] = MatmulKernel(
    ANY_ROWS, 1, 1, prepared_float32, prepare_float32, scratch_any, multiply_int4_float32)
kernel_table.matmul[FORMAT_INT4][ACTIVATIONS_INT16][0] = MatmulKernel(
    ANY_ROWS, 1, 1, prepared_int16, prepare_int16_int4, scratch_any, multiply_int4_int16)
kernel_table.matmul[FORMAT_INT4][ACTIVATIONS_INT8][0] = MatmulKernel(
    ANY_ROWS, 1, 1, prepared_int8, prepare_int8, scratch_any, multiply_int4_int8)
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
