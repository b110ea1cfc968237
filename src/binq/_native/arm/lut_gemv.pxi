# Rows of x by tiles of binary and ternary weights (lut_tables.pxi). A prepared buffer holds, in
# this order,
#   tables [group][row][group_size / 8][digit][2][16] bytes
#   scales float32, sums of |x| int32, sums of x int32, each [group][row]

cdef inline Py_ssize_t table_bytes(const Weights *w, int digits) noexcept nogil:
    # Of one row of x and kernel group.
    return w.group_size * 4 * digits


cdef Py_ssize_t lut_gemv_prepared(const Weights *w, Py_ssize_t rows, int mode) noexcept nogil:
    return w.groups * rows * (table_bytes(w, 2 if mode == ACTIVATIONS_INT8 else 3) + 12)


cdef Py_ssize_t lut_gemv_scratch(const Weights *w, Py_ssize_t rows, int mode) noexcept nogil:
    # y of all rows and one tile.
    return rows * 32 * sizeof(float)


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


cdef inline void lut_row(const uint8_t *packed, const uint8_t *tables, Py_ssize_t blocks,
                         const float *w_scales, const float *offsets, float x_scale,
                         int32_t absolute, int32_t x_sum, float *y, int planes,
                         int digits) noexcept nogil:
    # One kernel group of one tile and one row of x, added to y [32].
    cdef uint16x8_t sums_u16x8[12]
    cdef float32x4_t sums_f32x4[8]
    cdef int32x4_t absolute_s32x4 = vdupq_n_s32(absolute)
    cdef Py_ssize_t block
    cdef int i
    for i in range(12):
        sums_u16x8[i] = vdupq_n_u16(0)
    for block in range(blocks):
        look_up_block(packed + block * 128, tables + block * (4 // planes) * (32 * digits),
                      sums_u16x8, planes, digits)
    for i in range(4):
        sums_f32x4[2 * i] = looked_up(
            vget_low_u16(sums_u16x8[i]), vget_low_u16(sums_u16x8[4 + i]),
            vget_low_u16(sums_u16x8[8 + i]), absolute_s32x4, planes, digits)
        sums_f32x4[2 * i + 1] = looked_up(
            vget_high_u16(sums_u16x8[i]), vget_high_u16(sums_u16x8[4 + i]),
            vget_high_u16(sums_u16x8[8 + i]), absolute_s32x4, planes, digits)
    add_group(y, w_scales, offsets, x_scale, <float>x_sum, sums_f32x4)


cdef inline void lut_gemv_piece(const Weights *w, const void *prepared, Py_ssize_t rows,
                                float *out, Py_ssize_t out_stride, void *scratch,
                                const Piece *piece, int planes, int digits) noexcept nogil:
    cdef Py_ssize_t size = table_bytes(w, digits)
    cdef const uint8_t *tables = <const uint8_t *>prepared
    cdef const float *x_scales = <const float *>(tables + w.groups * rows * size)
    cdef const int32_t *absolutes = <const int32_t *>(x_scales + w.groups * rows)
    cdef const int32_t *x_sums = absolutes + w.groups * rows
    cdef Py_ssize_t group_bytes = w.group_size * planes * 4
    cdef float *y = <float *>scratch
    cdef float w_scales[32]
    cdef float offsets[32]
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
            for row in range(count):
                at = group * rows + first + row
                lut_row(w.packed + (tile * w.groups + group) * group_bytes, tables + at * size,
                        group_bytes >> 7, w_scales, offsets if has_offsets else NULL,
                        x_scales[at], absolutes[at], x_sums[at], y + row * 32, planes, digits)
        store_tile(w, y, count, out + first * out_stride, out_stride, tile)


# As the kernel table names it: a loop of its own for each format and mode.

cdef void lut_gemv_prepare(const Weights *w, const float *x, Py_ssize_t x_stride, Py_ssize_t rows,
                           void *prepared, uint8_t *unfit, Py_ssize_t row_begin,
                           Py_ssize_t row_end, int mode) noexcept nogil:
    cdef float levels = SPECS[w.format].activation_levels[mode]
    if mode == ACTIVATIONS_INT8:
        prepare_tables(w, x, x_stride, rows, prepared, unfit, row_begin, row_end, 2, levels)
    else:
        prepare_tables(w, x, x_stride, rows, prepared, unfit, row_begin, row_end, 3, levels)


cdef void lut_gemv_multiply(const Weights *w, const void *prepared, Py_ssize_t rows, float *out,
                            Py_ssize_t out_stride, void *scratch, const Piece *piece,
                            int mode) noexcept nogil:
    if SPECS[w.format].layout == ONE_PLANE:
        if mode == ACTIVATIONS_INT8:
            lut_gemv_piece(w, prepared, rows, out, out_stride, scratch, piece, 1, 2)
        else:
            lut_gemv_piece(w, prepared, rows, out, out_stride, scratch, piece, 1, 3)
    elif mode == ACTIVATIONS_INT8:
        lut_gemv_piece(w, prepared, rows, out, out_stride, scratch, piece, 2, 2)
    else:
        lut_gemv_piece(w, prepared, rows, out, out_stride, scratch, piece, 2, 3)
