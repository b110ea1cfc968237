# int4 and at most four planes of x (four rows of int8, two of int16): weights are unpacked in
# registers and met at once, which reads them from memory as fast as they come.

cdef inline void few_dots(const uint8_t *packed, const int8_t *x, Py_ssize_t group_size,
                          __m512i *sums_i32x16, int planes) noexcept nogil:
    # sums[2 p + h] as block_dots. Low and high nibbles have accumulators of their own, so that a
    # chain of products waits for itself only once in 8 k.
    cdef Py_ssize_t k8
    cdef int p, h
    cdef int32_t four
    cdef __m512i bytes_u8x64, low_u8x64[2], high_u8x64[2], x_s8x64
    cdef __m512i mask_u8x64 = _mm512_set1_epi8(15)
    cdef __m512i low_i32x16[8]
    cdef __m512i high_i32x16[8]
    for p in range(2 * planes):
        low_i32x16[p] = _mm512_setzero_si512()
        high_i32x16[p] = _mm512_setzero_si512()
    for k8 in range(group_size >> 3):
        for h in range(2):
            bytes_u8x64 = _mm512_loadu_si512(packed + k8 * 128 + h * 64)
            low_u8x64[h] = _mm512_and_si512(bytes_u8x64, mask_u8x64)
            high_u8x64[h] = _mm512_and_si512(_mm512_srli_epi16(bytes_u8x64, 4), mask_u8x64)
        for p in range(planes):
            memcpy(&four, x + p * group_size + k8 * 8, 4)
            x_s8x64 = _mm512_set1_epi32(four)
            for h in range(2):
                low_i32x16[2 * p + h] = _mm512_dpbusd_epi32(
                    low_i32x16[2 * p + h], low_u8x64[h], x_s8x64)
            memcpy(&four, x + p * group_size + k8 * 8 + 4, 4)
            x_s8x64 = _mm512_set1_epi32(four)
            for h in range(2):
                high_i32x16[2 * p + h] = _mm512_dpbusd_epi32(
                    high_i32x16[2 * p + h], high_u8x64[h], x_s8x64)
    for p in range(2 * planes):
        sums_i32x16[p] = _mm512_add_epi32(low_i32x16[p], high_i32x16[p])


cdef inline void few_rows(const Weights *w, Py_ssize_t tile, Py_ssize_t group, const int8_t *x,
                          const WideScales *t, const float *x_scales, const int32_t *x_sums,
                          float *y, int planes, int rows) noexcept nogil:
    cdef __m512i sums_i32x16[8]
    cdef int n
    few_dots(w.packed + (tile * w.groups + group) * (w.group_size >> 3) * 128, x, w.group_size,
             sums_i32x16, planes * rows)
    for n in range(rows):
        add_row(t, sums_i32x16 + 2 * n * planes, planes, x_scales[n], x_sums[n], y + n * 32)


cdef inline void few_group(const Weights *w, Py_ssize_t tile, Py_ssize_t group, const int8_t *x,
                           const WideScales *t, const float *x_scales, const int32_t *x_sums,
                           float *y, int planes, int rows) noexcept nogil:
    # Each shape is written out, so that it compiles to a loop of its own.
    if planes == 2 and rows == 1:
        few_rows(w, tile, group, x, t, x_scales, x_sums, y, 2, 1)
    elif planes == 2:
        few_rows(w, tile, group, x, t, x_scales, x_sums, y, 2, 2)
    elif rows == 1:
        few_rows(w, tile, group, x, t, x_scales, x_sums, y, 1, 1)
    elif rows == 2:
        few_rows(w, tile, group, x, t, x_scales, x_sums, y, 1, 2)
    elif rows == 3:
        few_rows(w, tile, group, x, t, x_scales, x_sums, y, 1, 3)
    else:
        few_rows(w, tile, group, x, t, x_scales, x_sums, y, 1, 4)
