# float_gemv.pxi with tables of bytes: four byte shuffles look up the four bytes of a float for 32
# rows of weights at once, and three steps of interleaving put them together. A permutation of
# floats looks up 8 entries for 8 rows, so that 16 entries took two of them, a blend and two shifts.
#
#   nibbles of 32 rows  ──4 vpshufb──>  byte 0 | byte 1 | byte 2 | byte 3, 32 rows each
#                       ──4 vpunpck──>  bytes 0 1 | bytes 2 3, 16 rows each
#                       ──4 vpunpck──>  float32, 8 rows each: 0-3, 16-19 | 4-7, 20-23 | ...

cdef inline void interleave_table(float *table) noexcept nogil:
    # 16 floats to 4 x 16 bytes.
    cdef __m128i order_u8x16 = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15)
    cdef __m128i *quads = <__m128i *>table
    cdef __m128i a = _mm_shuffle_epi8(_mm_loadu_si128(quads), order_u8x16)
    cdef __m128i b = _mm_shuffle_epi8(_mm_loadu_si128(quads + 1), order_u8x16)
    cdef __m128i c = _mm_shuffle_epi8(_mm_loadu_si128(quads + 2), order_u8x16)
    cdef __m128i d = _mm_shuffle_epi8(_mm_loadu_si128(quads + 3), order_u8x16)
    cdef __m128i first = _mm_unpacklo_epi32(a, b)
    cdef __m128i second = _mm_unpacklo_epi32(c, d)
    _mm_storeu_si128(quads, _mm_unpacklo_epi64(first, second))
    _mm_storeu_si128(quads + 1, _mm_unpackhi_epi64(first, second))
    first = _mm_unpackhi_epi32(a, b)
    second = _mm_unpackhi_epi32(c, d)
    _mm_storeu_si128(quads + 2, _mm_unpacklo_epi64(first, second))
    _mm_storeu_si128(quads + 3, _mm_unpackhi_epi64(first, second))


cdef struct Entries:
    # Floats of 32 rows of weights: 0-3, 16-19 | 4-7, 20-23 | 8-11, 24-27 | 12-15, 28-31. Named one
    # by one: GCC keeps an array in memory.
    __m256 a
    __m256 b
    __m256 c
    __m256 d


cdef inline __m256i byte_of(const float *table, int byte, __m256i nibbles_u8x32) noexcept nogil:
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(
        _mm_loadu_si128(<const __m128i *>table + byte)), nibbles_u8x32)


cdef inline void look_up_floats(const float *table, __m256i nibbles_u8x32,
                                Entries *entries) noexcept nogil:
    cdef __m256i first_u8x32 = byte_of(table, 0, nibbles_u8x32)
    cdef __m256i second_u8x32 = byte_of(table, 1, nibbles_u8x32)
    cdef __m256i third_u8x32 = byte_of(table, 2, nibbles_u8x32)
    cdef __m256i fourth_u8x32 = byte_of(table, 3, nibbles_u8x32)
    cdef __m256i low_u16x16 = _mm256_unpacklo_epi8(first_u8x32, second_u8x32)
    cdef __m256i high_u16x16 = _mm256_unpacklo_epi8(third_u8x32, fourth_u8x32)
    entries.a = _mm256_castsi256_ps(_mm256_unpacklo_epi16(low_u16x16, high_u16x16))
    entries.b = _mm256_castsi256_ps(_mm256_unpackhi_epi16(low_u16x16, high_u16x16))
    low_u16x16 = _mm256_unpackhi_epi8(first_u8x32, second_u8x32)
    high_u16x16 = _mm256_unpackhi_epi8(third_u8x32, fourth_u8x32)
    entries.c = _mm256_castsi256_ps(_mm256_unpacklo_epi16(low_u16x16, high_u16x16))
    entries.d = _mm256_castsi256_ps(_mm256_unpackhi_epi16(low_u16x16, high_u16x16))


cdef inline void add_entries(Entries *sums, const Entries *entries) noexcept nogil:
    sums.a = _mm256_add_ps(sums.a, entries.a)
    sums.b = _mm256_add_ps(sums.b, entries.b)
    sums.c = _mm256_add_ps(sums.c, entries.c)
    sums.d = _mm256_add_ps(sums.d, entries.d)


cdef inline void add_four(const float *tables, __m256i nibbles_u8x32, Entries *sums) noexcept nogil:
    # Binary: four k.
    cdef Entries entries
    look_up_floats(tables, nibbles_u8x32, &entries)
    add_entries(sums, &entries)


cdef inline void add_two_pairs(const float *tables, __m256i first_u8x32, __m256i second_u8x32,
                               Entries *sums) noexcept nogil:
    # Ternary: two k and the next two, added to each other first.
    cdef Entries entries, others
    look_up_floats(tables, first_u8x32, &entries)
    look_up_floats(tables + 16, second_u8x32, &others)
    add_entries(&entries, &others)
    add_entries(sums, &entries)


