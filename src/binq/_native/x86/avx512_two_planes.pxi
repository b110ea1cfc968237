# Ternary and int2 on VNNI: codes a + b, or a + 2 b, are unpacked in registers, 12 operations for
# 128 of them, and met at once by up to 8 planes of x (8 rows of int8, 4 of int16), in 2
# accumulators of 16 columns for each.

cdef enum:
    PREFETCH_TERNARY = 8192   # bytes ahead, into L2: few planes hide too little of memory


cdef inline __m512i spread_16_bytes(const uint8_t *bytes) noexcept nogil:
    # 16 bytes, one a row, each repeated in the four bytes of its row's dword.
    cdef __m512i order_u8x64 = _mm512_setr_epi32(
        0x00000000, 0x01010101, 0x02020202, 0x03030303, 0x04040404, 0x05050505, 0x06060606,
        0x07070707, 0x08080808, 0x09090909, 0x0A0A0A0A, 0x0B0B0B0B, 0x0C0C0C0C, 0x0D0D0D0D,
        0x0E0E0E0E, 0x0F0F0F0F)
    return _mm512_shuffle_epi8(
        _mm512_broadcast_i32x4(_mm_loadu_si128(<const __m128i *>bytes)), order_u8x64)


cdef inline __m512i code_bits(__m512i first_u8x64, __m512i second_u8x64,
                              __m512i bits_u8x64, int format) noexcept nogil:
    # Of each byte its own bit of both planes, added; the second counts twice in int2.
    cdef __m512i one_u8x64 = _mm512_set1_epi8(1)
    cdef __m512i second_code_u8x64 = _mm512_min_epu8(
        _mm512_and_si512(second_u8x64, bits_u8x64), one_u8x64)
    if format == FORMAT_INT2:
        second_code_u8x64 = _mm512_add_epi8(second_code_u8x64, second_code_u8x64)
    return _mm512_add_epi8(
        _mm512_min_epu8(_mm512_and_si512(first_u8x64, bits_u8x64), one_u8x64), second_code_u8x64)


cdef inline void plane_dots(const uint8_t *packed, const int8_t *x, const int32_t *starts,
                              Py_ssize_t group_size, __m512i *sums_i32x16,
                              int format, int planes) noexcept nogil:
    # sums[2 p + h] = starts[p] + codes of 16 columns . plane p. 256 * 3 * 128 < 2^17: never
    # overflows.
    cdef Py_ssize_t k8
    cdef int p, h
    cdef int32_t four
    cdef __m512i first_u8x64, second_u8x64
    cdef __m512i low_u8x64[2]
    cdef __m512i high_u8x64[2]
    cdef __m512i x_s8x64
    cdef __m512i low_bits_u8x64 = _mm512_set1_epi32(0x08040201)
    cdef __m512i high_bits_u8x64 = _mm512_set1_epi32(<int>0x80402010)
    cdef __m512i block_i32x16[16]
    for p in range(2 * planes):
        block_i32x16[p] = _mm512_set1_epi32(starts[p >> 1])
    for k8 in range(group_size >> 3):
        _mm_prefetch(packed + k8 * 64 + PREFETCH_TERNARY, _MM_HINT_T1)
        for h in range(2):
            first_u8x64 = spread_16_bytes(packed + k8 * 64 + h * 16)
            second_u8x64 = spread_16_bytes(packed + k8 * 64 + 32 + h * 16)
            low_u8x64[h] = code_bits(first_u8x64, second_u8x64, low_bits_u8x64, format)
            high_u8x64[h] = code_bits(first_u8x64, second_u8x64, high_bits_u8x64, format)
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
