# Two rows of x or more by the matrix instruction for bytes (smmla): 2 vectors of x by 2 rows of
# weights by 8 k. Two vectors of x are two rows of int8, or the two planes of one row of int16. A
# tile and kernel group is unpacked to signed bytes [k / 8][16 pairs of rows][2][8 k] once,
# whatever its format (quads.pxi), and multiplied by 3 pairs at a time: 24 sums, 3 vectors of x and
# one of weights.
#
# A prepared buffer holds, in this order (high before low plane),
#   codes int8 [group][pair][group_size / 8][2][8],
#   scales float32 [group][row], sums int32 [group][row]

cdef inline Py_ssize_t x_pairs(Py_ssize_t rows, Py_ssize_t planes) noexcept nogil:
    return (rows * planes + 1) >> 1


cdef Py_ssize_t pair_prepared(const Weights *w, Py_ssize_t rows, int mode) noexcept nogil:
    return w.groups * (x_pairs(rows, planes_of(mode)) * 2 * w.group_size + rows * 8)


cdef Py_ssize_t pair_scratch(const Weights *w, Py_ssize_t rows, int mode) noexcept nogil:
    # y of all rows and one tile, and its signed bytes.
    return rows * 32 * sizeof(float) + w.group_size * 32


cdef inline void store_pairs(const int16_t *codes, Py_ssize_t group_size, int8_t *target,
                             Py_ssize_t planes) noexcept nogil:
    cdef Py_ssize_t k
    cdef int16x8_t codes_s16x8
    for k in range(0, group_size, 8):
        codes_s16x8 = vld1q_s16(codes + k)
        if planes == 2:
            vst1_s8(target + 2 * k, high_bytes(codes_s16x8))
        vst1_s8(target + 2 * k + (planes - 1) * 8, vmovn_s16(codes_s16x8))


cdef void pair_prepare(const Weights *w, const float *x, Py_ssize_t x_stride, Py_ssize_t rows,
                       void *prepared, uint8_t *unfit, Py_ssize_t row_begin, Py_ssize_t row_end,
                       int mode) noexcept nogil:
    cdef float levels = SPECS[w.format].activation_levels[mode]
    cdef Py_ssize_t planes = planes_of(mode)
    cdef int8_t *pairs = <int8_t *>prepared
    cdef Py_ssize_t size = 2 * w.group_size
    cdef Py_ssize_t count = x_pairs(rows, planes)
    cdef float *scales = <float *>(pairs + w.groups * count * size)
    cdef int32_t *sums = <int32_t *>(scales + w.groups * rows)
    cdef int16_t codes[256]
    cdef int16_t zeros[256]
    cdef int32_t absolute
    cdef int8_t *target
    cdef Py_ssize_t row, group, at, k
    cdef bint fits
    memset(zeros, 0, sizeof(zeros))
    for row in range(row_begin, row_end):
        fits = True
        for group in range(w.groups):
            at = group * rows + row
            k = group * w.group_size
            target = pairs + (group * count + (row * planes >> 1)) * size + (row * planes & 1) * 8
            if not round_group(x + row * x_stride + k, min(w.group_size, w.in_features - k),
                               w.group_size, codes, levels, scales + at, &absolute, sums + at):
                fits = False
                break
            store_pairs(codes, w.group_size, target, planes)
        unfit[row] = not fits
        for group in range(w.groups):
            at = group * rows + row
            target = pairs + (group * count + (row * planes >> 1)) * size + (row * planes & 1) * 8
            if not fits:
                store_pairs(zeros, w.group_size, target, planes)
                scales[at] = 0.0
                sums[at] = 0
            if planes == 1 and row + 1 == rows and row & 1 == 0:
                store_pairs(zeros, w.group_size, target + 8, 1)


