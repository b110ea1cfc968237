# Products of weights in bit planes by tables in registers, as on x86
# (x86/avx2_lut_tables.pxi, which proves the bounds; the idea is T-MAC's and bitnet.cpp's): a
# nibble of a stored byte says which of four activations count, and one tbl looks up, for 16 rows
# of the matrix, what those add up to.
#
#   x0 x1 x2 x3  ->  table[b] = sum of max(x, 0) over set bits of b, max(-x, 0) over clear bits
#   binary  (bits b, weight 2 b - 1)         2 * looked up - sum of |x|
#   ternary (planes a and b, a + b - 1)      looked up by a + looked up by b - sum of |x|
#
# Entries are stored as digits to the base of 32, in tables of bytes of their own: 2 of int8
# activations (an entry is at most 508), 3 of int16 (at most 32764). Eight digits add up in a byte
# (8 * 31 = 248) before they are widened to 16 bits, which hold those of a group: 128 * 31 = 3968.
#
# Tables of 8 k: [digit][k / 4 % 2][16] bytes.

cdef inline void make_tables(const int16_t *x, Py_ssize_t group_size, uint8_t *tables,
                             int digits) noexcept nogil:
    # The tables of one row and kernel group. Entry b is the sum of the negative x, raised to 0,
    # plus the x of the set bits of b: the same numbers as above.
    cdef Py_ssize_t k
    cdef int d
    cdef uint8_t *target
    cdef int16x8_t first_s16x8, second_s16x8
    cdef int16x4_t zero_s16x4 = vdup_n_s16(0)
    cdef int16x8_t digit_s16x8 = vdupq_n_s16(31)
    # Lanes 0..7 are the entries 0..7: bits 0, 1 and 2 of the lane number.
    cdef int16x8_t bit0_s16x8 = vreinterpretq_s16_u64(vdupq_n_u64(0xFFFF0000FFFF0000))
    cdef int16x8_t bit1_s16x8 = vreinterpretq_s16_u64(vdupq_n_u64(0xFFFFFFFF00000000))
    cdef int16x8_t bit2_s16x8 = vcombine_s16(zero_s16x4, vdup_n_s16(-1))
    for k in range(0, group_size, 4):
        first_s16x8 = vdupq_n_s16(vaddv_s16(vmax_s16(vneg_s16(vld1_s16(x + k)), zero_s16x4)))
        first_s16x8 = vaddq_s16(first_s16x8, vandq_s16(bit0_s16x8, vdupq_n_s16(x[k])))
        first_s16x8 = vaddq_s16(first_s16x8, vandq_s16(bit1_s16x8, vdupq_n_s16(x[k + 1])))
        first_s16x8 = vaddq_s16(first_s16x8, vandq_s16(bit2_s16x8, vdupq_n_s16(x[k + 2])))
        second_s16x8 = vaddq_s16(first_s16x8, vdupq_n_s16(x[k + 3]))
        target = tables + (k >> 3) * (32 * digits) + (k & 4) * 4
        for d in range(digits):
            vst1q_s8(<int8_t *>target + 32 * d, vcombine_s8(
                vmovn_s16(vandq_s16(first_s16x8, digit_s16x8)),
                vmovn_s16(vandq_s16(second_s16x8, digit_s16x8))))
            first_s16x8 = vshrq_n_s16(first_s16x8, 5)
            second_s16x8 = vshrq_n_s16(second_s16x8, 5)


cdef inline void look_up_nibbles(uint8x16_t stored_u8x16, const uint8_t *tables,
                                 uint8x16_t *digits_u8x16, int digits) noexcept nogil:
    # 8 k of 16 rows of weights. Both halves of a tile have their sums side by side.
    cdef uint8x16_t low_u8x16 = vandq_u8(stored_u8x16, vdupq_n_u8(15))
    cdef uint8x16_t high_u8x16 = vshrq_n_u8(stored_u8x16, 4)
    digits_u8x16[0] = vaddq_u8(digits_u8x16[0], vqtbl1q_u8(vld1q_u8(tables), low_u8x16))
    digits_u8x16[0] = vaddq_u8(digits_u8x16[0], vqtbl1q_u8(vld1q_u8(tables + 16), high_u8x16))
    digits_u8x16[2] = vaddq_u8(digits_u8x16[2], vqtbl1q_u8(vld1q_u8(tables + 32), low_u8x16))
    digits_u8x16[2] = vaddq_u8(digits_u8x16[2], vqtbl1q_u8(vld1q_u8(tables + 48), high_u8x16))
    if digits == 3:
        digits_u8x16[4] = vaddq_u8(digits_u8x16[4], vqtbl1q_u8(vld1q_u8(tables + 64), low_u8x16))
        digits_u8x16[4] = vaddq_u8(digits_u8x16[4], vqtbl1q_u8(vld1q_u8(tables + 80), high_u8x16))


cdef inline void widen_digit(uint8x16_t digits_u8x16, uint16x8_t *sums_u16x8) noexcept nogil:
    sums_u16x8[0] = vaddw_u8(sums_u16x8[0], vget_low_u8(digits_u8x16))
    sums_u16x8[1] = vaddw_high_u8(sums_u16x8[1], digits_u8x16)


cdef inline void look_up_block(const uint8_t *packed, const uint8_t *tables,
                               uint16x8_t *sums_u16x8, int planes, int digits) noexcept nogil:
    # Eight look-ups of 32 rows: 32 k of binary, 16 k of ternary.
    cdef uint8x16_t digits_u8x16[6]
    cdef int step = 32 * digits   # bytes of tables for 8 k
    digits_u8x16[0] = vdupq_n_u8(0)
    digits_u8x16[1] = vdupq_n_u8(0)
    digits_u8x16[2] = vdupq_n_u8(0)
    digits_u8x16[3] = vdupq_n_u8(0)
    if digits == 3:
        digits_u8x16[4] = vdupq_n_u8(0)
        digits_u8x16[5] = vdupq_n_u8(0)
    look_up_nibbles(vld1q_u8(packed), tables, digits_u8x16, digits)
    look_up_nibbles(vld1q_u8(packed + 16), tables, digits_u8x16 + 1, digits)
    if planes == 1:
        tables += step
    look_up_nibbles(vld1q_u8(packed + 32), tables, digits_u8x16, digits)
    look_up_nibbles(vld1q_u8(packed + 48), tables, digits_u8x16 + 1, digits)
    tables += step
    look_up_nibbles(vld1q_u8(packed + 64), tables, digits_u8x16, digits)
    look_up_nibbles(vld1q_u8(packed + 80), tables, digits_u8x16 + 1, digits)
    if planes == 1:
        tables += step
    look_up_nibbles(vld1q_u8(packed + 96), tables, digits_u8x16, digits)
    look_up_nibbles(vld1q_u8(packed + 112), tables, digits_u8x16 + 1, digits)
    widen_digit(digits_u8x16[0], sums_u16x8)
    widen_digit(digits_u8x16[1], sums_u16x8 + 2)
    widen_digit(digits_u8x16[2], sums_u16x8 + 4)
    widen_digit(digits_u8x16[3], sums_u16x8 + 6)
    if digits == 3:
        widen_digit(digits_u8x16[4], sums_u16x8 + 8)
        widen_digit(digits_u8x16[5], sums_u16x8 + 10)