cdef inline void finish_floats(__m256 sums_f32x8, const TileScales *t, int r, float x_sum,
                               float *y) noexcept nogil:
    cdef __m256 y_f32x8 = _mm256_fmadd_ps(
        sums_f32x8, t.scales_f32x8[r], _mm256_loadu_ps(y + r * 8))
    if t.has_offsets:
        y_f32x8 = _mm256_add_ps(
            y_f32x8, _mm256_mul_ps(_mm256_set1_ps(x_sum), t.offsets_f32x8[r]))
    _mm256_storeu_ps(y + r * 8, y_f32x8)


cdef inline void float_gemv_group(const uint8_t *packed, Py_ssize_t k8s, const float *tables,
                                  const TileScales *t, float x_sum, float *y,
                                  int planes) noexcept nogil:
    # One kernel group of one row of x and 32 columns, added to y.
    cdef Entries sums
    cdef __m256i first_u8x32, second_u8x32, pairs_u8x32, others_u8x32
    cdef __m256i mask_u8x32 = _mm256_set1_epi8(15)
    cdef __m256i two_u8x32 = _mm256_set1_epi8(0x33)
    cdef Py_ssize_t k8
    sums.a = _mm256_setzero_ps()
    sums.b = _mm256_setzero_ps()
    sums.c = _mm256_setzero_ps()
    sums.d = _mm256_setzero_ps()
    for k8 in range(k8s):
        _mm_prefetch(<const char *>packed + FLOAT_GEMV_AHEAD, _MM_HINT_T1)
        first_u8x32 = _mm256_loadu_si256(<const __m256i *>packed)
        if planes == 1:
            add_four(tables, _mm256_and_si256(first_u8x32, mask_u8x32), &sums)
            add_four(tables + 16, _mm256_and_si256(
                _mm256_srli_epi16(first_u8x32, 4), mask_u8x32), &sums)
        else:
            # 8 k of both planes as nibbles for trit_table: k 0-1 | 4-5, then k 2-3 | 6-7.
            second_u8x32 = _mm256_loadu_si256(<const __m256i *>(packed + 32))
            pairs_u8x32 = _mm256_or_si256(
                _mm256_and_si256(first_u8x32, two_u8x32),
                _mm256_slli_epi16(_mm256_and_si256(second_u8x32, two_u8x32), 2))
            others_u8x32 = _mm256_or_si256(
                _mm256_and_si256(_mm256_srli_epi16(first_u8x32, 2), two_u8x32),
                _mm256_andnot_si256(two_u8x32, second_u8x32))
            add_two_pairs(tables, _mm256_and_si256(pairs_u8x32, mask_u8x32),
                          _mm256_and_si256(others_u8x32, mask_u8x32), &sums)
            add_two_pairs(tables + 32, _mm256_and_si256(
                _mm256_srli_epi16(pairs_u8x32, 4), mask_u8x32), _mm256_and_si256(
                _mm256_srli_epi16(others_u8x32, 4), mask_u8x32), &sums)
        packed += 32 * planes
        tables += 32 * planes
    finish_floats(_mm256_permute2f128_ps(sums.a, sums.b, 0x20), t, 0, x_sum, y)
    finish_floats(_mm256_permute2f128_ps(sums.c, sums.d, 0x20), t, 1, x_sum, y)
    finish_floats(_mm256_permute2f128_ps(sums.a, sums.b, 0x31), t, 2, x_sum, y)
    finish_floats(_mm256_permute2f128_ps(sums.c, sums.d, 0x31), t, 3, x_sum, y)


cdef inline void float_gemv_piece(const Weights *w, const void *prepared, Py_ssize_t rows,
                                     float *out, Py_ssize_t out_stride, void *scratch,
                                     const Piece *piece,
                                     int planes) noexcept nogil:
    cdef Py_ssize_t size = w.group_size * 4 * planes
    cdef const float *tables = <const float *>prepared
    cdef const float *x_sums = tables + w.groups * rows * size
    cdef float *y = <float *>scratch
    cdef int32_t zero = common_zero(w)
    cdef TileScales t
    cdef Py_ssize_t first = piece.row_begin
    cdef Py_ssize_t count = piece.row_end - first
    cdef Py_ssize_t tile, group, row, at
    for tile in range(piece.tile_begin, piece.tile_end):
        memset(y, 0, count * 32 * sizeof(float))
        for group in range(w.groups):
            load_tile_scales(w, zero, tile, group, &t)
            for row in range(count):
                at = group * rows + first + row
                float_gemv_group(
                    w.packed + (tile * w.groups + group) * w.group_size * 4 * planes,
                    w.group_size >> 3, tables + at * size, &t, x_sums[at], y + row * 32, planes)
        store_tile(w, y, count, out + first * out_stride, out_stride, tile)
