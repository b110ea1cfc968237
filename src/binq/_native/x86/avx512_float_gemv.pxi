# float_gemv.pxi with all 16 entries of a table in one register: a permutation looks up 16 rows of
# weights at once.

cdef inline void interleave_table(float *table) noexcept nogil:
    pass


cdef inline void pair_bits(const uint8_t *packed, uint8_t *pairs) noexcept nogil:
    # 8 k of both planes as nibbles for trit_table: k 0-1 | 4-5, then k 2-3 | 6-7.
    cdef __m256i two_u8x32 = _mm256_set1_epi8(0x33)
    cdef __m256i first_u8x32 = _mm256_loadu_si256(<const __m256i *>packed)
    cdef __m256i second_u8x32 = _mm256_loadu_si256(<const __m256i *>(packed + 32))
    _mm256_storeu_si256(<__m256i *>pairs, _mm256_or_si256(
        _mm256_and_si256(first_u8x32, two_u8x32),
        _mm256_slli_epi16(_mm256_and_si256(second_u8x32, two_u8x32), 2)))
    _mm256_storeu_si256(<__m256i *>(pairs + 32), _mm256_or_si256(
        _mm256_and_si256(_mm256_srli_epi16(first_u8x32, 2), two_u8x32),
        _mm256_andnot_si256(two_u8x32, second_u8x32)))


cdef inline __m512i load_16_bytes(const uint8_t *bytes) noexcept nogil:
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(<const __m128i *>bytes))


cdef inline __m512 low_entry(const float *table, __m512i bytes_u32x16) noexcept nogil:
    return _mm512_permutexvar_ps(bytes_u32x16, _mm512_loadu_ps(table))


cdef inline __m512 high_entry(const float *table, __m512i bytes_u32x16) noexcept nogil:
    return _mm512_permutexvar_ps(_mm512_srli_epi32(bytes_u32x16, 4), _mm512_loadu_ps(table))


cdef inline void float_gemv_group(const uint8_t *packed, Py_ssize_t k8s, const float *tables,
                                  const __m512 *scales_f32x16, const __m512 *offsets_f32x16,
                                  float x_sum, float *y, int planes) noexcept nogil:
    # One kernel group of one row of x and 32 columns, added to y; no midpoints are NULL.
    cdef __m512 sums_f32x16[2]
    cdef __m512i bytes_u32x16, others_u32x16
    cdef uint8_t pairs[64]
    cdef Py_ssize_t k8
    cdef int r
    for r in range(2):
        sums_f32x16[r] = _mm512_setzero_ps()
    for k8 in range(k8s):
        _mm_prefetch(<const char *>packed + FLOAT_GEMV_AHEAD, _MM_HINT_T1)
        if planes == 2:
            pair_bits(packed, pairs)
        for r in range(2):
            if planes == 1:
                bytes_u32x16 = load_16_bytes(packed + r * 16)
                sums_f32x16[r] = _mm512_add_ps(sums_f32x16[r], low_entry(tables, bytes_u32x16))
                sums_f32x16[r] = _mm512_add_ps(
                    sums_f32x16[r], high_entry(tables + 16, bytes_u32x16))
            else:
                bytes_u32x16 = load_16_bytes(pairs + r * 16)
                others_u32x16 = load_16_bytes(pairs + 32 + r * 16)
                sums_f32x16[r] = _mm512_add_ps(sums_f32x16[r], _mm512_add_ps(
                    low_entry(tables, bytes_u32x16), low_entry(tables + 16, others_u32x16)))
                sums_f32x16[r] = _mm512_add_ps(sums_f32x16[r], _mm512_add_ps(
                    high_entry(tables + 32, bytes_u32x16), high_entry(tables + 48, others_u32x16)))
        packed += 32 * planes
        tables += 32 * planes
    for r in range(2):
        sums_f32x16[r] = _mm512_fmadd_ps(
            sums_f32x16[r], scales_f32x16[r], _mm512_loadu_ps(y + r * 16))
        if offsets_f32x16 != NULL:
            sums_f32x16[r] = _mm512_add_ps(
                sums_f32x16[r], _mm512_mul_ps(_mm512_set1_ps(x_sum), offsets_f32x16[r]))
        _mm512_storeu_ps(y + r * 16, sums_f32x16[r])


cdef inline void float_gemv_piece(const Weights *w, const void *prepared, Py_ssize_t rows,
                                     float *out, Py_ssize_t out_stride, void *scratch,
                                     const Piece *piece,
                                     int planes) noexcept nogil:
    cdef Py_ssize_t size = w.group_size * 4 * planes
    cdef const float *tables = <const float *>prepared
    cdef const float *x_sums = tables + w.groups * rows * size
    cdef float *y = <float *>scratch
    cdef __m512 scales_f32x16[2]
    cdef __m512 offsets_f32x16[2]
    cdef bint has_offsets = w.zero == ZERO_OFFSET
    cdef Py_ssize_t first = piece.row_begin
    cdef Py_ssize_t count = piece.row_end - first
    cdef Py_ssize_t tile, group, row, at
    for tile in range(piece.tile_begin, piece.tile_end):
        memset(y, 0, count * 32 * sizeof(float))
        for group in range(w.groups):
            at = scales_at(w, tile, group)
            load_32_scales(<const char *>w.scales + at, w.scale_type, scales_f32x16)
            if has_offsets:
                load_32_scales(<const char *>w.offsets + offsets_at(w, tile, group),
                               w.offset_type, offsets_f32x16)
            for row in range(count):
                at = group * rows + first + row
                float_gemv_group(
                    w.packed + (tile * w.groups + group) * w.group_size * 4 * planes,
                    w.group_size >> 3, tables + at * size, scales_f32x16,
                    offsets_f32x16 if has_offsets else NULL, x_sums[at], y + row * 32, planes)
        store_tile(w, y, count, out + first * out_stride, out_stride, tile)
