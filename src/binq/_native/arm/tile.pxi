# One tile (32 rows) x one kernel group, unpacked to int8 [k][32]: what every NEON product reads.
# The rows of a tile lie side by side, so that a vector holds 16 rows at one k and an activation is
# a broadcast; no sum ever runs across a vector.

cdef inline void decode_binary(const uint8_t *packed, Py_ssize_t k8s,
                               int8_t *codes) noexcept nogil:
    # bit 1 is +1 and bit 0 is -1: vtst gives -1 or 0, and -1 - 2 * (-1) = +1, -1 - 0 = -1.
    cdef Py_ssize_t k8, half
    cdef int bit
    cdef uint8x16_t bytes_u8x16
    cdef int8x16_t set_s8x16
    cdef int8x16_t minus_s8x16 = vdupq_n_s8(-1)
    for k8 in range(k8s):
        for half in range(2):
            bytes_u8x16 = vld1q_u8(packed + k8 * 32 + half * 16)
            for bit in range(8):
                set_s8x16 = vreinterpretq_s8_u8(vtstq_u8(bytes_u8x16, vdupq_n_u8(<uint8_t>(1 << bit))))
                vst1q_s8(codes + (k8 * 8 + bit) * 32 + half * 16,
                         vsubq_s8(minus_s8x16, vaddq_s8(set_s8x16, set_s8x16)))


cdef inline void decode_ternary(const uint8_t *packed, Py_ssize_t k8s,
                                int8_t *codes) noexcept nogil:
    # With set planes -1 and clear planes 0: t = (A + B) / 2 = -1 - (a + b).
    cdef Py_ssize_t k8, half
    cdef int bit
    cdef uint8x16_t plane0_u8x16, plane1_u8x16, bit_u8x16
    cdef int8x16_t sum_s8x16
    cdef int8x16_t minus_s8x16 = vdupq_n_s8(-1)
    for k8 in range(k8s):
        for half in range(2):
            plane0_u8x16 = vld1q_u8(packed + k8 * 64 + half * 16)
            plane1_u8x16 = vld1q_u8(packed + k8 * 64 + 32 + half * 16)
            for bit in range(8):
                bit_u8x16 = vdupq_n_u8(<uint8_t>(1 << bit))
                sum_s8x16 = vaddq_s8(vreinterpretq_s8_u8(vtstq_u8(plane0_u8x16, bit_u8x16)),
                                     vreinterpretq_s8_u8(vtstq_u8(plane1_u8x16, bit_u8x16)))
                vst1q_s8(codes + (k8 * 8 + bit) * 32 + half * 16,
                         vsubq_s8(minus_s8x16, sum_s8x16))


cdef inline void decode_int4(const uint8_t *packed, Py_ssize_t k8s,
                             const int8_t *zero_points, int8_t *codes) noexcept nogil:
    # A structured load of 64 bytes separates the 4 bytes of 16 rows: byte j holds k + j low and
    # k + 4 + j high.
    cdef Py_ssize_t k8, half, j
    cdef uint8x16x4_t quads_u8x16
    cdef int8x16_t zero_s8x16[2]
    cdef uint8x16_t low_u8x16 = vdupq_n_u8(15)
    zero_s8x16[0] = vld1q_s8(zero_points)
    zero_s8x16[1] = vld1q_s8(zero_points + 16)
    for k8 in range(k8s):
        for half in range(2):
            quads_u8x16 = vld4q_u8(packed + k8 * 128 + half * 64)
            for j in range(4):
                vst1q_s8(codes + (k8 * 8 + j) * 32 + half * 16,
                         vsubq_s8(vreinterpretq_s8_u8(vandq_u8(quads_u8x16.val[j], low_u8x16)),
                                  zero_s8x16[half]))
                vst1q_s8(codes + (k8 * 8 + 4 + j) * 32 + half * 16,
                         vsubq_s8(vreinterpretq_s8_u8(vshrq_n_u8(quads_u8x16.val[j], 4)),
                                  zero_s8x16[half]))


cdef inline void load_zero_points(const Weights *w, Py_ssize_t tile, Py_ssize_t group,
                                  int8_t *zero_points) noexcept nogil:
    # int4: one value a row; 8 where the format is symmetric.
    cdef const uint8_t *nibbles
    cdef Py_ssize_t r
    if w.zero_points == NULL:
        for r in range(32):
            zero_points[r] = 8
        return
    nibbles = (<const uint8_t *>w.zero_points
               + (tile * w.scale_groups + (group if w.scale_groups > 1 else 0)) * 16)
    for r in range(16):
        zero_points[r] = <int8_t>(nibbles[r] & 15)
        zero_points[r + 16] = <int8_t>(nibbles[r] >> 4)


cdef inline void load_floats(const Weights *w, const void *stored, Py_ssize_t tile,
                             Py_ssize_t group, float *values) noexcept nogil:
    # 32 scales or midpoints of one tile and group as float32.
    cdef Py_ssize_t i
    cdef Py_ssize_t start = (tile * w.scale_groups + (group if w.scale_groups > 1 else 0)) * 32
    if w.scales_float32:
        memcpy(values, <const float *>stored + start, 32 * sizeof(float))
        return
    for i in range(0, 32, 4):
        vst1q_f32(values + i, vcvt_f32_f16(vreinterpret_f16_u16(
            vld1_u16(<const uint16_t *>stored + start + i))))


cdef inline void decode_tile(const Weights *w, int format, Py_ssize_t tile, Py_ssize_t group,
                             int8_t *codes) noexcept nogil:
    # codes[k * 32 + r]: the signed integer that multiplies the scale.
    cdef int8_t zero_points[32]
    cdef Py_ssize_t k8s = w.group_size >> 3
    cdef Py_ssize_t first = (tile * w.groups + group) * k8s
    if format == FORMAT_BINARY:
        decode_binary(w.packed + first * 32, k8s, codes)
    elif format == FORMAT_TERNARY:
        decode_ternary(w.packed + first * 64, k8s, codes)
    else:
        load_zero_points(w, tile, group, zero_points)
        decode_int4(w.packed + first * 128, k8s, zero_points, codes)
