# The kernels of lut_gemm.pxi as the kernel table names them, one of each kind of lanes and format.

cdef Py_ssize_t lut_gemm_float32_prepared(const Weights *w, Py_ssize_t rows) noexcept nogil:
    return lut_gemm_prepared_bytes(w, rows, LANES_FLOAT32)


cdef void lut_gemm_float32_prepare(const Weights *w, const float *x, Py_ssize_t x_stride, Py_ssize_t rows,
                                  void *prepared, uint8_t *unfit,
                                  Py_ssize_t row_begin, Py_ssize_t row_end) noexcept nogil:
    lut_gemm_prepare(w, x, x_stride, rows, prepared, unfit, row_begin, row_end, LANES_FLOAT32, 0.0)


cdef Py_ssize_t lut_gemm_float32_binary_scratch(const Weights *w, Py_ssize_t rows) noexcept nogil:
    return lut_gemm_scratch_bytes(w, 1, LANES_FLOAT32)


cdef void lut_gemm_float32_binary(const Weights *w, const void *prepared, Py_ssize_t rows,
                                 float *out, Py_ssize_t out_stride, void *scratch,
                                 const Piece *piece) noexcept nogil:
    lut_gemm_multiply(w, prepared, rows, out, out_stride, scratch, piece, 1,
                     LANES_FLOAT32)


cdef Py_ssize_t lut_gemm_float32_ternary_scratch(const Weights *w, Py_ssize_t rows) noexcept nogil:
    return lut_gemm_scratch_bytes(w, 2, LANES_FLOAT32)


cdef void lut_gemm_float32_ternary(const Weights *w, const void *prepared, Py_ssize_t rows,
                                  float *out, Py_ssize_t out_stride, void *scratch,
                                  const Piece *piece) noexcept nogil:
    lut_gemm_multiply(w, prepared, rows, out, out_stride, scratch, piece, 2,
                     LANES_FLOAT32)


cdef Py_ssize_t lut_gemm_int16_prepared(const Weights *w, Py_ssize_t rows) noexcept nogil:
    return lut_gemm_prepared_bytes(w, rows, LANES_INT32)


cdef void lut_gemm_int16_prepare(const Weights *w, const float *x, Py_ssize_t x_stride, Py_ssize_t rows,
                                void *prepared, uint8_t *unfit,
                                Py_ssize_t row_begin, Py_ssize_t row_end) noexcept nogil:
    lut_gemm_prepare(w, x, x_stride, rows, prepared, unfit, row_begin, row_end, LANES_INT32, 8191.0)


cdef Py_ssize_t lut_gemm_int16_ternary_scratch(const Weights *w, Py_ssize_t rows) noexcept nogil:
    return lut_gemm_scratch_bytes(w, 2, LANES_INT32)


cdef void lut_gemm_int16_ternary(const Weights *w, const void *prepared, Py_ssize_t rows,
                                float *out, Py_ssize_t out_stride, void *scratch,
                                const Piece *piece) noexcept nogil:
    lut_gemm_multiply(w, prepared, rows, out, out_stride, scratch, piece, 2,
                     LANES_INT32)


cdef Py_ssize_t lut_gemm_int8_prepared(const Weights *w, Py_ssize_t rows) noexcept nogil:
    return lut_gemm_prepared_bytes(w, rows, LANES_INT16)


cdef void lut_gemm_int8_prepare(const Weights *w, const float *x, Py_ssize_t x_stride, Py_ssize_t rows,
                               void *prepared, uint8_t *unfit,
                               Py_ssize_t row_begin, Py_ssize_t row_end) noexcept nogil:
    lut_gemm_prepare(w, x, x_stride, rows, prepared, unfit, row_begin, row_end, LANES_INT16, 127.0)


cdef Py_ssize_t lut_gemm_int8_binary_scratch(const Weights *w, Py_ssize_t rows) noexcept nogil:
    return lut_gemm_scratch_bytes(w, 1, LANES_INT16)


cdef void lut_gemm_int8_binary(const Weights *w, const void *prepared, Py_ssize_t rows,
                              float *out, Py_ssize_t out_stride, void *scratch,
                              const Piece *piece) noexcept nogil:
    lut_gemm_multiply(w, prepared, rows, out, out_stride, scratch, piece, 1,
                     LANES_INT16)


cdef Py_ssize_t lut_gemm_int8_ternary_scratch(const Weights *w, Py_ssize_t rows) noexcept nogil:
    return lut_gemm_scratch_bytes(w, 2, LANES_INT16)


cdef void lut_gemm_int8_ternary(const Weights *w, const void *prepared, Py_ssize_t rows,
                               float *out, Py_ssize_t out_stride, void *scratch,
                               const Piece *piece) noexcept nogil:
    lut_gemm_multiply(w, prepared, rows, out, out_stride, scratch, piece, 2,
                     LANES_INT16)