cdef inline void dot_pairs(const int8_t *pairs, const int8_t *x, Py_ssize_t group_size,
                           int32x4_t *sums_s32x4, int x_count) noexcept nogil:
    # sums[8 p + i] = vectors 2 p, 2 p + 1 of x . rows 2 i, 2 i + 1 of 16: first . first, first .
    # second, second . first, second . second. 256 * 128 * 128 = 2^22: never overflows.
    cdef Py_ssize_t k
    cdef int32x4_t totals_s32x4[24]    # of this function alone: they stay in registers
    cdef int i
    cdef int8x16_t pair_s8x16, first_s8x16, second_s8x16, third_s8x16
    for i in range(8 * x_count):
        totals_s32x4[i] = vdupq_n_s32(0)
    for k in range(0, group_size, 8):
        first_s8x16 = vld1q_s8(x + 2 * k)
        second_s8x16 = vld1q_s8(x + (x_count >> 1) * 2 * group_size + 2 * k)
        third_s8x16 = vld1q_s8(x + (x_count - 1) * 2 * group_size + 2 * k)
        for i in range(8):
            pair_s8x16 = vld1q_s8(pairs + k * 32 + i * 16)
            totals_s32x4[i] = vmmlaq_s32(totals_s32x4[i], first_s8x16, pair_s8x16)
            if x_count >= 2:
                totals_s32x4[8 + i] = vmmlaq_s32(totals_s32x4[8 + i], second_s8x16, pair_s8x16)
            if x_count == 3:
                totals_s32x4[16 + i] = vmmlaq_s32(totals_s32x4[16 + i], third_s8x16, pair_s8x16)
    for i in range(8 * x_count):
        sums_s32x4[i] = totals_s32x4[i]


cdef inline int32x4_t less_zeros(int32x4_t sums_s32x4, const int32_t *zeros,
                                 int32_t x_sum) noexcept nogil:
    # What the codes of 4 columns are too large by is taken off, times the sum of the activations.
    if zeros == NULL:
        return sums_s32x4
    return vmlsq_s32(sums_s32x4, vld1q_s32(zeros), vdupq_n_s32(x_sum))


cdef inline void add_pair(const int32x4_t *sums_s32x4, const int32_t *zeros, const float *w_scales,
                          const float *offsets, const float *x_scales, const int32_t *x_sums,
                          float *y, int planes, bint both) noexcept nogil:
    # y [row][32] of 16 columns: of two rows of int8, or of the one row that two planes make.
    cdef int32x4_t first_s32x4, second_s32x4
    cdef int i
    for i in range(4):
        first_s32x4 = vcombine_s32(vget_low_s32(sums_s32x4[2 * i]),
                                   vget_low_s32(sums_s32x4[2 * i + 1]))
        second_s32x4 = vcombine_s32(vget_high_s32(sums_s32x4[2 * i]),
                                    vget_high_s32(sums_s32x4[2 * i + 1]))
        if planes == 2:
            first_s32x4 = vaddq_s32(vshlq_n_s32(first_s32x4, 8), second_s32x4)
        add_columns(y + 4 * i, w_scales + 4 * i, offsets + 4 * i if offsets != NULL else NULL,
                    x_scales[0], <float>x_sums[0], vcvtq_f32_s32(less_zeros(
                        first_s32x4, zeros + 4 * i if zeros != NULL else NULL, x_sums[0])))
        if planes == 1 and both:
            add_columns(y + 32 + 4 * i, w_scales + 4 * i,
                        offsets + 4 * i if offsets != NULL else NULL,
                        x_scales[1], <float>x_sums[1], vcvtq_f32_s32(less_zeros(
                            second_s32x4, zeros + 4 * i if zeros != NULL else NULL, x_sums[1])))


cdef inline void pair_block(const int8_t *pairs, const int8_t *x, Py_ssize_t group_size,
                            const int32_t *zeros, const float *w_scales, const float *offsets,
                            const float *x_scales, const int32_t *x_sums, float *y,
                            Py_ssize_t rows, int planes, int x_count) noexcept nogil:
    # One kernel group of x_count pairs, which are `rows` rows of x, and 32 columns.
    cdef int32x4_t sums_s32x4[24]
    cdef int half, p
    cdef int rows_each = 2 // planes
    for half in range(2):
        dot_pairs(pairs + half * 128, x, group_size, sums_s32x4, x_count)
        for p in range(x_count):
            add_pair(sums_s32x4 + 8 * p, zeros + half * 16 if zeros != NULL else NULL,
                     w_scales + half * 16,
                     offsets + half * 16 if offsets != NULL else NULL, x_scales + p * rows_each,
                     x_sums + p * rows_each, y + p * rows_each * 32 + half * 16, planes,
                     (p + 1) * rows_each <= rows)


