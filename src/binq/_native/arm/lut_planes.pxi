# Rows of x by codes of two or three planes, plane p counting 2^p, by the tables of lut_tables.pxi.
# With A = sum of |x|, S = sum of x and N = (A - S) / 2, what the tables are raised by, a plane of
# bits b makes
#   sum of b x = looked up - N
# and codes that are too large by z the sum of 2^p (looked up by plane p) - (2^planes - 1) N - z S.
#
# Each plane has digits of its own, so that a table serves all planes while it is in a register, and
# is weighted by 2^p where they are widened: 7 * 64 * 31 fits 16 bits. 16 rows of weights at a time:
# of three planes and digits, 9 vectors of digits and 6 of sums.

cdef inline void look_up_digit(const uint8_t *tables, uint8x16_t low_u8x16, uint8x16_t high_u8x16,
                               uint8x16_t *digit_u8x16) noexcept nogil:
    digit_u8x16[0] = vaddq_u8(digit_u8x16[0], vqtbl1q_u8(vld1q_u8(tables), low_u8x16))
    digit_u8x16[0] = vaddq_u8(digit_u8x16[0], vqtbl1q_u8(vld1q_u8(tables + 16), high_u8x16))


cdef inline void look_up_planes(const uint8_t *packed, const uint8_t *tables,
                                uint8x16_t *digits_u8x16, int planes, int digits) noexcept nogil:
    # 8 k of 16 rows of weights: digit d of plane p is digits[3 p + d].
    cdef int p
    cdef uint8x16_t stored_u8x16, low_u8x16, high_u8x16
    for p in range(planes):
        stored_u8x16 = vld1q_u8(packed + 32 * p)
        low_u8x16 = vandq_u8(stored_u8x16, vdupq_n_u8(15))
        high_u8x16 = vshrq_n_u8(stored_u8x16, 4)
        look_up_digit(tables, low_u8x16, high_u8x16, digits_u8x16 + 3 * p)
        look_up_digit(tables + 32, low_u8x16, high_u8x16, digits_u8x16 + 3 * p + 1)
        if digits == 3:
            look_up_digit(tables + 64, low_u8x16, high_u8x16, digits_u8x16 + 3 * p + 2)


cdef inline void widen_planes(const uint8x16_t *digits_u8x16, uint16x8_t *sums_u16x8, int planes,
                              int digits) noexcept nogil:
    # sums[2 d] and sums[2 d + 1]: digit d of rows 0 to 7 and 8 to 15.
    cdef int d
    for d in range(digits):
        widen_digit(digits_u8x16[d], sums_u16x8 + 2 * d)
        sums_u16x8[2 * d] = vmlal_u8(sums_u16x8[2 * d], vget_low_u8(digits_u8x16[3 + d]),
                                     vdup_n_u8(2))
        sums_u16x8[2 * d + 1] = vmlal_high_u8(sums_u16x8[2 * d + 1], digits_u8x16[3 + d],
                                              vdupq_n_u8(2))
        if planes == 3:
            sums_u16x8[2 * d] = vmlal_u8(sums_u16x8[2 * d], vget_low_u8(digits_u8x16[6 + d]),
                                         vdup_n_u8(4))
            sums_u16x8[2 * d + 1] = vmlal_high_u8(sums_u16x8[2 * d + 1], digits_u8x16[6 + d],
                                                  vdupq_n_u8(4))


cdef inline void lut_planes_half(const uint8_t *packed, const uint8_t *tables, Py_ssize_t k32s,
                                 const int32x4_t *excess_s32x4, float32x4_t *sums_f32x4,
                                 int planes, int digits) noexcept nogil:
    # The exact sums of one kernel group for 16 rows of weights. Eight look-ups of a digit add up in
    # a byte.
    cdef uint16x8_t sums_u16x8[6]
    cdef uint8x16_t digits_u8x16[9]
    cdef Py_ssize_t k32
    cdef int step = 32 * digits   # bytes of tables for 8 k
    cdef int i
    for i in range(6):
        sums_u16x8[i] = vdupq_n_u16(0)
    for k32 in range(k32s):
        for i in range(3 * planes):
            digits_u8x16[i] = vdupq_n_u8(0)
        for i in range(4):
            look_up_planes(packed + 32 * planes * i, tables + step * i, digits_u8x16, planes,
                           digits)
        widen_planes(digits_u8x16, sums_u16x8, planes, digits)
        packed += 128 * planes
        tables += 4 * step
    for i in range(2):
        sums_f32x4[2 * i] = looked_up(vget_low_u16(sums_u16x8[i]), vget_low_u16(sums_u16x8[2 + i]),
                                      vget_low_u16(sums_u16x8[4 + i]), excess_s32x4[2 * i],
                                      planes, digits)
        sums_f32x4[2 * i + 1] = looked_up(
            vget_high_u16(sums_u16x8[i]), vget_high_u16(sums_u16x8[2 + i]),
            vget_high_u16(sums_u16x8[4 + i]), excess_s32x4[2 * i + 1], planes, digits)


cdef inline void lut_planes_row(const Weights *w, const uint8_t *packed, const uint8_t *tables,
                                const int32_t *zeros, int32_t absolute, int32_t x_sum,
                                float32x4_t *sums_f32x4, int planes, int digits) noexcept nogil:
    # The exact sums of one kernel group of one tile and one row of x. zeros: what the codes of each
    # row of weights are too large by beside what those of all are, or NULL.
    cdef int32x4_t excess_s32x4[8]
    cdef int32x4_t same_s32x4 = vdupq_n_s32(
        ((1 << planes) - 1) * ((absolute - x_sum) >> 1) - first_level(w.format, w.zero) * x_sum)
    cdef int i
    for i in range(8):
        excess_s32x4[i] = same_s32x4
        if zeros != NULL:
            excess_s32x4[i] = vmlsq_s32(
                same_s32x4, vld1q_s32(zeros + 4 * i), vdupq_n_s32(-x_sum))
    lut_planes_half(packed, tables, w.group_size >> 5, excess_s32x4, sums_f32x4, planes, digits)
    lut_planes_half(packed + 16, tables, w.group_size >> 5, excess_s32x4 + 4, sums_f32x4 + 4,
                    planes, digits)
