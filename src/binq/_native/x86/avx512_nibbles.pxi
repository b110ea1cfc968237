# Nibbles on VNNI: weights are unpacked in registers, 3 operations for a vector of 128 and one
# more for each half where levels are looked up, and multiplied at once by up to 8 planes of x (8
# rows of int8, 4 of int16), in 2 accumulators of 16 columns for each.

cdef enum:
    FAR_AHEAD = 4096              # bytes of weights prefetched into L2


cdef inline void nibble_dots(const Weights *w, const uint8_t *packed, const int8_t *x,
                             const int32_t *starts, __m512i *sums_i32x16, int layout,
                             int planes) noexcept nogil:
    # sums[2 p + h] = starts[p] + codes of 16 columns . plane p. 256 * 255 * 128 < 2^23: never
    # overflows. With few planes low and high nibbles have sums of their own, so that no product
    # waits for the last, and what the processor prefetches by itself is enough.
    cdef Py_ssize_t k8
    cdef Py_ssize_t group_size = w.group_size
    cdef int p, h
    cdef int32_t four
    cdef __m512i bytes_u8x64
    cdef __m512i low_u8x64[2]
    cdef __m512i high_u8x64[2]
    cdef __m512i x_s8x64
    cdef __m512i mask_u8x64 = _mm512_set1_epi8(15)
    cdef __m512i levels_u8x64 = _mm512_xor_si512(
        _mm512_broadcast_i32x4(_mm_loadu_si128(<const __m128i *>SPECS[w.format].levels)),
        _mm512_set1_epi8(<char>LEVEL_BIAS))
    cdef __m512i low_i32x16[16]
    cdef __m512i high_i32x16[8]
    for p in range(2 * planes):
        low_i32x16[p] = _mm512_set1_epi32(starts[p >> 1])
        if planes <= 4:
            high_i32x16[p] = _mm512_setzero_si512()
    for k8 in range(group_size >> 3):
        if planes >= 4:
            for h in range(2):
                _mm_prefetch(<const char *>packed + k8 * 128 + h * 64 + FAR_AHEAD, _MM_HINT_T1)
        for h in range(2):
            bytes_u8x64 = _mm512_loadu_si512(packed + k8 * 128 + h * 64)
            low_u8x64[h] = _mm512_and_si512(bytes_u8x64, mask_u8x64)
            high_u8x64[h] = _mm512_and_si512(_mm512_srli_epi16(bytes_u8x64, 4), mask_u8x64)
            if layout == LEVELS:
                low_u8x64[h] = _mm512_shuffle_epi8(levels_u8x64, low_u8x64[h])
                high_u8x64[h] = _mm512_shuffle_epi8(levels_u8x64, high_u8x64[h])
        for p in range(planes):
            memcpy(&four, x + p * group_size + k8 * 8, 4)
            x_s8x64 = _mm512_set1_epi32(four)
            for h in range(2):
                low_i32x16[2 * p + h] = _mm512_dpbusd_epi32(
                    low_i32x16[2 * p + h], low_u8x64[h], x_s8x64)
        for p in range(planes):
            memcpy(&four, x + p * group_size + k8 * 8 + 4, 4)
            x_s8x64 = _mm512_set1_epi32(four)
            for h in range(2):
                if planes <= 4:
                    high_i32x16[2 * p + h] = _mm512_dpbusd_epi32(
                        high_i32x16[2 * p + h], high_u8x64[h], x_s8x64)
                else:
                    low_i32x16[2 * p + h] = _mm512_dpbusd_epi32(
                        low_i32x16[2 * p + h], high_u8x64[h], x_s8x64)
    for p in range(2 * planes):
        sums_i32x16[p] = low_i32x16[p]
        if planes <= 4:
            sums_i32x16[p] = _mm512_add_epi32(low_i32x16[p], high_i32x16[p])
