"""The kernels for AVX-512 with VNNI, exported as the capsule ``table``.

Products of few rows of x, by table, are those of AVX2: wider vectors bring them nothing.
"""

from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset

from binq._kernels.immintrin cimport *
from binq._kernels.immintrin512 cimport *
from binq._kernels.table cimport *

include "float16.pxi"
include "quantizers.pxi"
include "avx2_activations.pxi"
include "avx2_scales.pxi"
include "avx2_arrays.pxi"
include "measure.pxi"
include "avx512_tile.pxi"
include "avx512_matmul.pxi"
include "avx512_few.pxi"
include "avx2_lookup.pxi"
include "avx2_lookup_sums.pxi"
include "avx2_lookup_matmul.pxi"
include "avx2_float.pxi"
include "avx2_signs.pxi"


# Few rows of x meet binary and ternary weights by table, all else as signed bytes: 1 plane for int8,
# 2 for int16. L is the largest integer that stands for an activation (binq.reference).

cdef enum:                     # the most rows of x for which the table is faster, measured
    LOOKUP_BINARY_INT8 = 64
    LOOKUP_BINARY_INT16 = 512
    LOOKUP_TERNARY_INT8 = 4
    LOOKUP_TERNARY_INT16 = 4
    LOOKUP_TERNARY_FLOAT32 = 12


cdef Py_ssize_t prepared_float32(const Weights *w, Py_ssize_t rows) noexcept nogil:
    return float_prepared_bytes(w, rows)


cdef Py_ssize_t prepared_binary_int16(const Weights *w, Py_ssize_t rows) noexcept nogil:
    if rows <= LOOKUP_BINARY_INT16:
        return lookup_prepared_bytes(w, rows, 3)
    return plane_prepared_bytes(w, rows, 2)


cdef Py_ssize_t prepared_ternary_int16(const Weights *w, Py_ssize_t rows) noexcept nogil:
    if rows <= LOOKUP_TERNARY_INT16:
        return lookup_prepared_bytes(w, rows, 3)
    return plane_prepared_bytes(w, rows, 2)


cdef Py_ssize_t prepared_binary_int8(const Weights *w, Py_ssize_t rows) noexcept nogil:
    if rows <= LOOKUP_BINARY_INT8:
        return lookup_prepared_bytes(w, rows, 2)
    return plane_prepared_bytes(w, rows, 1)


cdef Py_ssize_t prepared_ternary_int8(const Weights *w, Py_ssize_t rows) noexcept nogil:
    if rows <= LOOKUP_TERNARY_INT8:
        return lookup_prepared_bytes(w, rows, 2)
    return plane_prepared_bytes(w, rows, 1)


cdef Py_ssize_t prepared_int4_int16(const Weights *w, Py_ssize_t rows) noexcept nogil:
    return plane_prepared_bytes(w, rows, 2)


cdef Py_ssize_t prepared_int4_int8(const Weights *w, Py_ssize_t rows) noexcept nogil:
    return plane_prepared_bytes(w, rows, 1)


cdef Py_ssize_t prepared_signs(const Weights *w, Py_ssize_t rows) noexcept nogil:
    return signs_prepared_bytes(w, rows)


cdef Py_ssize_t prepared_ternary_float32(const Weights *w, Py_ssize_t rows) noexcept nogil:
    if rows <= LOOKUP_TERNARY_FLOAT32:
        return signs_prepared_bytes(w, rows)
    return float_prepared_bytes(w, rows)


cdef Py_ssize_t scratch_float32(const Weights *w, Py_ssize_t rows) noexcept nogil:
    return max(float_scratch_bytes(w, rows), signs_scratch_bytes())


cdef Py_ssize_t scratch_integer(const Weights *w, Py_ssize_t rows) noexcept nogil:
    return max(plane_scratch_bytes(w, rows), lookup_scratch_bytes(rows))


cdef void prepare_float32(const Weights *w, const float *x, Py_ssize_t x_stride, Py_ssize_t rows,
                          void *prepared, uint8_t *unfit,
                          Py_ssize_t row_begin, Py_ssize_t row_end) noexcept nogil:
    float_prepare(w, x, x_stride, rows, prepared, unfit, row_begin, row_end)


cdef void prepare_signs(const Weights *w, const float *x, Py_ssize_t x_stride, Py_ssize_t rows,
                        void *prepared, uint8_t *unfit,
                        Py_ssize_t row_begin, Py_ssize_t row_end) noexcept nogil:
    signs_prepare(w, x, x_stride, rows, prepared, unfit, row_begin, row_end)


cdef void prepare_ternary_float32(const Weights *w, const float *x, Py_ssize_t x_stride,
                                  Py_ssize_t rows, void *prepared, uint8_t *unfit,
                                  Py_ssize_t row_begin, Py_ssize_t row_end) noexcept nogil:
    if rows <= LOOKUP_TERNARY_FLOAT32:
        signs_prepare(w, x, x_stride, rows, prepared, unfit, row_begin, row_end)
    else:
        float_prepare(w, x, x_stride, rows, prepared, unfit, row_begin, row_end)


