# One tile and kernel group as signed bytes, four k of a row side by side, 4 rows a vector: what dot
# products of bytes multiply, [k / 4][32 rows][4 k]. In pairs: 8 k of a row, two rows a vector, as
# products of matrices want them, [k / 8][16][2 rows][8 k].

cdef inline void store_quads(int8_t *codes, Py_ssize_t k, int i, int8x16_t first_s8x16,
                             int8x16_t second_s8x16, bint pairs) noexcept nogil:
    # Rows 4 i .. 4 i + 3: k .. k + 3 and k + 4 .. k + 7.
    if pairs:
        vst1q_s8(codes + k * 32 + i * 32, vreinterpretq_s8_s32(vzip1q_s32(
            vreinterpretq_s32_s8(first_s8x16), vreinterpretq_s32_s8(second_s8x16))))
        vst1q_s8(codes + k * 32 + i * 32 + 16, vreinterpretq_s8_s32(vzip2q_s32(
            vreinterpretq_s32_s8(first_s8x16), vreinterpretq_s32_s8(second_s8x16))))
    else:
        vst1q_s8(codes + k * 32 + i * 16, first_s8x16)
        vst1q_s8(codes + k * 32 + 128 + i * 16, second_s8x16)


cdef inline void store_codes(int8_t *codes, Py_ssize_t k, int i, uint8x16_t nibbles_u8x16,
                             int8x16_t levels_s8x16, bint pairs) noexcept nogil:
    # Rows 4 i .. 4 i + 3, of which each nibble is a number among 16 levels.
    store_quads(codes, k, i,
                vqtbl1q_s8(levels_s8x16, vandq_u8(nibbles_u8x16, vdupq_n_u8(15))),
                vqtbl1q_s8(levels_s8x16, vshrq_n_u8(nibbles_u8x16, 4)), pairs)


cdef inline void gather_nibbles(const uint8_t *packed, uint8x16_t *nibbles_u8x16,
                                int planes) noexcept nogil:
    # The codes of 16 rows and 8 k as nibbles: those of k + j low and of k + 4 + j high in vector j.
    cdef uint8x16_t first_u8x16, second_u8x16, third_u8x16, even_u8x16, odd_u8x16
    cdef uint8x16_t nibble_u8x16 = vdupq_n_u8(0x11)
    cdef uint8x16_t crumb_u8x16 = vdupq_n_u8(0x33)
    cdef uint8x16_t bit_u8x16 = vdupq_n_u8(0x55)
    first_u8x16 = vld1q_u8(packed)
    if planes == 1:
        nibbles_u8x16[0] = vandq_u8(first_u8x16, nibble_u8x16)
        nibbles_u8x16[1] = vandq_u8(vshrq_n_u8(first_u8x16, 1), nibble_u8x16)
        nibbles_u8x16[2] = vandq_u8(vshrq_n_u8(first_u8x16, 2), nibble_u8x16)
        nibbles_u8x16[3] = vandq_u8(vshrq_n_u8(first_u8x16, 3), nibble_u8x16)
        return
    # Two bits each of the even k, and of the odd ones.
    second_u8x16 = vld1q_u8(packed + 32)
    even_u8x16 = vbslq_u8(bit_u8x16, first_u8x16, vshlq_n_u8(second_u8x16, 1))
    odd_u8x16 = vbslq_u8(bit_u8x16, vshrq_n_u8(first_u8x16, 1), second_u8x16)
    if planes == 2:
        nibbles_u8x16[0] = vandq_u8(even_u8x16, crumb_u8x16)
        nibbles_u8x16[1] = vandq_u8(odd_u8x16, crumb_u8x16)
        nibbles_u8x16[2] = vandq_u8(vshrq_n_u8(even_u8x16, 2), crumb_u8x16)
        nibbles_u8x16[3] = vandq_u8(vshrq_n_u8(odd_u8x16, 2), crumb_u8x16)
        return
    third_u8x16 = vld1q_u8(packed + 64)
    first_u8x16 = vandq_u8(third_u8x16, bit_u8x16)
    second_u8x16 = vandq_u8(vshrq_n_u8(third_u8x16, 1), bit_u8x16)
    nibbles_u8x16[0] = vbslq_u8(crumb_u8x16, even_u8x16, vshlq_n_u8(first_u8x16, 2))
    nibbles_u8x16[1] = vbslq_u8(crumb_u8x16, odd_u8x16, vshlq_n_u8(second_u8x16, 2))
    nibbles_u8x16[2] = vbslq_u8(crumb_u8x16, vshrq_n_u8(even_u8x16, 2), first_u8x16)
    nibbles_u8x16[3] = vbslq_u8(crumb_u8x16, vshrq_n_u8(odd_u8x16, 2), second_u8x16)


cdef inline void quads_of_planes(const uint8_t *packed, Py_ssize_t k8s, int8x16_t levels_s8x16,
                                 int8_t *codes, int planes, bint pairs) noexcept nogil:
    cdef Py_ssize_t k8
    cdef int half
    cdef uint8x16_t nibbles_u8x16[4]
    cdef uint16x8_t first_u16x8, second_u16x8
    for k8 in range(k8s):
        for half in range(2):
            gather_nibbles(packed + k8 * planes * 32 + half * 16, nibbles_u8x16, planes)
            first_u16x8 = vreinterpretq_u16_u8(vzip1q_u8(nibbles_u8x16[0], nibbles_u8x16[1]))
            second_u16x8 = vreinterpretq_u16_u8(vzip1q_u8(nibbles_u8x16[2], nibbles_u8x16[3]))
            store_codes(codes, k8 * 8, half * 4, vreinterpretq_u8_u16(
                vzip1q_u16(first_u16x8, second_u16x8)), levels_s8x16, pairs)
            store_codes(codes, k8 * 8, half * 4 + 1, vreinterpretq_u8_u16(
                vzip2q_u16(first_u16x8, second_u16x8)), levels_s8x16, pairs)
            first_u16x8 = vreinterpretq_u16_u8(vzip2q_u8(nibbles_u8x16[0], nibbles_u8x16[1]))
            second_u16x8 = vreinterpretq_u16_u8(vzip2q_u8(nibbles_u8x16[2], nibbles_u8x16[3]))
            store_codes(codes, k8 * 8, half * 4 + 2, vreinterpretq_u8_u16(
                vzip1q_u16(first_u16x8, second_u16x8)), levels_s8x16, pairs)
            store_codes(codes, k8 * 8, half * 4 + 3, vreinterpretq_u8_u16(
                vzip2q_u16(first_u16x8, second_u16x8)), levels_s8x16, pairs)


