# From what was looked up to y: the sums of a kernel group, times the scales.

cdef enum:
    FLUSH_BLOCKS = 8              # blocks after which int16 activations are widened to int32


cdef inline __m256i centred_i16(__m256i sum_i16x16, int32_t absolute, int planes) noexcept nogil:
    # Exact modulo 2^16, and the result is at most 256 * 127 = 32512 in size, so that it fits
    # whatever the looked up sums wrapped around on the way.
    if planes == 1:
        sum_i16x16 = _mm256_add_epi16(sum_i16x16, sum_i16x16)
    return _mm256_sub_epi16(sum_i16x16, _mm256_set1_epi16(<int16_t>absolute))


cdef inline void add_int8(Looker *looker, const TileScales *t, float x_scale, int32_t absolute,
                          int32_t x_sum, float *y, int planes) noexcept nogil:
    cdef __m256i first_i16x16 = centred_i16(looker.sums_i16x16[0], absolute, planes)
    cdef __m256i second_i16x16 = centred_i16(looker.sums_i16x16[1], absolute, planes)
    add_sums(t, 0, _mm256_cvtepi16_epi32(_mm256_castsi256_si128(first_i16x16)),
             x_scale, x_sum, y)
    add_sums(t, 1, _mm256_cvtepi16_epi32(_mm256_castsi256_si128(second_i16x16)),
             x_scale, x_sum, y + 8)
    add_sums(t, 2, _mm256_cvtepi16_epi32(_mm256_extracti128_si256(first_i16x16, 1)),
             x_scale, x_sum, y + 16)
    add_sums(t, 3, _mm256_cvtepi16_epi32(_mm256_extracti128_si256(second_i16x16, 1)),
             x_scale, x_sum, y + 24)


cdef inline void start_sums(Looker *looker, int digits) noexcept nogil:
    # int16 activations count from -32768: 8 blocks of at most 248 + 32 * 248 = 8184 then end at
    # 32704 or below, which vpmaddwd reads rightly.
    cdef __m256i start_i16x16 = _mm256_set1_epi16(<int16_t>(-32768 if digits == 3 else 0))
    looker.sums_i16x16[0] = start_i16x16
    looker.sums_i16x16[1] = start_i16x16
    looker.tops_i16x16[0] = _mm256_setzero_si256()
    looker.tops_i16x16[1] = _mm256_setzero_si256()


cdef inline void start_totals(__m256i *totals_i32x8) noexcept nogil:
    totals_i32x8[0] = _mm256_setzero_si256()
    totals_i32x8[1] = _mm256_setzero_si256()
    totals_i32x8[2] = _mm256_setzero_si256()
    totals_i32x8[3] = _mm256_setzero_si256()


cdef inline void flush_sums(Looker *looker, __m256i *totals_i32x8) noexcept nogil:
    # totals: rows 0-3, 16-19 | 4-7, 20-23 | 8-11, 24-27 | 12-15, 28-31. A digit 2 sum is at most
    # 8 * 248, times 1024 below 2^21.
    flush_half(looker.sums_i16x16[0], looker.tops_i16x16[0], totals_i32x8)
    flush_half(looker.sums_i16x16[1], looker.tops_i16x16[1], totals_i32x8 + 2)


cdef inline void flush_half(__m256i sums_i16x16, __m256i tops_i16x16,
                            __m256i *totals_i32x8) noexcept nogil:
    cdef __m256i weights_i16x16 = _mm256_set1_epi32(0x04000001)
    totals_i32x8[0] = _mm256_add_epi32(totals_i32x8[0], _mm256_madd_epi16(
        _mm256_unpacklo_epi16(sums_i16x16, tops_i16x16), weights_i16x16))
    totals_i32x8[1] = _mm256_add_epi32(totals_i32x8[1], _mm256_madd_epi16(
        _mm256_unpackhi_epi16(sums_i16x16, tops_i16x16), weights_i16x16))


cdef inline __m256i centred_i32(__m256i sum_i32x8, __m256i offset_i32x8,
                                int planes) noexcept nogil:
    if planes == 1:
        sum_i32x8 = _mm256_add_epi32(sum_i32x8, sum_i32x8)
    return _mm256_sub_epi32(sum_i32x8, offset_i32x8)