cdef void prepare_binary_int16(const Weights *w, const float *x, Py_ssize_t x_stride, Py_ssize_t rows,
                               void *prepared, uint8_t *unfit,
                               Py_ssize_t row_begin, Py_ssize_t row_end) noexcept nogil:
    if rows <= LOOKUP_BINARY_INT16:
        lookup_prepare(w, x, x_stride, rows, prepared, unfit, row_begin, row_end, 3, 8191.0)
    else:
        plane_prepare(w, x, x_stride, rows, prepared, unfit, row_begin, row_end, 2, 8191.0)


cdef void prepare_ternary_int16(const Weights *w, const float *x, Py_ssize_t x_stride, Py_ssize_t rows,
                                void *prepared, uint8_t *unfit,
                                Py_ssize_t row_begin, Py_ssize_t row_end) noexcept nogil:
    if rows <= LOOKUP_TERNARY_INT16:
        lookup_prepare(w, x, x_stride, rows, prepared, unfit, row_begin, row_end, 3, 8191.0)
    else:
        plane_prepare(w, x, x_stride, rows, prepared, unfit, row_begin, row_end, 2, 8191.0)


cdef void prepare_binary_int8(const Weights *w, const float *x, Py_ssize_t x_stride, Py_ssize_t rows,
                              void *prepared, uint8_t *unfit,
                              Py_ssize_t row_begin, Py_ssize_t row_end) noexcept nogil:
    if rows <= LOOKUP_BINARY_INT8:
        lookup_prepare(w, x, x_stride, rows, prepared, unfit, row_begin, row_end, 2, 127.0)
    else:
        plane_prepare(w, x, x_stride, rows, prepared, unfit, row_begin, row_end, 1, 127.0)


cdef void prepare_ternary_int8(const Weights *w, const float *x, Py_ssize_t x_stride, Py_ssize_t rows,
                               void *prepared, uint8_t *unfit,
                               Py_ssize_t row_begin, Py_ssize_t row_end) noexcept nogil:
    if rows <= LOOKUP_TERNARY_INT8:
        lookup_prepare(w, x, x_stride, rows, prepared, unfit, row_begin, row_end, 2, 127.0)
    else:
        plane_prepare(w, x, x_stride, rows, prepared, unfit, row_begin, row_end, 1, 127.0)


cdef void prepare_int4_int16(const Weights *w, const float *x, Py_ssize_t x_stride, Py_ssize_t rows,
                             void *prepared, uint8_t *unfit,
                             Py_ssize_t row_begin, Py_ssize_t row_end) noexcept nogil:
    plane_prepare(w, x, x_stride, rows, prepared, unfit, row_begin, row_end, 2, 32639.0)


cdef void prepare_int4_int8(const Weights *w, const float *x, Py_ssize_t x_stride, Py_ssize_t rows,
                            void *prepared, uint8_t *unfit,
                            Py_ssize_t row_begin, Py_ssize_t row_end) noexcept nogil:
    plane_prepare(w, x, x_stride, rows, prepared, unfit, row_begin, row_end, 1, 127.0)


cdef void multiply_binary_float32(const Weights *w, const void *prepared, Py_ssize_t rows,
                                  float *out, Py_ssize_t out_stride, void *scratch,
                                  Py_ssize_t tile_begin, Py_ssize_t tile_end) noexcept nogil:
    signs_multiply(w, prepared, rows, out, out_stride, scratch, tile_begin, tile_end, 1)


cdef void multiply_binary_int16(const Weights *w, const void *prepared, Py_ssize_t rows,
                                float *out, Py_ssize_t out_stride, void *scratch,
                                Py_ssize_t tile_begin, Py_ssize_t tile_end) noexcept nogil:
    if rows <= LOOKUP_BINARY_INT16:
        lookup_multiply(w, prepared, rows, out, out_stride, scratch, tile_begin, tile_end,
                        1, 3)
    else:
        plane_multiply(w, prepared, rows, out, out_stride, scratch, tile_begin, tile_end,
                       FORMAT_BINARY, 2)


cdef void multiply_binary_int8(const Weights *w, const void *prepared, Py_ssize_t rows,
                               float *out, Py_ssize_t out_stride, void *scratch,
                               Py_ssize_t tile_begin, Py_ssize_t tile_end) noexcept nogil:
    if rows <= LOOKUP_BINARY_INT8:
        lookup_multiply(w, prepared, rows, out, out_stride, scratch, tile_begin, tile_end,
                        1, 2)
    else:
        plane_multiply(w, prepared, rows, out, out_stride, scratch, tile_begin, tile_end,
                       FORMAT_BINARY, 1)