cdef inline void quads_of_nibbles(const uint8_t *packed, Py_ssize_t k8s,
                                  const int8_t *zero_points, int8_t *codes,
                                  bint pairs) noexcept nogil:
    # Less the zero point of each row.
    cdef Py_ssize_t k8
    cdef int i
    cdef uint8x16_t stored_u8x16
    cdef int8x16_t zeros_s8x16[8]
    cdef int8x16_t twice_s8x16
    for i in range(2):
        zeros_s8x16[4 * i] = vld1q_s8(zero_points + 16 * i)
        twice_s8x16 = vzip2q_s8(zeros_s8x16[4 * i], zeros_s8x16[4 * i])
        zeros_s8x16[4 * i + 2] = vzip1q_s8(twice_s8x16, twice_s8x16)
        zeros_s8x16[4 * i + 3] = vzip2q_s8(twice_s8x16, twice_s8x16)
        twice_s8x16 = vzip1q_s8(zeros_s8x16[4 * i], zeros_s8x16[4 * i])
        zeros_s8x16[4 * i] = vzip1q_s8(twice_s8x16, twice_s8x16)
        zeros_s8x16[4 * i + 1] = vzip2q_s8(twice_s8x16, twice_s8x16)
    for k8 in range(k8s):
        for i in range(8):
            stored_u8x16 = vld1q_u8(packed + k8 * 128 + i * 16)
            store_quads(
                codes, k8 * 8, i,
                vsubq_s8(vreinterpretq_s8_u8(vandq_u8(stored_u8x16, vdupq_n_u8(15))),
                         zeros_s8x16[i]),
                vsubq_s8(vreinterpretq_s8_u8(vshrq_n_u8(stored_u8x16, 4)), zeros_s8x16[i]),
                pairs)


cdef inline void quads_of_levels(const uint8_t *packed, Py_ssize_t k8s, int8x16_t levels_s8x16,
                                 int8_t *codes, bint pairs) noexcept nogil:
    cdef Py_ssize_t k8
    cdef int i
    for k8 in range(k8s):
        for i in range(8):
            store_codes(codes, k8 * 8, i, vld1q_u8(packed + k8 * 128 + i * 16), levels_s8x16,
                        pairs)


cdef inline uint8x16_t less_128(uint8x16_t stored_u8x16) noexcept nogil:
    return veorq_u8(stored_u8x16, vdupq_n_u8(128))


cdef inline void quads_of_bytes(const uint8_t *packed, Py_ssize_t k8s, int8_t *codes,
                                bint pairs) noexcept nogil:
    # Less 128, so that they fit.
    cdef Py_ssize_t k8
    cdef int i
    for k8 in range(k8s):
        for i in range(8):
            store_quads(
                codes, k8 * 8, i,
                vreinterpretq_s8_u8(less_128(vld1q_u8(packed + k8 * 256 + i * 16))),
                vreinterpretq_s8_u8(less_128(vld1q_u8(packed + k8 * 256 + 128 + i * 16))), pairs)


cdef inline void decode_layout(const Weights *w, Py_ssize_t tile, Py_ssize_t group, int8_t *codes,
                               bint pairs, int layout) noexcept nogil:
    cdef Py_ssize_t k8s = w.group_size >> 3
    cdef const uint8_t *packed = w.packed + (tile * w.groups + group) * k8s * block_bytes(layout)
    cdef int8_t zero_points[32]
    cdef int8_t levels[16]
    cdef int code, p
    if layout == NIBBLES:
        load_zero_points(w, tile, group, zero_points)
        quads_of_nibbles(packed, k8s, zero_points, codes, pairs)
    elif layout == BYTES:
        quads_of_bytes(packed, k8s, codes, pairs)
    elif layout == LEVELS:
        quads_of_levels(packed, k8s, vld1q_s8(SPECS[w.format].levels), codes, pairs)
    else:
        for code in range(16):
            levels[code] = <int8_t>first_level(w.format, w.zero)
            for p in range(LAYOUTS[layout].planes):
                levels[code] += <int8_t>(plane_step(layout, p) * (code >> p & 1))
        quads_of_planes(packed, k8s, vld1q_s8(levels), codes, LAYOUTS[layout].planes, pairs)


cdef inline void decode_quads(const Weights *w, Py_ssize_t tile, Py_ssize_t group,
                              int8_t *codes) noexcept nogil:
    # The integers that multiply the scales, where nothing is left to take off (load_zeros_left); a
    # loop of its own for each layout.
    by_layout(SPECS[w.format].layout, decode_layout, w, tile, group, codes, False)


cdef inline void decode_pairs(const Weights *w, Py_ssize_t tile, Py_ssize_t group,
                              int8_t *codes) noexcept nogil:
    by_layout(SPECS[w.format].layout, decode_layout, w, tile, group, codes, True)
