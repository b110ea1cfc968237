# lut_gemm.pxi as the kernel table names it: a loop of its own for each format and kind of lanes.

cdef void lut_gemm_prepare(const Weights *w, const float *x, Py_ssize_t x_stride, Py_ssize_t rows,
                           void *prepared, uint8_t *unfit, Py_ssize_t row_begin,
                           Py_ssize_t row_end, int mode) noexcept nogil:
    cdef float levels = SPECS[w.format].activation_levels[mode]
    if mode == ACTIVATIONS_FLOAT32:
        prepare_columns(w, x, x_stride, rows, prepared, unfit, row_begin, row_end,
                        LANES_FLOAT32, levels)
    elif mode == ACTIVATIONS_INT16:
        prepare_columns(w, x, x_stride, rows, prepared, unfit, row_begin, row_end,
                        LANES_INT32, levels)
    else:
        prepare_columns(w, x, x_stride, rows, prepared, unfit, row_begin, row_end,
                        LANES_INT16, levels)


cdef void lut_gemm_multiply(const Weights *w, const void *prepared, Py_ssize_t rows, float *out,
                            Py_ssize_t out_stride, void *scratch, const Piece *piece,
                            int mode) noexcept nogil:
    if SPECS[w.format].layout == ONE_PLANE:
        lut_gemm_of(w, prepared, rows, out, out_stride, scratch, piece, mode, 1)
    else:
        lut_gemm_of(w, prepared, rows, out, out_stride, scratch, piece, mode, 2)


cdef inline void lut_gemm_of(const Weights *w, const void *prepared, Py_ssize_t rows, float *out,
                             Py_ssize_t out_stride, void *scratch, const Piece *piece, int mode,
                             int planes) noexcept nogil:
    if mode == ACTIVATIONS_FLOAT32:
        lut_gemm_piece(w, prepared, rows, out, out_stride, scratch, piece, planes, LANES_FLOAT32)
    elif mode == ACTIVATIONS_INT16:
        lut_gemm_piece(w, prepared, rows, out, out_stride, scratch, piece, planes, LANES_INT32)
    else:
        lut_gemm_piece(w, prepared, rows, out, out_stride, scratch, piece, planes, LANES_INT16)
