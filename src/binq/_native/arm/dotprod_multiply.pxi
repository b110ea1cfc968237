# Rows of x as planes of signed bytes (activations.pxi) by tiles of weights of any format: few of
# them by whole codes as they are stored, all else by signed bytes.

cdef enum:
    UNPACKED = -1                 # in place of a layout: whatever it is, unpacked to signed bytes


cdef Py_ssize_t plane_scratch(const Weights *w, Py_ssize_t rows, int mode) noexcept nogil:
    # y of all rows and two tiles, and the signed bytes of one tile and group.
    return rows * 64 * sizeof(float) + w.group_size * 32


cdef inline void dot_block(const Weights *w, const uint8_t *packed, const int8_t *quads,
                           const int8_t *x, int32x4_t *sums_s32x4, int layout,
                           int planes) noexcept nogil:
    if layout == UNPACKED:
        dot_quads(quads, x, w.group_size, sums_s32x4, False, planes)
    elif layout == BYTES:
        dot_quads(<const int8_t *>packed, x, w.group_size, sums_s32x4, True, planes)
    else:
        dot_nibbles(packed, x, w.group_size, vld1q_s8(SPECS[w.format].levels), sums_s32x4, layout,
                    planes)


cdef inline void add_plane_row(const int32x4_t *high_s32x4, const int32x4_t *low_s32x4,
                               const int32_t *zeros, const float *w_scales,
                               const float *offsets, float x_scale, int32_t x_sum, float *y,
                               int planes) noexcept nogil:
    # y of one row of x and 32 columns. What stored codes are too large by is taken off once, times
    # the sum of the activations; NULL where they are not.
    cdef float32x4_t sums_f32x4[8]
    cdef int32x4_t sum_s32x4
    cdef int i
    for i in range(8):
        sum_s32x4 = low_s32x4[i]
        if planes == 2:
            sum_s32x4 = vaddq_s32(sum_s32x4, vshlq_n_s32(high_s32x4[i], 8))
        if zeros != NULL:
            sum_s32x4 = vmlsq_s32(sum_s32x4, vld1q_s32(zeros + 4 * i), vdupq_n_s32(x_sum))
        sums_f32x4[i] = vcvtq_f32_s32(sum_s32x4)
    add_group(y, w_scales, offsets, x_scale, <float>x_sum, sums_f32x4)


cdef inline void plane_rows(const Weights *w, const uint8_t *packed, const int8_t *quads,
                            const int8_t *x, const int32_t *zeros, const float *w_scales,
                            const float *offsets, const float *x_scales, const int32_t *x_sums,
                            float *y, int layout, int planes, int rows) noexcept nogil:
    # One kernel group of `rows` rows of x, 3 at most, and 32 columns, added to y [row][32].
    cdef int32x4_t sums_s32x4[48]
    cdef int row
    if planes * rows == 6:
        dot_block(w, packed, quads, x, sums_s32x4, layout, 3)
        dot_block(w, packed, quads, x + 3 * w.group_size, sums_s32x4 + 24, layout, 3)
    elif planes * rows == 4:
        dot_block(w, packed, quads, x, sums_s32x4, layout, 2)
        dot_block(w, packed, quads, x + 2 * w.group_size, sums_s32x4 + 16, layout, 2)
    else:
        dot_block(w, packed, quads, x, sums_s32x4, layout, planes * rows)
    for row in range(rows):
        add_plane_row(sums_s32x4 + 8 * planes * row, sums_s32x4 + 8 * (planes * row + planes - 1),
                      zeros, w_scales, offsets, x_scales[row], x_sums[row], y + row * 32,
                      planes)


cdef inline int plane_block(const Weights *w, const uint8_t *packed, const int8_t *quads,
                            const int8_t *x, const int32_t *zeros, const float *w_scales,
                            const float *offsets, const float *x_scales, const int32_t *x_sums,
                            float *y, int layout, int planes, Py_ssize_t rows) noexcept nogil:
    # Takes as many rows as make a block and returns how many those were. Each shape is written out,
    # so that it compiles to a loop of its own with its sums in registers.
    if rows >= 3:
        plane_rows(w, packed, quads, x, zeros, w_scales, offsets, x_scales, x_sums, y,
                   layout, planes, 3)
        return 3
    if rows == 2:
        plane_rows(w, packed, quads, x, zeros, w_scales, offsets, x_scales, x_sums, y,
                   layout, planes, 2)
        return 2
    plane_rows(w, packed, quads, x, zeros, w_scales, offsets, x_scales, x_sums, y,
               layout, planes, 1)
    return 1


cdef inline void load_zeros(const Weights *w, Py_ssize_t tile, Py_ssize_t group,
                            int32_t *zeros) noexcept nogil:
    cdef int8_t zero_points[32]
    cdef Py_ssize_t r
    if has_zeros_left(w):
        load_zeros_left(w, tile, group, zeros)
        return
    load_zero_points(w, tile, group, zero_points)
    for r in range(32):
        zeros[r] = zero_points[r]


