# The NEON products. A prepared buffer holds, in this order,
#   scales float32 [group][row], sums int32 [group][row], values [group][row][group_size]
# where values are int8, int16 or float32 by mode; float32 has sums in the place of scales.
# Scratch holds the unpacked tile and y of all rows of x for the 32 columns of one tile.

cdef enum:
    BITS_SUMMED = 0x76800000  # 2^110: 256 of them by codes of 255 stay below the largest float


cdef inline Py_ssize_t value_bytes(int mode) noexcept nogil:
    return 1 if mode == ACTIVATIONS_INT8 else 2 if mode == ACTIVATIONS_INT16 else 4


cdef inline Py_ssize_t prepared_bytes(const Weights *w, Py_ssize_t rows, int mode) noexcept nogil:
    return w.groups * rows * (8 + w.group_size * value_bytes(mode))


cdef inline Py_ssize_t scratch_bytes(const Weights *w, Py_ssize_t rows) noexcept nogil:
    return rows * 32 * sizeof(float) + w.group_size * 32 * 5


cdef inline void prepare_rows(const Weights *w, const float *x, Py_ssize_t x_stride,
                              Py_ssize_t rows, void *prepared, uint8_t *unfit,
                              Py_ssize_t row_begin, Py_ssize_t row_end,
                              int mode, float levels) noexcept nogil:
    cdef float padded[256]
    cdef Py_ssize_t row, group, begin, count, i, at
    cdef float *scales = <float *>prepared
    cdef int32_t *sums = <int32_t *>(scales + w.groups * rows)
    cdef char *values = <char *>(sums + w.groups * rows)
    cdef Py_ssize_t size = value_bytes(mode)
    cdef uint32_t largest
    cdef float amax, inverse
    cdef double exact
    cdef int32x4_t codes_s32x4, next_s32x4, total_s32x4
    cdef int16x8_t codes_s16x8
    cdef bint fits
    for row in range(row_begin, row_end):
        fits = True
        for group in range(w.groups):
            begin = group * w.group_size
            count = min(w.group_size, w.in_features - begin)
            at = group * rows + row
            largest = load_group(x + row * x_stride + begin, count, w.group_size, padded)
            if mode == ACTIVATIONS_FLOAT32:
                fits &= largest < (BITS_SUMMED if SPECS[w.format].largest > 15 else BITS_LARGEST)
            else:
                fits &= largest == 0 or BITS_SMALLEST <= largest < BITS_LARGEST
            if not fits:
                break
            if mode == ACTIVATIONS_FLOAT32:
                memcpy(values + at * w.group_size * size, padded, w.group_size * sizeof(float))
                exact = 0.0
                for i in range(count):
                    exact += padded[i]
                # What offsets need; the slot of a scale is free.
                scales[at] = <float>exact
                continue
            memcpy(&amax, &largest, sizeof(float))
            scales[at] = amax / levels
            inverse = levels / amax if largest else 0.0
            total_s32x4 = vdupq_n_s32(0)
            for i in range(0, w.group_size, 8):
                codes_s32x4 = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(padded + i), inverse))
                next_s32x4 = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(padded + i + 4), inverse))
                total_s32x4 = vaddq_s32(total_s32x4, vaddq_s32(codes_s32x4, next_s32x4))
                codes_s16x8 = vcombine_s16(vmovn_s32(codes_s32x4), vmovn_s32(next_s32x4))
                if mode == ACTIVATIONS_INT16:
                    vst1q_s16(<int16_t *>(values + at * w.group_size * 2) + i, codes_s16x8)
                else:
                    vst1_s8(<int8_t *>(values + at * w.group_size) + i, vmovn_s16(codes_s16x8))
            sums[at] = vaddvq_s32(total_s32x4)
        unfit[row] = not fits
        if not fits:
            for group in range(w.groups):
                at = group * rows + row
                scales[at] = 0.0
                sums[at] = 0
                memset(values + at * w.group_size * size, 0, w.group_size * size)