cdef inline int pair_rows(const int8_t *pairs, const int8_t *x, Py_ssize_t group_size,
                          const int32_t *zeros, const float *w_scales,
                          const float *offsets, const float *x_scales,
                          const int32_t *x_sums, float *y, int planes,
                          Py_ssize_t rows) noexcept nogil:
    # Takes as many rows as make a block and returns how many those were. Each shape is written out,
    # so that it compiles to a loop of its own with its sums in registers.
    cdef Py_ssize_t count = x_pairs(rows, planes)
    if count >= 3:
        pair_block(pairs, x, group_size, zeros, w_scales, offsets, x_scales, x_sums, y, rows,
                   planes, 3)
        return 6 // planes
    if count == 2:
        pair_block(pairs, x, group_size, zeros, w_scales, offsets, x_scales, x_sums, y, rows,
                   planes, 2)
        return 4 // planes
    pair_block(pairs, x, group_size, zeros, w_scales, offsets, x_scales, x_sums, y, rows, planes, 1)
    return 2 // planes


cdef inline void pair_piece(const Weights *w, const void *prepared, Py_ssize_t rows,
                            float *out, Py_ssize_t out_stride, void *scratch,
                            const Piece *piece, int planes) noexcept nogil:
    # A piece begins with an even row.
    cdef Py_ssize_t size = 2 * w.group_size
    cdef Py_ssize_t x_count = x_pairs(rows, planes)
    cdef const int8_t *x = <const int8_t *>prepared
    cdef const float *x_scales = <const float *>(x + w.groups * x_count * size)
    cdef const int32_t *x_sums = <const int32_t *>(x_scales + w.groups * rows)
    cdef float *y = <float *>scratch
    cdef int8_t *codes = <int8_t *>(y + rows * 32)
    cdef float w_scales[32]
    cdef float offsets[32]
    cdef int32_t zeros[32]
    cdef bint has_offsets = w.zero == ZERO_OFFSET
    cdef bint has_zeros = has_zeros_left(w)
    cdef Py_ssize_t first = piece.row_begin
    cdef Py_ssize_t count = piece.row_end - first
    cdef Py_ssize_t tile, group, row, at
    for tile in range(piece.tile_begin, piece.tile_end):
        memset(y, 0, count * 32 * sizeof(float))
        for group in range(w.groups):
            load_floats(w, w.scales, w.scale_type, tile, group, w_scales)
            if has_offsets:
                load_floats(w, w.offsets, w.offset_type, tile, group, offsets)
            if has_zeros:
                load_zeros_left(w, tile, group, zeros)
            decode_pairs(w, tile, group, codes)
            at = group * rows + first
            row = 0
            while row < count:
                row += pair_rows(
                    codes, x + (group * x_count + ((first + row) * planes >> 1)) * size,
                    w.group_size, zeros if has_zeros else NULL, w_scales,
                    offsets if has_offsets else NULL,
                    x_scales + at + row, x_sums + at + row, y + row * 32, planes, count - row)
        store_tile(w, y, count, out + first * out_stride, out_stride, tile)


# As the kernel table names it: a loop of its own for each mode.

cdef void pair_multiply(const Weights *w, const void *prepared, Py_ssize_t rows, float *out,
                        Py_ssize_t out_stride, void *scratch, const Piece *piece,
                        int mode) noexcept nogil:
    if mode == ACTIVATIONS_INT8:
        pair_piece(w, prepared, rows, out, out_stride, scratch, piece, 1)
    else:
        pair_piece(w, prepared, rows, out, out_stride, scratch, piece, 2)
