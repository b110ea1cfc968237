# One tile (32 rows) x one kernel group, unpacked to int8 [k][32]: what every NEON product reads.
# The rows of a tile lie side by side, so that a vector holds 16 rows at one k and an activation is
# a broadcast; no sum ever runs across a vector.

cdef inline int8x16_t add_bits(int8x16_t sum_s8x16, uint8x16_t bytes_u8x16, int bit,
                               int weight) noexcept nogil:
    # Adds weight (1 or 2) where the bit is set: vtst gives -1 there.
    cdef int8x16_t set_s8x16 = vreinterpretq_s8_u8(
        vtstq_u8(bytes_u8x16, vdupq_n_u8(<uint8_t>(1 << bit))))
    sum_s8x16 = vsubq_s8(sum_s8x16, set_s8x16)
    return vsubq_s8(sum_s8x16, set_s8x16) if weight == 2 else sum_s8x16


cdef inline void decode_planes(const uint8_t *packed, Py_ssize_t k8s, int format,
                               int8_t *codes) noexcept nogil:
    # A level is that of no bits, and what each plane's bit adds.
    cdef Py_ssize_t planes = SPECS[format].planes
    cdef int base = SPECS[format].levels[0]
    cdef int first = SPECS[format].levels[1] - base
    cdef int second = SPECS[format].levels[2] - base
    cdef Py_ssize_t k8, half
    cdef int bit
    cdef const uint8_t *block
    cdef uint8x16_t first_u8x16, second_u8x16
    cdef int8x16_t level_s8x16
    for k8 in range(k8s):
        for half in range(2):
            block = packed + k8 * planes * 32 + half * 16
            first_u8x16 = vld1q_u8(block)
            second_u8x16 = first_u8x16 if planes == 1 else vld1q_u8(block + 32)
            for bit in range(8):
                level_s8x16 = add_bits(vdupq_n_s8(<int8_t>base), first_u8x16, bit, first)
                if planes == 2:
                    level_s8x16 = add_bits(level_s8x16, second_u8x16, bit, second)
                vst1q_s8(codes + (k8 * 8 + bit) * 32 + half * 16, level_s8x16)


cdef inline void decode_nibbles(const uint8_t *packed, Py_ssize_t k8s, int format, bint signed_,
                                const int8_t *zero_points, int8_t *codes) noexcept nogil:
    # A structured load of 64 bytes separates the 4 bytes of 16 rows: byte j holds k + j low and
    # k + 4 + j high.
    cdef Py_ssize_t k8, half, j
    cdef uint8x16x4_t quads_u8x16
    cdef int8x16_t zero_s8x16[2]
    cdef int8x16_t levels_s8x16 = vld1q_s8(SPECS[format].levels)
    cdef uint8x16_t low_u8x16 = vdupq_n_u8(15)
    zero_s8x16[0] = vld1q_s8(zero_points)
    zero_s8x16[1] = vld1q_s8(zero_points + 16)
    for k8 in range(k8s):
        for half in range(2):
            quads_u8x16 = vld4q_u8(packed + k8 * 128 + half * 64)
            for j in range(4):
                if signed_ and not is_even(format):
                    vst1q_s8(codes + (k8 * 8 + j) * 32 + half * 16,
                             vqtbl1q_s8(levels_s8x16, vandq_u8(quads_u8x16.val[j], low_u8x16)))
                    vst1q_s8(codes + (k8 * 8 + 4 + j) * 32 + half * 16,
                             vqtbl1q_s8(levels_s8x16, vshrq_n_u8(quads_u8x16.val[j], 4)))
                    continue
                vst1q_s8(codes + (k8 * 8 + j) * 32 + half * 16,
                         vsubq_s8(vreinterpretq_s8_u8(vandq_u8(quads_u8x16.val[j], low_u8x16)),
                                  zero_s8x16[half]))
                vst1q_s8(codes + (k8 * 8 + 4 + j) * 32 + half * 16,
                         vsubq_s8(vreinterpretq_s8_u8(vshrq_n_u8(quads_u8x16.val[j], 4)),
                                  zero_s8x16[half]))


cdef inline void load_floats(const Weights *w, const void *stored, int type,
                             Py_ssize_t tile, Py_ssize_t group, float *values) noexcept nogil:
    # 32 scales or offsets of one tile and group as float32.
    cdef Py_ssize_t i
    cdef Py_ssize_t start = scale_group(w, tile, group) * 32
    if type == SCALE_FLOAT16:
        for i in range(0, 32, 4):
            vst1q_f32(values + i, vcvt_f32_f16(vreinterpret_f16_u16(
                vld1_u16(<const uint16_t *>stored + start + i))))
        return
    for i in range(32):
        values[i] = stored_float(stored, start + i, type)
