# int4 and few planes of x: weights are unpacked in registers and met at once by up to four planes
# (four rows of int8, two of int16), which reads them from memory as fast as they come.

cdef enum:
    INT4_GEMV_PLANES = 16           # at most, measured: then unpacking into L1 once is faster

cdef inline void int4_gemv_dots(const uint8_t *packed, const int8_t *x, Py_ssize_t group_size,
                          __m256i *sums_i32x8, int planes) noexcept nogil:
    # sums[2 p + h] = 8 columns at packed + 32 h . plane p. Four stored rows of 8 k are 8 maddubs
    # deep: 2 * 15 * 128 * 8 = 30720 < 32768.
    cdef Py_ssize_t k8, begin
    cdef int p, h
    cdef int32_t four
    cdef __m256i bytes_u8x32, x_s8x32
    cdef __m256i low_u8x32[2]
    cdef __m256i high_u8x32[2]
    cdef __m256i mask_u8x32 = _mm256_set1_epi8(15)
    cdef __m256i ones_i16x16 = _mm256_set1_epi16(1)
    cdef __m256i part_i16x16[8]
    for p in range(2 * planes):
        sums_i32x8[p] = _mm256_setzero_si256()
    for begin in range(0, group_size >> 3, 4):
        for p in range(2 * planes):
            part_i16x16[p] = _mm256_setzero_si256()
        for k8 in range(begin, begin + 4):
            for h in range(2):
                bytes_u8x32 = _mm256_loadu_si256(<const __m256i *>(packed + k8 * 128 + h * 32))
                low_u8x32[h] = _mm256_and_si256(bytes_u8x32, mask_u8x32)
                high_u8x32[h] = _mm256_and_si256(_mm256_srli_epi16(bytes_u8x32, 4), mask_u8x32)
            for p in range(planes):
                memcpy(&four, x + p * group_size + k8 * 8, 4)
                x_s8x32 = _mm256_set1_epi32(four)
                for h in range(2):
                    part_i16x16[2 * p + h] = _mm256_add_epi16(
                        part_i16x16[2 * p + h], _mm256_maddubs_epi16(low_u8x32[h], x_s8x32))
                memcpy(&four, x + p * group_size + k8 * 8 + 4, 4)
                x_s8x32 = _mm256_set1_epi32(four)
                for h in range(2):
                    part_i16x16[2 * p + h] = _mm256_add_epi16(
                        part_i16x16[2 * p + h], _mm256_maddubs_epi16(high_u8x32[h], x_s8x32))
        for p in range(2 * planes):
            sums_i32x8[p] = _mm256_add_epi32(
                sums_i32x8[p], _mm256_madd_epi16(part_i16x16[p], ones_i16x16))


cdef inline void few_rows(const Weights *w, Py_ssize_t tile, Py_ssize_t group, const int8_t *x,
                          const TileScales *t, const float *x_scales, const int32_t *x_sums,
                          float *y, int planes, int rows) noexcept nogil:
    cdef __m256i sums_i32x8[8]
    cdef __m256i sum_i32x8
    cdef const uint8_t *packed = w.packed + (tile * w.groups + group) * (w.group_size >> 3) * 128
    cdef int half, n, h
    for half in range(2):
        int4_gemv_dots(packed + half * 64, x, w.group_size, sums_i32x8, planes * rows)
        for n in range(rows):
            for h in range(2):
                sum_i32x8 = sums_i32x8[2 * n * planes + h]
                if planes == 2:
                    sum_i32x8 = _mm256_add_epi32(
                        _mm256_slli_epi32(sum_i32x8, 8), sums_i32x8[4 * n + 2 + h])
                add_columns(t, half * 2 + h, sum_i32x8, x_scales[n], x_sums[n],
                            y + n * 32 + half * 16 + h * 8)


cdef inline int few_block(const Weights *w, Py_ssize_t tile, Py_ssize_t group, const int8_t *x,
                          const TileScales *t, const float *x_scales, const int32_t *x_sums,
                          float *y, int planes, Py_ssize_t rows) noexcept nogil:
    # Takes as many rows as make a block and returns how many those were. Each shape is written out,
    # so that it compiles to a loop of its own.
    if planes == 2:
        if rows >= 2:
            few_rows(w, tile, group, x, t, x_scales, x_sums, y, 2, 2)
            return 2
        few_rows(w, tile, group, x, t, x_scales, x_sums, y, 2, 1)
        return 1
    if rows >= 4:
        few_rows(w, tile, group, x, t, x_scales, x_sums, y, 1, 4)
        return 4
    if rows == 3:
        few_rows(w, tile, group, x, t, x_scales, x_sums, y, 1, 3)
        return 3
    if rows == 2:
        few_rows(w, tile, group, x, t, x_scales, x_sums, y, 1, 2)
        return 2
    few_rows(w, tile, group, x, t, x_scales, x_sums, y, 1, 1)
    return 1


cdef inline void int4_gemv_group(const Weights *w, Py_ssize_t tile, Py_ssize_t group,
                                 const int8_t *x,
                           const TileScales *t, const float *x_scales, const int32_t *x_sums,
                           float *y, int planes, Py_ssize_t rows) noexcept nogil:
    cdef Py_ssize_t row = 0
    while row < rows:
        row += few_block(w, tile, group, x + row * w.group_size * planes, t, x_scales + row,
                         x_sums + row, y + row * 32, planes, rows - row)
