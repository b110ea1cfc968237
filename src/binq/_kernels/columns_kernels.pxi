# The kernels of columns.pxi as the kernel table names them, one of each kind of lanes and format.

cdef Py_ssize_t columns_float32_prepared(const Weights *w, Py_ssize_t rows) noexcept nogil:
    return columns_prepared_bytes(w, rows, LANES_FLOAT32)


cdef void columns_float32_prepare(const Weights *w, const float *x, Py_ssize_t x_stride, Py_ssize_t rows,
                                  void *prepared, uint8_t *unfit,
                                  Py_ssize_t row_begin, Py_ssize_t row_end) noexcept nogil:
    columns_prepare(w, x, x_stride, rows, prepared, unfit, row_begin, row_end, LANES_FLOAT32, 0.0)


cdef Py_ssize_t columns_float32_binary_scratch(const Weights *w, Py_ssize_t rows) noexcept nogil:
    return columns_scratch_bytes(w, 1, LANES_FLOAT32)


cdef void columns_float32_binary(const Weights *w, const void *prepared, Py_ssize_t rows,
                                 float *out, Py_ssize_t out_stride, void *scratch,
                                 const Piece *piece) noexcept nogil:
    columns_multiply(w, prepared, rows, out, out_stride, scratch, piece, 1,
                     LANES_FLOAT32)


cdef Py_ssize_t columns_float32_ternary_scratch(const Weights *w, Py_ssize_t rows) noexcept nogil:
    return columns_scratch_bytes(w, 2, LANES_FLOAT32)


cdef void columns_float32_ternary(const Weights *w, const void *prepared, Py_ssize_t rows,
                                  float *out, Py_ssize_t out_stride, void *scratch,
                                  const Piece *piece) noexcept nogil:
    columns_multiply(w, prepared, rows, out, out_stride, scratch, piece, 2,
                     LANES_FLOAT32)


cdef Py_ssize_t columns_int16_prepared(const Weights *w, Py_ssize_t rows) noexcept nogil:
    return columns_prepared_bytes(w, rows, LANES_INT32)


cdef void columns_int16_prepare(const Weights *w, const float *x, Py_ssize_t x_stride, Py_ssize_t rows,
                                void *prepared, uint8_t *unfit,
                                Py_ssize_t row_begin, Py_ssize_t row_end) noexcept nogil:
    columns_prepare(w, x, x_stride, rows, prepared, unfit, row_begin, row_end, LANES_INT32, 8191.0)


cdef Py_ssize_t columns_int16_ternary_scratch(const Weights *w, Py_ssize_t rows) noexcept nogil:
    return columns_scratch_bytes(w, 2, LANES_INT32)


cdef void columns_int16_ternary(const Weights *w, const void *prepared, Py_ssize_t rows,
                                float *out, Py_ssize_t out_stride, void *scratch,
                                const Piece *piece) noexcept nogil:
    columns_multiply(w, prepared, rows, out, out_stride, scratch, piece, 2,
                     LANES_INT32)


cdef Py_ssize_t columns_int8_prepared(const Weights *w, Py_ssize_t rows) noexcept nogil:
    return columns_prepared_bytes(w, rows, LANES_INT16)


cdef void columns_int8_prepare(const Weights *w, const float *x, Py_ssize_t x_stride, Py_ssize_t rows,
                               void *prepared, uint8_t *unfit,
                               Py_ssize_t row_begin, Py_ssize_t row_end) noexcept nogil:
    columns_prepare(w, x, x_stride, rows, prepared, unfit, row_begin, row_end, LANES_INT16, 127.0)


cdef Py_ssize_t columns_int8_binary_scratch(const Weights *w, Py_ssize_t rows) noexcept nogil:
    return columns_scratch_bytes(w, 1, LANES_INT16)


cdef void columns_int8_binary(const Weights *w, const void *prepared, Py_ssize_t rows,
                              float *out, Py_ssize_t out_stride, void *scratch,
                              const Piece *piece) noexcept nogil:
    columns_multiply(w, prepared, rows, out, out_stride, scratch, piece, 1,
                     LANES_INT16)


cdef Py_ssize_t columns_int8_ternary_scratch(const Weights *w, Py_ssize_t rows) noexcept nogil:
    return columns_scratch_bytes(w, 2, LANES_INT16)


cdef void columns_int8_ternary(const Weights *w, const void *prepared, Py_ssize_t rows,
                               float *out, Py_ssize_t out_stride, void *scratch,
                               const Piece *piece) noexcept nogil:
    columns_multiply(w, prepared, rows, out, out_stride, scratch, piece, 2,
                     LANES_INT16)
