# An engine multiplies several formats and modes; which of them is the fastest for how many rows of
# x is written in the table of a kernel set, by these.

ctypedef struct Engine:
    Py_ssize_t (*prepared_bytes)(const Weights *w, Py_ssize_t rows, int mode) noexcept nogil
    void (*prepare)(const Weights *w, const float *x, Py_ssize_t x_stride, Py_ssize_t rows,
                    void *prepared, uint8_t *unfit, Py_ssize_t row_begin, Py_ssize_t row_end,
                    int mode) noexcept nogil
    Py_ssize_t (*scratch_bytes)(const Weights *w, Py_ssize_t rows, int mode) noexcept nogil
    void (*multiply)(const Weights *w, const void *prepared, Py_ssize_t rows,
                     float *out, Py_ssize_t out_stride, void *scratch,
                     const Piece *piece, int mode) noexcept nogil


cdef void set_tier(MatmulKernel *tier, Engine engine, Py_ssize_t most_rows,
                   Py_ssize_t rows_at_once, Py_ssize_t tiles_at_once) noexcept:
    tier[0] = MatmulKernel(most_rows, rows_at_once, tiles_at_once, engine.prepared_bytes,
                           engine.prepare, engine.scratch_bytes, engine.multiply)


cdef void add_tier(MatmulKernel *tiers, Py_ssize_t least_rows, Engine engine,
                   Py_ssize_t rows_at_once, Py_ssize_t tiles_at_once) noexcept:
    # Gives the products of so many rows of x and more to an engine.
    while tiers.most_rows < least_rows - 1:
        tiers += 1
    tiers.most_rows = least_rows - 1
    set_tier(tiers + 1, engine, ANY_ROWS, rows_at_once, tiles_at_once)


cdef inline bint has_plane_tables(int format, int mode) noexcept:
    # Whether codes of planes that count 1, 2, 4 can be looked up: the sum of four activations fits
    # 16 bits.
    cdef int layout = SPECS[format].layout
    return ((layout == TWO_PLANES or layout == THREE_PLANES) and mode != ACTIVATIONS_FLOAT32
            and SPECS[format].activation_levels[mode] <= 8191)
