# What the exact sums of one tile and kernel group add to y, and in which order tiles are read.

cdef extern from "common/lanes.h" nogil:
    void prefetch_line "binq_prefetch"(const uint8_t *p) noexcept

cdef enum:
    WEIGHTS_AHEAD = 1024          # bytes prefetched: a guess, no ARM was at hand


cdef inline void prefetch_weights(const uint8_t *packed) noexcept nogil:
    # A line of 64 bytes.
    prefetch_line(packed + WEIGHTS_AHEAD)


cdef inline Py_ssize_t tiles_apart(const Piece *piece, bint few) noexcept nogil:
    # How far apart two tiles are that are multiplied together: half a piece, or, of many rows of x,
    # a whole one, so that each is multiplied alone.
    cdef Py_ssize_t tiles = piece.tile_end - piece.tile_begin
    return (tiles + 1) >> 1 if few else tiles


cdef inline void add_columns(float *y, const float *w_scales, const float *offsets, float x_scale,
                             float x_sum, float32x4_t sums_f32x4) noexcept nogil:
    # y += sum * (w_scale * x_scale), each operation rounded by itself, as binq.reference does: for
    # 4 columns of one row of x.
    cdef float32x4_t y_f32x4 = vaddq_f32(vld1q_f32(y), vmulq_f32(
        sums_f32x4, vmulq_n_f32(vld1q_f32(w_scales), x_scale)))
    if offsets != NULL:
        y_f32x4 = vaddq_f32(y_f32x4, vmulq_n_f32(
            vmulq_n_f32(vld1q_f32(offsets), x_scale), x_sum))
    vst1q_f32(y, y_f32x4)


cdef inline void add_group(float *y, const float *w_scales, const float *offsets,
                           float x_scale, float x_sum,
                           const float32x4_t *sums_f32x4) noexcept nogil:
    # 32 columns of one row of x.
    cdef int i
    for i in range(8):
        add_columns(y + i * 4, w_scales + i * 4, offsets + i * 4 if offsets != NULL else NULL,
                    x_scale, x_sum, sums_f32x4[i])


cdef inline void store_tile(const Weights *w, const float *y, Py_ssize_t rows, float *out,
                            Py_ssize_t out_stride, Py_ssize_t tile) noexcept nogil:
    cdef Py_ssize_t row
    cdef Py_ssize_t columns = min(<Py_ssize_t>32, w.out_features - tile * 32)
    for row in range(rows):
        memcpy(out + row * out_stride + tile * 32, y + row * 32, columns * sizeof(float))


cdef inline void store_tiles(const Weights *w, const float *y, Py_ssize_t rows, float *out,
                             Py_ssize_t out_stride, Py_ssize_t tile, Py_ssize_t apart,
                             Py_ssize_t end) noexcept nogil:
    # Two tiles that were multiplied together, where there is a second.
    store_tile(w, y, rows, out, out_stride, tile)
    if tile + apart < end:
        store_tile(w, y + rows * 32, rows, out, out_stride, tile + apart)
