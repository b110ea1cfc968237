# Rows of x by tiles of weights in bit planes (lut_tables.pxi, lut_planes.pxi). A prepared buffer
# holds, in this order,
#   tables [group][row][group_size / 8][digit][2][16] bytes
#   scales float32, sums of |x| int32, sums of x int32, each [group][row]

cdef enum:
    STREAMED_ROWS = 4             # of x, up to which memory is read in two places


cdef inline Py_ssize_t table_bytes(const Weights *w, int digits) noexcept nogil:
    # Of one row of x and kernel group.
    return w.group_size * 4 * digits


cdef Py_ssize_t lut_gemv_prepared(const Weights *w, Py_ssize_t rows, int mode) noexcept nogil:
    return w.groups * rows * (table_bytes(w, 2 if mode == ACTIVATIONS_INT8 else 3) + 12)


cdef Py_ssize_t lut_gemv_scratch(const Weights *w, Py_ssize_t rows, int mode) noexcept nogil:
    # y of all rows and two tiles.
    return rows * 64 * sizeof(float)


cdef inline void prepare_tables(const Weights *w, const float *x, Py_ssize_t x_stride,
                                Py_ssize_t rows, void *prepared, uint8_t *unfit,
                                Py_ssize_t row_begin, Py_ssize_t row_end,
                                int digits, float levels) noexcept nogil:
    cdef Py_ssize_t size = table_bytes(w, digits)
    cdef uint8_t *tables = <uint8_t *>prepared
    cdef float *scales = <float *>(tables + w.groups * rows * size)
    cdef int32_t *absolutes = <int32_t *>(scales + w.groups * rows)
    cdef int32_t *sums = absolutes + w.groups * rows
    cdef int16_t codes[256]
    cdef Py_ssize_t row, group, at, count
    cdef bint fits
    for row in range(row_begin, row_end):
        fits = True
        for group in range(w.groups):
            at = group * rows + row
            count = min(w.group_size, w.in_features - group * w.group_size)
            if not round_group(x + row * x_stride + group * w.group_size, count, w.group_size,
                               codes, levels, scales + at, absolutes + at, sums + at):
                fits = False
                break
            make_tables(codes, w.group_size, tables + at * size, digits)
        unfit[row] = not fits
        if not fits:
            for group in range(w.groups):
                at = group * rows + row
                memset(tables + at * size, 0, size)
                scales[at] = 0.0
                absolutes[at] = 0
                sums[at] = 0


cdef inline float32x4_t looked_up(uint16x4_t digit0_u16x4, uint16x4_t digit1_u16x4,
                                  uint16x4_t digit2_u16x4, int32x4_t absolute_s32x4, int planes,
                                  int digits) noexcept nogil:
    # The exact sum of a group for 4 rows of weights.
    cdef int32x4_t sum_s32x4 = vreinterpretq_s32_u32(
        vaddw_u16(vshll_n_u16(digit1_u16x4, 5), digit0_u16x4))
    if digits == 3:
        sum_s32x4 = vaddq_s32(sum_s32x4, vreinterpretq_s32_u32(vshll_n_u16(digit2_u16x4, 10)))
    if planes == 1:
        sum_s32x4 = vaddq_s32(sum_s32x4, sum_s32x4)
    return vcvtq_f32_s32(vsubq_s32(sum_s32x4, absolute_s32x4))


