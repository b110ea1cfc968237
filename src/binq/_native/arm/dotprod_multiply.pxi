# Rows of x as planes of signed bytes (activations.pxi) by tiles of weights of any format: few of
# them by nibbles whose levels are one step apart with dotprod_gemv.pxi, all else with
# dotprod_gemm.pxi.

cdef Py_ssize_t plane_scratch(const Weights *w, Py_ssize_t rows, int mode) noexcept nogil:
    # y of all rows and one tile, its codes [k][32] and [k / 4][32][4].
    return rows * 32 * sizeof(float) + w.group_size * 64


cdef inline void dot_block(const Weights *w, const uint8_t *packed, const int8_t *quads,
                           const int8_t *x, int32x4_t *sums_s32x4, bint nibbles,
                           int planes) noexcept nogil:
    if nibbles:
        dot_nibbles(packed, x, w.group_size, sums_s32x4, planes)
    else:
        dot_quads(quads, x, w.group_size, sums_s32x4, planes)


cdef inline void add_plane_row(const int32x4_t *high_s32x4, const int32x4_t *low_s32x4,
                               const int8_t *zero_points, const float *w_scales,
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
        if zero_points != NULL:
            sum_s32x4 = vmlsq_s32(sum_s32x4, vmovl_s16(vget_low_s16(vmovl_s8(
                vld1_s8(zero_points + 4 * i)))), vdupq_n_s32(x_sum))
        sums_f32x4[i] = vcvtq_f32_s32(sum_s32x4)
    add_group(y, w_scales, offsets, x_scale, <float>x_sum, sums_f32x4)


cdef inline void plane_rows(const Weights *w, const uint8_t *packed, const int8_t *quads,
                            const int8_t *x, const int8_t *zero_points, const float *w_scales,
                            const float *offsets, const float *x_scales, const int32_t *x_sums,
                            float *y, bint nibbles, int planes, int rows) noexcept nogil:
    # One kernel group of `rows` rows of x, 3 at most, and 32 columns, added to y [row][32].
    cdef int32x4_t sums_s32x4[48]
    cdef int row
    if planes * rows == 6:
        dot_block(w, packed, quads, x, sums_s32x4, nibbles, 3)
        dot_block(w, packed, quads, x + 3 * w.group_size, sums_s32x4 + 24, nibbles, 3)
    elif planes * rows == 4:
        dot_block(w, packed, quads, x, sums_s32x4, nibbles, 2)
        dot_block(w, packed, quads, x + 2 * w.group_size, sums_s32x4 + 16, nibbles, 2)
    else:
        dot_block(w, packed, quads, x, sums_s32x4, nibbles, planes * rows)
    for row in range(rows):
        add_plane_row(sums_s32x4 + 8 * planes * row, sums_s32x4 + 8 * (planes * row + planes - 1),
                      zero_points, w_scales, offsets, x_scales[row], x_sums[row], y + row * 32,
                      planes)


cdef inline int plane_block(const Weights *w, const uint8_t *packed, const int8_t *quads,
                            const int8_t *x, const int8_t *zero_points, const float *w_scales,
                            const float *offsets, const float *x_scales, const int32_t *x_sums,
                            float *y, bint nibbles, int planes, Py_ssize_t rows) noexcept nogil:
    # Takes as many rows as make a block and returns how many those were. Each shape is written out,
    # so that it compiles to a loop of its own with its sums in registers.
    if rows >= 3:
        plane_rows(w, packed, quads, x, zero_points, w_scales, offsets, x_scales, x_sums, y,
                   nibbles, planes, 3)
        return 3
    if rows == 2:
        plane_rows(w, packed, quads, x, zero_points, w_scales, offsets, x_scales, x_sums, y,
                   nibbles, planes, 2)
        return 2
    plane_rows(w, packed, quads, x, zero_points, w_scales, offsets, x_scales, x_sums, y,
               nibbles, planes, 1)
    return 1


cdef inline void plane_piece(const Weights *w, const void *prepared, Py_ssize_t rows,
                             float *out, Py_ssize_t out_stride, void *scratch,
                             const Piece *piece, bint nibbles, int planes) noexcept nogil:
    # nibbles: they are unpacked in registers, for few rows of x.
    cdef Py_ssize_t size = w.group_size * planes
    cdef const int8_t *x = <const int8_t *>prepared
    cdef const float *x_scales = <const float *>(x + w.groups * rows * size)
    cdef const int32_t *x_sums = <const int32_t *>(x_scales + w.groups * rows)
    cdef float *y = <float *>scratch
    cdef int8_t *codes = <int8_t *>(y + rows * 32)
    cdef int8_t *quads = codes + w.group_size * 32
    cdef float w_scales[32]
    cdef float offsets[32]
    cdef int8_t zero_points[32 + 8]    # 8 are loaded for 4
    cdef bint has_offsets = w.zero == ZERO_OFFSET
    cdef Py_ssize_t first = piece.row_begin
    cdef Py_ssize_t count = piece.row_end - first
    cdef Py_ssize_t tile, group, row, at
    for tile in range(piece.tile_begin, piece.tile_end):
        memset(y, 0, count * 32 * sizeof(float))
        for group in range(w.groups):
            load_floats(w, w.scales, w.scale_type, tile, group, w_scales)
            if has_offsets:
                load_floats(w, w.offsets, w.offset_type, tile, group, offsets)
            if nibbles:
                load_zero_points(w, tile, group, zero_points)
            else:
                decode_group(w, tile, group, codes)
                transpose_quads(codes, w.group_size, quads)
            at = group * rows + first
            row = 0
            while row < count:
                row += plane_block(
                    w, w.packed + (tile * w.groups + group) * w.group_size * 16, quads,
                    x + (at + row) * size, zero_points if nibbles else NULL, w_scales,
                    offsets if has_offsets else NULL, x_scales + at + row, x_sums + at + row,
                    y + row * 32, nibbles, planes, count - row)
        store_tile(w, y, count, out + first * out_stride, out_stride, tile)


# As the kernel table names them: a loop of its own for each mode.

cdef void plane_multiply(const Weights *w, const void *prepared, Py_ssize_t rows, float *out,
                         Py_ssize_t out_stride, void *scratch, const Piece *piece,
                         int mode) noexcept nogil:
    if mode == ACTIVATIONS_INT8:
        plane_piece(w, prepared, rows, out, out_stride, scratch, piece, False, 1)
    else:
        plane_piece(w, prepared, rows, out, out_stride, scratch, piece, False, 2)


cdef void nibble_multiply(const Weights *w, const void *prepared, Py_ssize_t rows, float *out,
                          Py_ssize_t out_stride, void *scratch, const Piece *piece,
                          int mode) noexcept nogil:
    if mode == ACTIVATIONS_INT8:
        plane_piece(w, prepared, rows, out, out_stride, scratch, piece, True, 1)
    else:
        plane_piece(w, prepared, rows, out, out_stride, scratch, piece, True, 2)