cdef inline void add_int16(const __m256i *totals_i32x8, int32_t flushes, const TileScales *t,
                           float x_scale, int32_t absolute, int32_t x_sum, float *y,
                           int planes) noexcept nogil:
    # Every flush has counted from -32768.
    cdef __m256i offset_i32x8 = _mm256_set1_epi32(
        absolute - flushes * (65536 if planes == 1 else 32768))
    add_sums(t, 0, centred_i32(_mm256_permute2x128_si256(
        totals_i32x8[0], totals_i32x8[1], 0x20), offset_i32x8, planes), x_scale, x_sum, y)
    add_sums(t, 1, centred_i32(_mm256_permute2x128_si256(
        totals_i32x8[2], totals_i32x8[3], 0x20), offset_i32x8, planes), x_scale, x_sum, y + 8)
    add_sums(t, 2, centred_i32(_mm256_permute2x128_si256(
        totals_i32x8[0], totals_i32x8[1], 0x31), offset_i32x8, planes), x_scale, x_sum, y + 16)
    add_sums(t, 3, centred_i32(_mm256_permute2x128_si256(
        totals_i32x8[2], totals_i32x8[3], 0x31), offset_i32x8, planes), x_scale, x_sum, y + 24)


cdef inline void lut_gemv_int8(const uint8_t *packed, Py_ssize_t tile_stride,
                             Py_ssize_t blocks, const uint8_t *tables, Py_ssize_t row_bytes,
                             const TileScales *t, const float *x_scales,
                             const int32_t *absolutes, const int32_t *x_sums, float *y,
                             Py_ssize_t y_stride, int planes, int rows, int tiles) noexcept nogil:
    cdef Looker a, b, c, d
    start_sums(&a, 2)
    start_sums(&b, 2)
    start_sums(&c, 2)
    start_sums(&d, 2)
    look_up_blocks(packed, tile_stride, 0, blocks, tables, row_bytes, &a, &b, &c, &d, planes,
                   2, rows, tiles)
    add_int8(&a, t, x_scales[0], absolutes[0], x_sums[0], y, planes)
    if tiles == 2:
        add_int8(&b, t + 1, x_scales[0], absolutes[0], x_sums[0], y + y_stride, planes)
    if rows == 2:
        add_int8(&c, t, x_scales[1], absolutes[1], x_sums[1], y + 32, planes)
        if tiles == 2:
            add_int8(&d, t + 1, x_scales[1], absolutes[1], x_sums[1], y + y_stride + 32, planes)


cdef inline void lut_gemv_int16(const uint8_t *packed, Py_ssize_t tile_stride,
                              Py_ssize_t blocks, const uint8_t *tables, const TileScales *t,
                              float x_scale, int32_t absolute, int32_t x_sum, float *y,
                              Py_ssize_t y_stride, int planes, int tiles) noexcept nogil:
    cdef Looker a, b
    cdef __m256i a_totals_i32x8[4]
    cdef __m256i b_totals_i32x8[4]
    cdef int32_t flushes = 1
    cdef Py_ssize_t done = 0
    start_totals(a_totals_i32x8)
    start_totals(b_totals_i32x8)
    start_sums(&a, 3)
    start_sums(&b, 3)
    if planes == 2 and blocks > FLUSH_BLOCKS:
        # Only ternary groups of 256 have 16 blocks; all others fit one flush.
        look_up_blocks(packed, tile_stride, 0, FLUSH_BLOCKS, tables, 0, &a, &b, NULL, NULL,
                       planes, 3, 1, tiles)
        flush_sums(&a, a_totals_i32x8)
        start_sums(&a, 3)
        if tiles == 2:
            flush_sums(&b, b_totals_i32x8)
            start_sums(&b, 3)
        done = FLUSH_BLOCKS
        flushes = 2
    look_up_blocks(packed, tile_stride, done, blocks, tables, 0, &a, &b, NULL, NULL, planes,
                   3, 1, tiles)
    flush_sums(&a, a_totals_i32x8)
    add_int16(a_totals_i32x8, flushes, t, x_scale, absolute, x_sum, y, planes)
    if tiles == 2:
        flush_sums(&b, b_totals_i32x8)
        add_int16(b_totals_i32x8, flushes, t + 1, x_scale, absolute, x_sum, y + y_stride, planes)
