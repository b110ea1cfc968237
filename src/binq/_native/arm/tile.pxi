# One tile (32 rows) x one kernel group, unpacked to int8 [k][32]: what every NEON product reads.
# The rows of a tile lie side by side, so that a vector holds 16 rows at one k and an activation is
# a broadcast; no sum ever runs across a vector.

cdef inline int8x16_t add_bits(int8x16_t sum_s8x16, uint8x16_t bytes_u8x16, int bit,
                               int8x16_t step_s8x16) noexcept nogil:
    # Adds the step of a plane where its bit is set: vtst gives -1 there.
    return vaddq_s8(sum_s8x16, vandq_s8(step_s8x16, vreinterpretq_s8_u8(
        vtstq_u8(bytes_u8x16, vdupq_n_u8(<uint8_t>(1 << bit))))))


cdef inline void decode_planes(const uint8_t *packed, Py_ssize_t k8s, int first, int8_t *codes,
                               int layout) noexcept nogil:
    # A level is that of no bits, and what each plane's bit adds.
    cdef Py_ssize_t planes = LAYOUTS[layout].planes
    cdef Py_ssize_t k8, half, p
    cdef int bit
    cdef uint8x16_t planes_u8x16[3]
    cdef int8x16_t steps_s8x16[3]
    cdef int8x16_t level_s8x16
    for p in range(planes):
        steps_s8x16[p] = vdupq_n_s8(<int8_t>plane_step(layout, p))
    for k8 in range(k8s):
        for half in range(2):
            for p in range(planes):
                planes_u8x16[p] = vld1q_u8(packed + (k8 * planes + p) * 32 + half * 16)
            for bit in range(8):
                level_s8x16 = vdupq_n_s8(<int8_t>first)
                for p in range(planes):
                    level_s8x16 = add_bits(level_s8x16, planes_u8x16[p], bit, steps_s8x16[p])
                vst1q_s8(codes + (k8 * 8 + bit) * 32 + half * 16, level_s8x16)


cdef inline void decode_nibbles(const uint8_t *packed, Py_ssize_t k8s, int layout,
                                const int8_t *levels, const int8_t *zero_points,
                                int8_t *codes) noexcept nogil:
    # A structured load of 64 bytes separates the 4 bytes of 16 rows: byte j holds k + j low and
    # k + 4 + j high.
    cdef Py_ssize_t k8, half, j
    cdef uint8x16x4_t quads_u8x16
    cdef int8x16_t zero_s8x16[2]
    cdef int8x16_t levels_s8x16
    cdef uint8x16_t low_u8x16 = vdupq_n_u8(15)
    if layout == LEVELS:
        levels_s8x16 = vld1q_s8(levels)
    zero_s8x16[0] = vld1q_s8(zero_points)
    zero_s8x16[1] = vld1q_s8(zero_points + 16)
    for k8 in range(k8s):
        for half in range(2):
            quads_u8x16 = vld4q_u8(packed + k8 * 128 + half * 64)
            for j in range(4):
                if layout == LEVELS:
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


cdef inline void decode_bytes(const uint8_t *packed, Py_ssize_t k4s, int8_t *codes) noexcept nogil:
    # Less 128.
    cdef Py_ssize_t k4, half, j
    cdef uint8x16x4_t quads_u8x16
    for k4 in range(k4s):
        for half in range(2):
            quads_u8x16 = vld4q_u8(packed + k4 * 128 + half * 64)
            for j in range(4):
                vst1q_s8(codes + (k4 * 4 + j) * 32 + half * 16, vreinterpretq_s8_u8(
                    veorq_u8(quads_u8x16.val[j], vdupq_n_u8(128))))


cdef inline void load_powers(const uint8_t *stored, int bias, float *values) noexcept nogil:
    # 2^(byte - bias) of 32 bytes: as power_of. Below 2^-126 the one bit moves out of the exponent.
    cdef int i
    cdef uint16x8_t bytes_u16x8
    cdef int32x4_t exponents_s32x4[2]
    cdef int32x4_t excess_s32x4 = vdupq_n_s32(bias - 127)
    cdef int32x4_t subnormal_s32x4 = vdupq_n_s32(0x00400000)
    cdef int j
    for i in range(0, 32, 8):
        bytes_u16x8 = vmovl_u8(vld1_u8(stored + i))
        exponents_s32x4[0] = vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(bytes_u16x8)))
        exponents_s32x4[1] = vreinterpretq_s32_u32(vmovl_u16(vget_high_u16(bytes_u16x8)))
        for j in range(2):
            exponents_s32x4[j] = vsubq_s32(exponents_s32x4[j], excess_s32x4)
            vst1q_f32(values + i + 4 * j, vreinterpretq_f32_s32(vbslq_s32(
                vcgtq_s32(exponents_s32x4[j], vdupq_n_s32(0)),
                vshlq_n_s32(exponents_s32x4[j], 23),
                vshlq_s32(subnormal_s32x4, exponents_s32x4[j]))))


cdef inline void load_floats(const Weights *w, const void *stored, int type,
                             Py_ssize_t tile, Py_ssize_t group, float *values) noexcept nogil:
    # 32 scales or offsets of one tile and group as float32.
    cdef Py_ssize_t i
    cdef Py_ssize_t start = scale_group(w, tile, group) * 32
    cdef const uint16_t *halves
    if type == SCALE_FLOAT32:
        memcpy(values, <const float *>stored + start, 32 * sizeof(float))
    elif SCALE_SPECS[type].bias:
        load_powers(<const uint8_t *>stored + start, SCALE_SPECS[type].bias, values)
    else:
        halves = <const uint16_t *>stored + start
        for i in range(0, 32, 4):
            if type == SCALE_BFLOAT16:
                vst1q_f32(values + i, vreinterpretq_f32_u32(
                    vshll_n_u16(vld1_u16(halves + i), 16)))
            else:
                vst1q_f32(values + i, vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(halves + i))))