cdef inline void lut_row(const uint8_t *packed, const uint8_t *tables, Py_ssize_t k32s,
                         int32_t absolute, float32x4_t *sums_f32x4, int planes,
                         int digits) noexcept nogil:
    # The exact sums of one kernel group of one tile and one row of x.
    cdef uint16x8_t sums_u16x8[12]
    cdef int32x4_t absolute_s32x4 = vdupq_n_s32(absolute)
    cdef Py_ssize_t block
    cdef int i
    for i in range(12):
        sums_u16x8[i] = vdupq_n_u16(0)
    for block in range(k32s * planes):
        look_up_block(packed + block * 128, tables + block * (4 // planes) * (32 * digits),
                      sums_u16x8, planes, digits)
    for i in range(4):
        sums_f32x4[2 * i] = looked_up(
            vget_low_u16(sums_u16x8[i]), vget_low_u16(sums_u16x8[4 + i]),
            vget_low_u16(sums_u16x8[8 + i]), absolute_s32x4, planes, digits)
        sums_f32x4[2 * i + 1] = looked_up(
            vget_high_u16(sums_u16x8[i]), vget_high_u16(sums_u16x8[4 + i]),
            vget_high_u16(sums_u16x8[8 + i]), absolute_s32x4, planes, digits)


cdef inline void lut_group(const Weights *w, Py_ssize_t tile, Py_ssize_t group,
                           const uint8_t *tables, const float *x_scales,
                           const int32_t *absolutes, const int32_t *x_sums, float *y,
                           Py_ssize_t count, int layout, int digits) noexcept nogil:
    # One tile and kernel group, added to y [row][32] of `count` rows of x.
    cdef Py_ssize_t size = table_bytes(w, digits)
    cdef int planes = LAYOUTS[layout].planes
    cdef const uint8_t *packed = (
        w.packed + (tile * w.groups + group) * w.group_size * planes * 4)
    cdef float w_scales[32]
    cdef float offsets[32]
    cdef int32_t zeros[32]
    cdef float32x4_t sums_f32x4[8]
    cdef bint has_offsets = w.zero == ZERO_OFFSET
    cdef Py_ssize_t row
    load_floats(w, w.scales, w.scale_type, tile, group, w_scales)
    if w.zero == ZERO_CODE:
        load_zeros_left(w, tile, group, zeros)
    if has_offsets:
        load_floats(w, w.offsets, w.offset_type, tile, group, offsets)
    for row in range(count):
        if layout == ONE_PLANE or layout == TRITS:
            lut_row(packed, tables + row * size, w.group_size >> 5, absolutes[row], sums_f32x4,
                    planes, digits)
        else:
            lut_planes_row(w, packed, tables + row * size, zeros if w.zero == ZERO_CODE else NULL,
                           absolutes[row], x_sums[row], sums_f32x4, planes, digits)
        add_group(y + row * 32, w_scales, offsets if has_offsets else NULL, x_scales[row],
                  <float>x_sums[row], sums_f32x4)


cdef inline void lut_gemv_piece(const Weights *w, const void *prepared, Py_ssize_t rows,
                                float *out, Py_ssize_t out_stride, void *scratch,
                                const Piece *piece, int layout, int digits) noexcept nogil:
    cdef Py_ssize_t size = table_bytes(w, digits)
    cdef const uint8_t *tables = <const uint8_t *>prepared
    cdef const float *x_scales = <const float *>(tables + w.groups * rows * size)
    cdef const int32_t *absolutes = <const int32_t *>(x_scales + w.groups * rows)
    cdef const int32_t *x_sums = absolutes + w.groups * rows
    cdef float *y = <float *>scratch
    cdef Py_ssize_t first = piece.row_begin
    cdef Py_ssize_t count = piece.row_end - first
    cdef Py_ssize_t apart = tiles_apart(piece, count <= STREAMED_ROWS)
    cdef Py_ssize_t tile, each, group, at
    for tile in range(piece.tile_begin, piece.tile_begin + apart):
        memset(y, 0, 2 * count * 32 * sizeof(float))
        for group in range(w.groups):
            at = group * rows + first
            each = tile
            while each < piece.tile_end and each <= tile + apart:
                lut_group(w, each, group, tables + at * size, x_scales + at, absolutes + at,
                          x_sums + at, y if each == tile else y + count * 32, count, layout,
                          digits)
                each += apart
        store_tiles(w, y, count, out + first * out_stride, out_stride, tile, apart,
                    piece.tile_end)


# As the kernel table names it: a loop of its own for each layout and mode.

cdef void lut_gemv_prepare(const Weights *w, const float *x, Py_ssize_t x_stride, Py_ssize_t rows,
                           void *prepared, uint8_t *unfit, Py_ssize_t row_begin,
                           Py_ssize_t row_end, int mode) noexcept nogil:
    cdef float levels = SPECS[w.format].activation_levels[mode]
    if mode == ACTIVATIONS_INT8:
        prepare_tables(w, x, x_stride, rows, prepared, unfit, row_begin, row_end, 2, levels)
    else:
        prepare_tables(w, x, x_stride, rows, prepared, unfit, row_begin, row_end, 3, levels)


cdef inline void lut_gemv_mode(const Weights *w, const void *prepared, Py_ssize_t rows,
                               float *out, Py_ssize_t out_stride, void *scratch,
                               const Piece *piece, int mode, int layout) noexcept nogil:
    if LAYOUTS[layout].row_bytes > 1:
        return                    # Not of whole codes.
    if mode == ACTIVATIONS_INT8:
        lut_gemv_piece(w, prepared, rows, out, out_stride, scratch, piece, layout, 2)
    else:
        lut_gemv_piece(w, prepared, rows, out, out_stride, scratch, piece, layout, 3)


cdef void lut_gemv_multiply(const Weights *w, const void *prepared, Py_ssize_t rows, float *out,
                            Py_ssize_t out_stride, void *scratch, const Piece *piece,
                            int mode) noexcept nogil:
    by_layout(SPECS[w.format].layout, lut_gemv_mode, w, prepared, rows, out, out_stride, scratch,
              piece, mode)
