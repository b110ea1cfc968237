# Codes of 8 bits on VNNI: they are stored as vpdpbusd takes them, [k / 4][32 rows][4 k], and are
# multiplied by up to 8 planes of x (8 rows of int8, 4 of int16), in 2 accumulators of 16 columns
# for each.

cdef inline void byte_dots(const uint8_t *packed, const int8_t *x, Py_ssize_t group_size,
                           const int32_t *starts, __m512i *sums_i32x16,
                           int planes) noexcept nogil:
    # sums[2 p + h] = starts[p] + codes of 16 columns . plane p. 256 * 255 * 128 < 2^23: never
    # overflows; two planes put together, 256 * 255 * 32639, are below 2^31. With few planes every
    # other quad of k has sums of its own, so that no product waits for the last, and what the
    # processor prefetches by itself is enough.
    cdef Py_ssize_t k8
    cdef int p, h
    cdef int32_t four
    cdef __m512i first_u8x64[2]
    cdef __m512i second_u8x64[2]
    cdef __m512i x_s8x64
    cdef __m512i first_i32x16[16]
    cdef __m512i second_i32x16[8]
    for p in range(2 * planes):
        first_i32x16[p] = _mm512_set1_epi32(starts[p >> 1])
        if planes <= 4:
            second_i32x16[p] = _mm512_setzero_si512()
    for k8 in range(group_size >> 3):
        if planes > 4:
            for h in range(4):
                _mm_prefetch(<const char *>packed + k8 * 256 + h * 64 + FAR_AHEAD, _MM_HINT_T1)
        for h in range(2):
            first_u8x64[h] = _mm512_loadu_si512(packed + k8 * 256 + h * 64)
            second_u8x64[h] = _mm512_loadu_si512(packed + k8 * 256 + 128 + h * 64)
        for p in range(planes):
            memcpy(&four, x + p * group_size + k8 * 8, 4)
            x_s8x64 = _mm512_set1_epi32(four)
            for h in range(2):
                first_i32x16[2 * p + h] = _mm512_dpbusd_epi32(
                    first_i32x16[2 * p + h], first_u8x64[h], x_s8x64)
        for p in range(planes):
            memcpy(&four, x + p * group_size + k8 * 8 + 4, 4)
            x_s8x64 = _mm512_set1_epi32(four)
            for h in range(2):
                if planes <= 4:
                    second_i32x16[2 * p + h] = _mm512_dpbusd_epi32(
                        second_i32x16[2 * p + h], second_u8x64[h], x_s8x64)
                else:
                    first_i32x16[2 * p + h] = _mm512_dpbusd_epi32(
                        first_i32x16[2 * p + h], second_u8x64[h], x_s8x64)
    for p in range(2 * planes):
        sums_i32x16[p] = first_i32x16[p]
        if planes <= 4:
            sums_i32x16[p] = _mm512_add_epi32(first_i32x16[p], second_i32x16[p])