cdef inline void plane_group(const Weights *w, Py_ssize_t tile, Py_ssize_t group, int8_t *quads,
                             const int8_t *x, const float *x_scales, const int32_t *x_sums,
                             float *y, Py_ssize_t count, int layout, int planes) noexcept nogil:
    # One tile and kernel group, added to y [row][32] of `count` rows of x.
    cdef float w_scales[32]
    cdef float offsets[32]
    cdef int32_t zeros[32]
    cdef bint has_offsets = w.zero == ZERO_OFFSET
    # Codes of 4 bits come less their zeros where they are unpacked.
    cdef bint has_zeros = layout == NIBBLES or has_zeros_left(w)
    cdef Py_ssize_t size = 32 if layout == BYTES else 16   # bytes of 32 rows and one k
    cdef Py_ssize_t row = 0
    load_floats(w, w.scales, w.scale_type, tile, group, w_scales)
    if has_offsets:
        load_floats(w, w.offsets, w.offset_type, tile, group, offsets)
    if layout == UNPACKED:
        decode_quads(w, tile, group, quads)
    if has_zeros:
        load_zeros(w, tile, group, zeros)
    while row < count:
        row += plane_block(
            w, w.packed + (tile * w.groups + group) * w.group_size * size, quads,
            x + row * planes * w.group_size, zeros if has_zeros else NULL, w_scales,
            offsets if has_offsets else NULL, x_scales + row, x_sums + row, y + row * 32, layout,
            planes, count - row)


cdef inline void plane_piece(const Weights *w, const void *prepared, Py_ssize_t rows,
                             float *out, Py_ssize_t out_stride, void *scratch,
                             const Piece *piece, int layout, int planes) noexcept nogil:
    # layout: that of whole codes, which are unpacked in registers, for few rows of x; or UNPACKED.
    # Few rows take two tiles at a time, of either half of the piece: memory is read in two places.
    cdef Py_ssize_t size = w.group_size * planes
    cdef const int8_t *x = <const int8_t *>prepared
    cdef const float *x_scales = <const float *>(x + w.groups * rows * size)
    cdef const int32_t *x_sums = <const int32_t *>(x_scales + w.groups * rows)
    cdef float *y = <float *>scratch
    cdef int8_t *quads = <int8_t *>(y + rows * 64)
    cdef Py_ssize_t first = piece.row_begin
    cdef Py_ssize_t count = piece.row_end - first
    cdef Py_ssize_t apart = tiles_apart(piece, layout != UNPACKED)
    cdef Py_ssize_t tile, group, each, at
    for tile in range(piece.tile_begin, piece.tile_begin + apart):
        memset(y, 0, 2 * count * 32 * sizeof(float))
        for group in range(w.groups):
            at = group * rows + first
            each = tile
            while each < piece.tile_end and each <= tile + apart:
                plane_group(w, each, group, quads, x + at * size, x_scales + at, x_sums + at,
                            y if each == tile else y + count * 32, count, layout, planes)
                each += apart
        store_tiles(w, y, count, out + first * out_stride, out_stride, tile, apart,
                    piece.tile_end)


# As the kernel table names them: a loop of its own for each mode and layout.

cdef void plane_multiply(const Weights *w, const void *prepared, Py_ssize_t rows, float *out,
                         Py_ssize_t out_stride, void *scratch, const Piece *piece,
                         int mode) noexcept nogil:
    if mode == ACTIVATIONS_INT8:
        plane_piece(w, prepared, rows, out, out_stride, scratch, piece, UNPACKED, 1)
    else:
        plane_piece(w, prepared, rows, out, out_stride, scratch, piece, UNPACKED, 2)


cdef void nibble_multiply(const Weights *w, const void *prepared, Py_ssize_t rows, float *out,
                          Py_ssize_t out_stride, void *scratch, const Piece *piece,
                          int mode) noexcept nogil:
    if mode == ACTIVATIONS_INT8:
        plane_piece(w, prepared, rows, out, out_stride, scratch, piece, NIBBLES, 1)
    else:
        plane_piece(w, prepared, rows, out, out_stride, scratch, piece, NIBBLES, 2)


cdef void level_multiply(const Weights *w, const void *prepared, Py_ssize_t rows, float *out,
                         Py_ssize_t out_stride, void *scratch, const Piece *piece,
                         int mode) noexcept nogil:
    if mode == ACTIVATIONS_INT8:
        plane_piece(w, prepared, rows, out, out_stride, scratch, piece, LEVELS, 1)
    else:
        plane_piece(w, prepared, rows, out, out_stride, scratch, piece, LEVELS, 2)


cdef void byte_multiply(const Weights *w, const void *prepared, Py_ssize_t rows, float *out,
                        Py_ssize_t out_stride, void *scratch, const Piece *piece,
                        int mode) noexcept nogil:
    if mode == ACTIVATIONS_INT8:
        plane_piece(w, prepared, rows, out, out_stride, scratch, piece, BYTES, 1)
    else:
        plane_piece(w, prepared, rows, out, out_stride, scratch, piece, BYTES, 2)
