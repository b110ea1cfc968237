# Nibbles and few planes of x, by dot products of four bytes (sdot): nibbles are unpacked in
# registers, two operations for 32 of them and two more where they stand for levels, and multiplied
# by up to 3 planes, four activations a lane of a register.

cdef inline int8x16_t low_codes(uint8x16_t stored_u8x16, int8x16_t levels_s8x16,
                                int layout) noexcept nogil:
    cdef uint8x16_t codes_u8x16 = vandq_u8(stored_u8x16, vdupq_n_u8(15))
    if layout == LEVELS:
        return vqtbl1q_s8(levels_s8x16, codes_u8x16)
    return vreinterpretq_s8_u8(codes_u8x16)


cdef inline int8x16_t high_codes(uint8x16_t stored_u8x16, int8x16_t levels_s8x16,
                                 int layout) noexcept nogil:
    cdef uint8x16_t codes_u8x16 = vshrq_n_u8(stored_u8x16, 4)
    if layout == LEVELS:
        return vqtbl1q_s8(levels_s8x16, codes_u8x16)
    return vreinterpretq_s8_u8(codes_u8x16)


cdef inline void dot_nibbles(const uint8_t *packed, const int8_t *x, Py_ssize_t group_size,
                             int8x16_t levels_s8x16, int32x4_t *sums_s32x4, int layout,
                             int planes) noexcept nogil:
    # sums[8 p + i] = codes of rows 4 i .. 4 i + 3 . plane p. 256 * 127 * 128 < 2^22: never
    # overflows.
    cdef Py_ssize_t k
    cdef int32x4_t totals_s32x4[24]    # of this function alone: they stay in registers
    cdef int i
    cdef uint8x16_t stored_u8x16
    cdef int8x16_t low_s8x16, high_s8x16
    cdef int8x16_t first_s8x16, second_s8x16, third_s8x16
    for i in range(8 * planes):
        totals_s32x4[i] = vdupq_n_s32(0)
    for k in range(0, group_size, 16):
        prefetch_weights(packed + k * 16)
        prefetch_weights(packed + k * 16 + 64)
        prefetch_weights(packed + k * 16 + 128)
        prefetch_weights(packed + k * 16 + 192)
        first_s8x16 = vld1q_s8(x + k)
        second_s8x16 = vld1q_s8(x + (planes >> 1) * group_size + k)
        third_s8x16 = vld1q_s8(x + (planes - 1) * group_size + k)
        for i in range(8):
            stored_u8x16 = vld1q_u8(packed + k * 16 + i * 16)
            low_s8x16 = low_codes(stored_u8x16, levels_s8x16, layout)
            high_s8x16 = high_codes(stored_u8x16, levels_s8x16, layout)
            totals_s32x4[i] = vdotq_laneq_s32(totals_s32x4[i], low_s8x16, first_s8x16, 0)
            totals_s32x4[i] = vdotq_laneq_s32(totals_s32x4[i], high_s8x16, first_s8x16, 1)
            if planes >= 2:
                totals_s32x4[8 + i] = vdotq_laneq_s32(totals_s32x4[8 + i], low_s8x16, second_s8x16,
                                                      0)
                totals_s32x4[8 + i] = vdotq_laneq_s32(totals_s32x4[8 + i], high_s8x16, second_s8x16,
                                                      1)
            if planes == 3:
                totals_s32x4[16 + i] = vdotq_laneq_s32(totals_s32x4[16 + i], low_s8x16, third_s8x16,
                                                       0)
                totals_s32x4[16 + i] = vdotq_laneq_s32(
                    totals_s32x4[16 + i], high_s8x16, third_s8x16, 1)
        for i in range(8):
            stored_u8x16 = vld1q_u8(packed + k * 16 + 128 + i * 16)
            low_s8x16 = low_codes(stored_u8x16, levels_s8x16, layout)
            high_s8x16 = high_codes(stored_u8x16, levels_s8x16, layout)
            totals_s32x4[i] = vdotq_laneq_s32(totals_s32x4[i], low_s8x16, first_s8x16, 2)
            totals_s32x4[i] = vdotq_laneq_s32(totals_s32x4[i], high_s8x16, first_s8x16, 3)
            if planes >= 2:
                totals_s32x4[8 + i] = vdotq_laneq_s32(totals_s32x4[8 + i], low_s8x16, second_s8x16,
                                                      2)
                totals_s32x4[8 + i] = vdotq_laneq_s32(totals_s32x4[8 + i], high_s8x16, second_s8x16,
                                                      3)
            if planes == 3:
                totals_s32x4[16 + i] = vdotq_laneq_s32(totals_s32x4[16 + i], low_s8x16, third_s8x16,
                                                       2)
                totals_s32x4[16 + i] = vdotq_laneq_s32(
                    totals_s32x4[16 + i], high_s8x16, third_s8x16, 3)
    for i in range(8 * planes):
        sums_s32x4[i] = totals_s32x4[i]
