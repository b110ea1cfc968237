# Planes of bits on VNNI: codes such as a + b, or a + 2 b + 4 c, are unpacked in registers, 12
# operations for 128 of two planes, and multiplied at once by up to 8 planes of x (8 rows of int8, 4
# of int16), in 2 accumulators of 16 columns for each.

cdef enum:
    PREFETCH_PLANES = 8192   # bytes ahead, into L2: few planes hide too little of memory


cdef inline __m512i spread_16_bytes(const uint8_t *bytes) noexcept nogil:
    # 16 bytes, one a row, each repeated in the four bytes of its row's dword.
    cdef __m512i order_u8x64 = _mm512_setr_epi32(
        0x00000000, 0x01010101, 0x02020202, 0x03030303, 0x04040404, 0x05050505, 0x06060606,
        0x07070707, 0x08080808, 0x09090909, 0x0A0A0A0A, 0x0B0B0B0B, 0x0C0C0C0C, 0x0D0D0D0D,
        0x0E0E0E0E, 0x0F0F0F0F)
    return _mm512_shuffle_epi8(
        _mm512_broadcast_i32x4(_mm_loadu_si128(<const __m128i *>bytes)), order_u8x64)


cdef inline __m512i code_bits(const __m512i *planes_u8x64, __m512i bits_u8x64,
                              int layout) noexcept nogil:
    # Of each byte its own bit of all planes, as what these bits add up to, from the last plane on.
    cdef int p
    cdef int last = LAYOUTS[layout].planes - 1
    cdef __m512i one_u8x64 = _mm512_set1_epi8(1)
    cdef __m512i code_u8x64 = _mm512_min_epu8(
        _mm512_and_si512(planes_u8x64[last], bits_u8x64), one_u8x64)
    for p in range(1, LAYOUTS[layout].planes):
        if layout != TRITS:
            code_u8x64 = _mm512_add_epi8(code_u8x64, code_u8x64)
        code_u8x64 = _mm512_add_epi8(code_u8x64, _mm512_min_epu8(
            _mm512_and_si512(planes_u8x64[last - p], bits_u8x64), one_u8x64))
    return code_u8x64


cdef inline void plane_dots(const Weights *w, const uint8_t *packed, const int8_t *x,
                            const int32_t *starts, __m512i *sums_i32x16, int layout,
                            int planes) noexcept nogil:
    # sums[2 p + h] = starts[p] + codes of 16 columns . plane p. 256 * 7 * 128 < 2^18: never
    # overflows.
    cdef Py_ssize_t k8
    cdef Py_ssize_t group_size = w.group_size
    cdef int p, h
    cdef int32_t four
    cdef __m512i planes_u8x64[3]
    cdef __m512i low_u8x64[2]
    cdef __m512i high_u8x64[2]
    cdef __m512i x_s8x64
    cdef __m512i low_bits_u8x64 = _mm512_set1_epi32(0x08040201)
    cdef __m512i high_bits_u8x64 = _mm512_set1_epi32(<int>0x80402010)
    cdef __m512i block_i32x16[16]
    for p in range(2 * planes):
        block_i32x16[p] = _mm512_set1_epi32(starts[p >> 1])
    for k8 in range(group_size >> 3):
        _mm_prefetch(packed + k8 * block_bytes(layout) + PREFETCH_PLANES, _MM_HINT_T1)
        for h in range(2):
            for p in range(LAYOUTS[layout].planes):
                planes_u8x64[p] = spread_16_bytes(
                    packed + k8 * block_bytes(layout) + p * 32 + h * 16)
            low_u8x64[h] = code_bits(planes_u8x64, low_bits_u8x64, layout)
            high_u8x64[h] = code_bits(planes_u8x64, high_bits_u8x64, layout)
        for p in range(planes):
            memcpy(&four, x + p * group_size + k8 * 8, 4)
            x_s8x64 = _mm512_set1_epi32(four)
            for h in range(2):
                block_i32x16[2 * p + h] = _mm512_dpbusd_epi32(
                    block_i32x16[2 * p + h], low_u8x64[h], x_s8x64)
        for p in range(planes):
            memcpy(&four, x + p * group_size + k8 * 8 + 4, 4)
            x_s8x64 = _mm512_set1_epi32(four)
            for h in range(2):
                block_i32x16[2 * p + h] = _mm512_dpbusd_epi32(
                    block_i32x16[2 * p + h], high_u8x64[h], x_s8x64)
    for p in range(2 * planes):
        sums_i32x16[p] = block_i32x16[p]