cdef inline void dot_int8(const int8_t *codes, const int8_t *x, Py_ssize_t group_size,
                          Py_ssize_t depth, int32x4_t *sums_s32x4) noexcept nogil:
    # `depth` products fit int16.
    cdef Py_ssize_t begin, k
    cdef int i
    cdef int16x8_t part_s16x8[4]
    cdef int8x16_t first_s8x16, second_s8x16
    cdef int8x8_t x_s8x8
    for i in range(8):
        sums_s32x4[i] = vdupq_n_s32(0)
    begin = 0
    while begin < group_size:
        for i in range(4):
            part_s16x8[i] = vdupq_n_s16(0)
        for k in range(begin, min(begin + depth, group_size)):
            x_s8x8 = vdup_n_s8(x[k])
            first_s8x16 = vld1q_s8(codes + k * 32)
            second_s8x16 = vld1q_s8(codes + k * 32 + 16)
            part_s16x8[0] = vmlal_s8(part_s16x8[0], vget_low_s8(first_s8x16), x_s8x8)
            part_s16x8[1] = vmlal_s8(part_s16x8[1], vget_high_s8(first_s8x16), x_s8x8)
            part_s16x8[2] = vmlal_s8(part_s16x8[2], vget_low_s8(second_s8x16), x_s8x8)
            part_s16x8[3] = vmlal_s8(part_s16x8[3], vget_high_s8(second_s8x16), x_s8x8)
        for i in range(4):
            sums_s32x4[2 * i] = vaddw_s16(sums_s32x4[2 * i], vget_low_s16(part_s16x8[i]))
            sums_s32x4[2 * i + 1] = vaddw_s16(sums_s32x4[2 * i + 1], vget_high_s16(part_s16x8[i]))
        begin += depth


cdef inline void dot_int16(const int16_t *codes, const int16_t *x, Py_ssize_t group_size,
                           int32x4_t *sums_s32x4) noexcept nogil:
    # 256 * 128 * 32639 < 2^31: int32 holds any group.
    cdef Py_ssize_t k
    cdef int i
    cdef int16x8_t codes_s16x8
    for i in range(8):
        sums_s32x4[i] = vdupq_n_s32(0)
    for k in range(group_size):
        for i in range(4):
            codes_s16x8 = vld1q_s16(codes + k * 32 + i * 8)
            sums_s32x4[2 * i] = vmlal_n_s16(sums_s32x4[2 * i], vget_low_s16(codes_s16x8), x[k])
            sums_s32x4[2 * i + 1] = vmlal_n_s16(sums_s32x4[2 * i + 1],
                                                vget_high_s16(codes_s16x8), x[k])


cdef inline void dot_float32(const float *codes, const float *x, Py_ssize_t group_size,
                             float32x4_t *sums_f32x4) noexcept nogil:
    cdef Py_ssize_t k
    cdef int i
    for i in range(8):
        sums_f32x4[i] = vdupq_n_f32(0.0)
    for k in range(group_size):
        for i in range(8):
            sums_f32x4[i] = vfmaq_n_f32(sums_f32x4[i], vld1q_f32(codes + k * 32 + i * 4), x[k])


