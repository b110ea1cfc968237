# The kernel table of a machine whose one engine serves every format and mode: the portable loops
# and NEON. Included after the prepare_rows and multiply_tiles of the machine, which become a loop
# for each mode.

cdef Py_ssize_t scratch_of_rows(const Weights *w, Py_ssize_t rows, int mode) noexcept nogil:
    return scratch_bytes(w, rows)


cdef Py_ssize_t prepared_of_rows(const Weights *w, Py_ssize_t rows, int mode) noexcept nogil:
    return prepared_bytes(w, rows, mode)


cdef void prepare(const Weights *w, const float *x, Py_ssize_t x_stride, Py_ssize_t rows,
                  void *prepared, uint8_t *unfit, Py_ssize_t row_begin, Py_ssize_t row_end,
                  int mode) noexcept nogil:
    cdef float levels = SPECS[w.format].activation_levels[mode]
    if mode == ACTIVATIONS_INT8:
        prepare_rows(w, x, x_stride, rows, prepared, unfit, row_begin, row_end,
                     ACTIVATIONS_INT8, levels)
    elif mode == ACTIVATIONS_INT16:
        prepare_rows(w, x, x_stride, rows, prepared, unfit, row_begin, row_end,
                     ACTIVATIONS_INT16, levels)
    else:
        prepare_rows(w, x, x_stride, rows, prepared, unfit, row_begin, row_end,
                     ACTIVATIONS_FLOAT32, levels)


cdef void multiply(const Weights *w, const void *prepared, Py_ssize_t rows,
                   float *out, Py_ssize_t out_stride, void *scratch,
                   const Piece *piece, int mode) noexcept nogil:
    if mode == ACTIVATIONS_INT8:
        multiply_tiles(w, prepared, rows, out, out_stride, scratch, piece, ACTIVATIONS_INT8)
    elif mode == ACTIVATIONS_INT16:
        multiply_tiles(w, prepared, rows, out, out_stride, scratch, piece, ACTIVATIONS_INT16)
    else:
        multiply_tiles(w, prepared, rows, out, out_stride, scratch, piece, ACTIVATIONS_FLOAT32)


cdef void fill_table(KernelTable *table, const char *name) noexcept:
    cdef int format, mode
    table.version = TABLE_VERSION
    table.name = name
    for format in range(FORMATS):
        for mode in range(ACTIVATION_MODES):
            table.matmul[format][mode][0] = MatmulKernel(
                ANY_ROWS, 1, 1, prepared_of_rows, prepare, scratch_of_rows, multiply)
    table.quantize_scratch_bytes = quantize_scratch_bytes
    table.quantize = quantize
    table.dequantize = dequantize
    table.reads_rows_alone = False
    table.unpack = unpack
    table.pack = pack
    table.measure = measure
    table.decode = decode
    table.whole_codes = whole_codes
    set_layers(table)
