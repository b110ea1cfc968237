# Many planes of x by dot products of four bytes: one tile and kernel group is unpacked to signed
# bytes [k / 4][32 rows][4 k] once, whatever its format (quads.pxi), and multiplied by 3 planes at a
# time: 24 sums, 3 vectors of x and one of weights are 28 of the 32 registers.

cdef inline int8x16_t load_quad(const int8_t *quads, bint stored) noexcept nogil:
    if stored:
        return vreinterpretq_s8_u8(less_128(vld1q_u8(<const uint8_t *>quads)))
    return vld1q_s8(quads)


cdef inline void dot_quads(const int8_t *quads, const int8_t *x, Py_ssize_t group_size,
                           int32x4_t *sums_s32x4, bint stored,
                           int planes) noexcept nogil:
    # stored: the bytes of int8 as they are in memory.
    # sums[8 p + i] = codes of rows 4 i .. 4 i + 3 . plane p. 256 * 128 * 128 = 2^22: never
    # overflows.
    cdef Py_ssize_t k
    cdef int32x4_t totals_s32x4[24]    # of this function alone: they stay in registers
    cdef int i
    cdef int8x16_t quad_s8x16
    cdef int8x16_t first_s8x16, second_s8x16, third_s8x16
    for i in range(8 * planes):
        totals_s32x4[i] = vdupq_n_s32(0)
    for k in range(0, group_size, 16):
        first_s8x16 = vld1q_s8(x + k)
        second_s8x16 = vld1q_s8(x + (planes >> 1) * group_size + k)
        third_s8x16 = vld1q_s8(x + (planes - 1) * group_size + k)
        for i in range(8):
            quad_s8x16 = load_quad(quads + k * 32 + i * 16, stored)
            totals_s32x4[i] = vdotq_laneq_s32(totals_s32x4[i], quad_s8x16, first_s8x16, 0)
            if planes >= 2:
                totals_s32x4[8 + i] = vdotq_laneq_s32(
                    totals_s32x4[8 + i], quad_s8x16, second_s8x16, 0)
            if planes == 3:
                totals_s32x4[16 + i] = vdotq_laneq_s32(
                    totals_s32x4[16 + i], quad_s8x16, third_s8x16, 0)
        for i in range(8):
            quad_s8x16 = load_quad(quads + k * 32 + 128 + i * 16, stored)
            totals_s32x4[i] = vdotq_laneq_s32(totals_s32x4[i], quad_s8x16, first_s8x16, 1)
            if planes >= 2:
                totals_s32x4[8 + i] = vdotq_laneq_s32(
                    totals_s32x4[8 + i], quad_s8x16, second_s8x16, 1)
            if planes == 3:
                totals_s32x4[16 + i] = vdotq_laneq_s32(
                    totals_s32x4[16 + i], quad_s8x16, third_s8x16, 1)
        for i in range(8):
            quad_s8x16 = load_quad(quads + k * 32 + 256 + i * 16, stored)
            totals_s32x4[i] = vdotq_laneq_s32(totals_s32x4[i], quad_s8x16, first_s8x16, 2)
            if planes >= 2:
                totals_s32x4[8 + i] = vdotq_laneq_s32(
                    totals_s32x4[8 + i], quad_s8x16, second_s8x16, 2)
            if planes == 3:
                totals_s32x4[16 + i] = vdotq_laneq_s32(
                    totals_s32x4[16 + i], quad_s8x16, third_s8x16, 2)
        for i in range(8):
            quad_s8x16 = load_quad(quads + k * 32 + 384 + i * 16, stored)
            totals_s32x4[i] = vdotq_laneq_s32(totals_s32x4[i], quad_s8x16, first_s8x16, 3)
            if planes >= 2:
                totals_s32x4[8 + i] = vdotq_laneq_s32(
                    totals_s32x4[8 + i], quad_s8x16, second_s8x16, 3)
            if planes == 3:
                totals_s32x4[16 + i] = vdotq_laneq_s32(
                    totals_s32x4[16 + i], quad_s8x16, third_s8x16, 3)
    for i in range(8 * planes):
        sums_s32x4[i] = totals_s32x4[i]