cdef inline void widen_tile(const int8_t *codes, Py_ssize_t group_size, int mode,
                            const int32_t *zeros, void *wide) noexcept nogil:
    # int8 [k][32] to int16 or float32 [k][32], the latter less what they are too large by.
    cdef Py_ssize_t i
    cdef const int32_t *zero
    cdef int8x16_t codes_s8x16
    cdef int16x8_t half_s16x8[2]
    cdef int j
    for i in range(0, group_size * 32, 16):
        codes_s8x16 = vld1q_s8(codes + i)
        half_s16x8[0] = vmovl_s8(vget_low_s8(codes_s8x16))
        half_s16x8[1] = vmovl_s8(vget_high_s8(codes_s8x16))
        for j in range(2):
            if mode == ACTIVATIONS_INT16:
                vst1q_s16(<int16_t *>wide + i + j * 8, half_s16x8[j])
            else:
                zero = zeros + (i & 16) + j * 8
                vst1q_f32(<float *>wide + i + j * 8, vcvtq_f32_s32(vsubq_s32(
                    vmovl_s16(vget_low_s16(half_s16x8[j])), vld1q_s32(zero))))
                vst1q_f32(<float *>wide + i + j * 8 + 4, vcvtq_f32_s32(vsubq_s32(
                    vmovl_s16(vget_high_s16(half_s16x8[j])), vld1q_s32(zero + 4))))


cdef inline void multiply_tiles(const Weights *w, const void *prepared, Py_ssize_t rows,
                                float *out, Py_ssize_t out_stride, void *scratch,
                                const Piece *piece, int mode) noexcept nogil:
    cdef const float *scales = <const float *>prepared
    cdef const int32_t *sums = <const int32_t *>(scales + w.groups * rows)
    cdef const char *values = <const char *>(sums + w.groups * rows)
    cdef Py_ssize_t size = value_bytes(mode)
    cdef float *y = <float *>scratch
    cdef void *wide = <void *>(y + rows * 32)
    cdef int8_t *codes = <int8_t *>wide + w.group_size * 32 * 4
    cdef float w_scales[32]
    cdef float offsets[32]
    cdef bint has_offsets = w.zero == ZERO_OFFSET
    cdef int32x4_t sums_s32x4[8]
    cdef float32x4_t sums_f32x4[8]
    cdef float x_scale, x_sum
    cdef const void *x
    cdef Py_ssize_t first = piece.row_begin
    cdef Py_ssize_t count = piece.row_end - first
    cdef Py_ssize_t tile, group, row, at
    # Products that fit int16: of codes up to 15 there are 17 (17 * 15 * 127 = 32385). Bytes come
    # less 128, which is made good with the sum of x.
    cdef Py_ssize_t depth = min(128, 32767 // (127 * min(SPECS[w.format].largest, 128)))
    cdef int32_t zeros[32]
    cdef int i
    for tile in range(piece.tile_begin, piece.tile_end):
        memset(y, 0, count * 32 * sizeof(float))
        for group in range(w.groups):
            decode_group(w, tile, group, codes)
            load_zeros_left(w, tile, group, zeros)
            load_floats(w, w.scales, w.scale_type, tile, group, w_scales)
            if has_offsets:
                load_floats(w, w.offsets, w.offset_type, tile, group, offsets)
            if mode != ACTIVATIONS_INT8:
                widen_tile(codes, w.group_size, mode, zeros, wide)
            for row in range(count):
                at = group * rows + first + row
                x = values + at * w.group_size * size
                if mode == ACTIVATIONS_FLOAT32:
                    dot_float32(<const float *>wide, <const float *>x, w.group_size, sums_f32x4)
                    x_scale = 1.0
                    x_sum = scales[at]
                else:
                    if mode == ACTIVATIONS_INT8:
                        dot_int8(codes, <const int8_t *>x, w.group_size, depth, sums_s32x4)
                    else:
                        dot_int16(<const int16_t *>wide, <const int16_t *>x, w.group_size,
                                  sums_s32x4)
                    x_scale = scales[at]
                    x_sum = <float>sums[at]
                    for i in range(8):
                        sums_f32x4[i] = vcvtq_f32_s32(vmlsq_s32(
                            sums_s32x4[i], vld1q_s32(zeros + 4 * i), vdupq_n_s32(sums[at])))
                add_group(y + row * 32, w_scales, offsets if has_offsets else NULL,
                          x_scale, x_sum, sums_f32x4)
        store_tile(w, y, count, out + first * out_stride, out_stride, tile)