cdef void multiply_ternary_float32(const Weights *w, const void *prepared, Py_ssize_t rows,
                                   float *out, Py_ssize_t out_stride, void *scratch,
                                   Py_ssize_t tile_begin, Py_ssize_t tile_end) noexcept nogil:
    if rows <= LOOKUP_TERNARY_FLOAT32:
        signs_multiply(w, prepared, rows, out, out_stride, scratch, tile_begin, tile_end, 2)
    else:
        float_multiply(w, prepared, rows, out, out_stride, scratch, tile_begin, tile_end,
                       FORMAT_TERNARY)


cdef void multiply_ternary_int16(const Weights *w, const void *prepared, Py_ssize_t rows,
                                 float *out, Py_ssize_t out_stride, void *scratch,
                                 Py_ssize_t tile_begin, Py_ssize_t tile_end) noexcept nogil:
    if rows <= LOOKUP_TERNARY_INT16:
        lookup_multiply(w, prepared, rows, out, out_stride, scratch, tile_begin, tile_end,
                        2, 3)
    else:
        plane_multiply(w, prepared, rows, out, out_stride, scratch, tile_begin, tile_end,
                       FORMAT_TERNARY, 2)


cdef void multiply_ternary_int8(const Weights *w, const void *prepared, Py_ssize_t rows,
                                float *out, Py_ssize_t out_stride, void *scratch,
                                Py_ssize_t tile_begin, Py_ssize_t tile_end) noexcept nogil:
    if rows <= LOOKUP_TERNARY_INT8:
        lookup_multiply(w, prepared, rows, out, out_stride, scratch, tile_begin, tile_end,
                        2, 2)
    else:
        plane_multiply(w, prepared, rows, out, out_stride, scratch, tile_begin, tile_end,
                       FORMAT_TERNARY, 1)


cdef void multiply_int4_float32(const Weights *w, const void *prepared, Py_ssize_t rows,
                                float *out, Py_ssize_t out_stride, void *scratch,
                                Py_ssize_t tile_begin, Py_ssize_t tile_end) noexcept nogil:
    float_multiply(w, prepared, rows, out, out_stride, scratch, tile_begin, tile_end,
                   FORMAT_INT4)


cdef void multiply_int4_int16(const Weights *w, const void *prepared, Py_ssize_t rows,
                              float *out, Py_ssize_t out_stride, void *scratch,
                              Py_ssize_t tile_begin, Py_ssize_t tile_end) noexcept nogil:
    plane_multiply(w, prepared, rows, out, out_stride, scratch, tile_begin, tile_end,
                   FORMAT_INT4, 2)


cdef void multiply_int4_int8(const Weights *w, const void *prepared, Py_ssize_t rows,
                             float *out, Py_ssize_t out_stride, void *scratch,
                             Py_ssize_t tile_begin, Py_ssize_t tile_end) noexcept nogil:
    plane_multiply(w, prepared, rows, out, out_stride, scratch, tile_begin, tile_end,
                   FORMAT_INT4, 1)


cdef KernelTable kernel_table
kernel_table.version = TABLE_VERSION
kernel_table.name = "avx512"
kernel_table.matmul[FORMAT_BINARY][ACTIVATIONS_FLOAT32] = MatmulKernel(
    prepared_signs, prepare_signs, scratch_float32, multiply_binary_float32)
kernel_table.matmul[FORMAT_BINARY][ACTIVATIONS_INT16] = MatmulKernel(
    prepared_binary_int16, prepare_binary_int16, scratch_integer, multiply_binary_int16)
kernel_table.matmul[FORMAT_BINARY][ACTIVATIONS_INT8] = MatmulKernel(
    prepared_binary_int8, prepare_binary_int8, scratch_integer, multiply_binary_int8)
kernel_table.matmul[FORMAT_TERNARY][ACTIVATIONS_FLOAT32] = MatmulKernel(
    prepared_ternary_float32, prepare_ternary_float32, scratch_float32, multiply_ternary_float32)
kernel_table.matmul[FORMAT_TERNARY][ACTIVATIONS_INT16] = MatmulKernel(
    prepared_ternary_int16, prepare_ternary_int16, scratch_integer, multiply_ternary_int16)
kernel_table.matmul[FORMAT_TERNARY][ACTIVATIONS_INT8] = MatmulKernel(
    prepared_ternary_int8, prepare_ternary_int8, scratch_integer, multiply_ternary_int8)
kernel_table.matmul[FORMAT_INT4][ACTIVATIONS_FLOAT32] = MatmulKernel(
    prepared_float32, prepare_float32, scratch_float32, multiply_int4_float32)
kernel_table.matmul[FORMAT_INT4][ACTIVATIONS_INT16] = MatmulKernel(
    prepared_int4_int16, prepare_int4_int16, scratch_integer, multiply_int4_int16)
kernel_table.matmul[FORMAT_INT4][ACTIVATIONS_INT8] = MatmulKernel(
    prepared_int4_int8, prepare_int4_int8, scratch_integer, multiply_int4_int8)
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
