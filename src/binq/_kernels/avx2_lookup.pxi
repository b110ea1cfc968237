# Binary and ternary products of a few rows of x, by table: four bits of a row of weights choose
# one of the 16 sums +-x0 +-x1 +-x2 +-x3, and a byte shuffle looks up the same four k for 32 rows at
# once. Ternary is two planes of bits into the same tables: t = (A + B) / 2.
#
#   weights    [k/8][32 rows]          one byte a row: two nibbles, two look-ups
#   tables     [k/4][2][16] uint8      the low and the high part of each biased sum
#
# int8: |sum| <= 508; sum + 512 splits into 5 + 5 bits, so that 8 look-ups add up in a byte
# (8 * 31 = 248) before they are widened. int16: |sum| <= 4 * 8191 < 2^15; sum + 2^15 splits into
# 8 + 8 bits, widened at once. Either way low + 32 * high (or 256 * high) less the bias is exact.
#
# Bytes widen in place: even += word, odd += word >> 8, and in the end even -= odd << 8.
# A prepared buffer holds scales float32 [group][row], sums int32 [group][row], tables
# [group][row][group_size / 4][32].

cdef enum:
    LOOKUP_ROWS = 16          # the most rows of x that any caller may ask for
    PREFETCH = 6144           # bytes ahead, into L2: the tables keep L1 and its misses busy


cdef inline Py_ssize_t lookup_prepared_bytes(const Weights *w, Py_ssize_t rows) noexcept nogil:
    return w.groups * rows * (8 + w.group_size * 8)


cdef inline void build_tables(const int16_t *codes, Py_ssize_t group_size, bint wide,
                              uint8_t *tables) noexcept nogil:
    # Entry i of four k adds x[b] where bit b of i is set and subtracts it where it is not.
    cdef Py_ssize_t k
    cdef __m256i sum_i16x16, low_i16x16, high_i16x16
    cdef __m256i sign0_i16x16 = _mm256_set1_epi32(0x0001FFFF)
    cdef __m256i sign1_i16x16 = _mm256_set1_epi64x(0x00010001FFFFFFFF)
    cdef __m256i sign2_i16x16 = _mm256_setr_epi64x(-1, 0x0001000100010001, -1, 0x0001000100010001)
    cdef __m256i sign3_i16x16 = _mm256_setr_epi64x(-1, -1, 0x0001000100010001, 0x0001000100010001)
    for k in range(0, group_size, 4):
        sum_i16x16 = _mm256_add_epi16(
            _mm256_add_epi16(
                _mm256_sign_epi16(_mm256_set1_epi16(codes[k]), sign0_i16x16),
                _mm256_sign_epi16(_mm256_set1_epi16(codes[k + 1]), sign1_i16x16)),
            _mm256_add_epi16(
                _mm256_sign_epi16(_mm256_set1_epi16(codes[k + 2]), sign2_i16x16),
                _mm256_sign_epi16(_mm256_set1_epi16(codes[k + 3]), sign3_i16x16)))
        if wide:
            sum_i16x16 = _mm256_xor_si256(sum_i16x16, _mm256_set1_epi16(<int16_t>-32768))
            low_i16x16 = _mm256_and_si256(sum_i16x16, _mm256_set1_epi16(255))
            high_i16x16 = _mm256_srli_epi16(sum_i16x16, 8)
        else:
            sum_i16x16 = _mm256_add_epi16(sum_i16x16, _mm256_set1_epi16(512))
            low_i16x16 = _mm256_and_si256(sum_i16x16, _mm256_set1_epi16(31))
            high_i16x16 = _mm256_srli_epi16(sum_i16x16, 5)
        _mm256_storeu_si256(<__m256i *>(tables + k * 8), _mm256_permute4x64_epi64(
            _mm256_packus_epi16(low_i16x16, high_i16x16), 0xD8))


cdef inline void lookup_prepare(const Weights *w, const float *x, Py_ssize_t x_stride,
                                Py_ssize_t rows, void *prepared, uint8_t *unfit,
                                Py_ssize_t row_begin, Py_ssize_t row_end,
                                bint wide, float levels) noexcept nogil:
    cdef float *scales = <float *>prepared
    cdef int32_t *sums = <int32_t *>(scales + w.groups * rows)
    cdef uint8_t *tables = <uint8_t *>(sums + w.groups * rows)
    cdef float padded[256]
    cdef int16_t codes[256]
    cdef const float *values
    cdef float inverse
    cdef Py_ssize_t row, group, at, count, k
    cdef __m256i totals_i32x8
    cdef bint fits
    for row in range(row_begin, row_end):
        fits = True
        for group in range(w.groups):
            at = group * rows + row
            count = min(w.group_size, w.in_features - group * w.group_size)
            values = x + row * x_stride + group * w.group_size
            if count < w.group_size:
                memset(padded, 0, sizeof(padded))
                memcpy(padded, values, count * sizeof(float))
                values = padded
            fits &= group_scale(values, w.group_size, levels, scales + at, &inverse)
            if not fits:
                break
            totals_i32x8 = _mm256_setzero_si256()
            for k in range(0, w.group_size, 16):
                _mm256_storeu_si256(<__m256i *>(codes + k), codes_of_16(
                    values + k, _mm256_set1_ps(inverse), &totals_i32x8))
            sums[at] = sum_i32x8(totals_i32x8)
            build_tables(codes, w.group_size, wide, tables + at * w.group_size * 8)
        unfit[row] = not fits
        if not fits:
            # Any finite sums serve: the row is computed elsewhere.
            for group in range(w.groups):
                at = group * rows + row
                scales[at] = 0.0
                sums[at] = 0
                memset(tables + at * w.group_size * 8, 0, w.group_size * 8)


cdef struct ByteSums:
    # Sums of the 32 bytes of a vector: the even and the odd ones, as words.
    __m256i even_u16x16
    __m256i odd_u16x16


cdef inline void add_bytes(ByteSums *s, __m256i bytes_u8x32) noexcept nogil:
    s.even_u16x16 = _mm256_add_epi16(s.even_u16x16, bytes_u8x32)
    s.odd_u16x16 = _mm256_add_epi16(s.odd_u16x16, _mm256_srli_epi16(bytes_u8x32, 8))


cdef inline __m256i table_part(const uint8_t *table, int part) noexcept nogil:
    return _mm256_broadcastsi128_si256(_mm_loadu_si128(<const __m128i *>(table + part * 16)))


cdef inline void words_in_order(const ByteSums *s, __m256i *first_u16x16,
                                __m256i *second_u16x16) noexcept nogil:
    # Rows 0-7 and 16-23 in the first, 8-15 and 24-31 in the second.
    cdef __m256i even_u16x16 = _mm256_sub_epi16(
        s.even_u16x16, _mm256_slli_epi16(s.odd_u16x16, 8))
    first_u16x16[0] = _mm256_unpacklo_epi16(even_u16x16, s.odd_u16x16)
    second_u16x16[0] = _mm256_unpackhi_epi16(even_u16x16, s.odd_u16x16)


cdef inline void lookup_int8(const uint8_t *packed, const uint8_t *tables, Py_ssize_t size,
                             __m256i *sums_i32x8, int bit_planes) noexcept nogil:
    # Adds the sums of `size` <= 128 k. With two planes a byte takes 8 look-ups from 16 k, with one
    # from 32 k. In words, low <= 31 * 64 and low + 32 * high <= 65472 < 2^16; the bias leaves at
    # most 2 * 128 * 127 in magnitude.
    cdef Py_ssize_t k8, begin, step = 4 // bit_planes
    cdef int plane
    cdef __m256i mask_u8x32 = _mm256_set1_epi8(15)
    cdef __m256i bytes_u8x32, nibbles_u8x32, low_u8x32, high_u8x32
    cdef __m256i first_low, second_low, first_high, second_high, bias_i16x16
    cdef ByteSums low, high
    low.even_u16x16 = low.odd_u16x16 = _mm256_setzero_si256()
    high.even_u16x16 = high.odd_u16x16 = _mm256_setzero_si256()
    begin = 0
    while begin < size >> 3:
        low_u8x32 = _mm256_setzero_si256()
        high_u8x32 = _mm256_setzero_si256()
        for k8 in range(begin, begin + step):
            for plane in range(bit_planes):
                bytes_u8x32 = _mm256_loadu_si256(
                    <const __m256i *>(packed + (k8 * bit_planes + plane) * 32))
                _mm_prefetch(packed + (k8 * bit_planes + plane) * 32 + PREFETCH, _MM_HINT_T1)
                nibbles_u8x32 = _mm256_and_si256(bytes_u8x32, mask_u8x32)
                low_u8x32 = _mm256_add_epi8(low_u8x32, _mm256_shuffle_epi8(
                    table_part(tables + k8 * 64, 0), nibbles_u8x32))
                high_u8x32 = _mm256_add_epi8(high_u8x32, _mm256_shuffle_epi8(
                    table_part(tables + k8 * 64, 1), nibbles_u8x32))
                nibbles_u8x32 = _mm256_and_si256(_mm256_srli_epi16(bytes_u8x32, 4), mask_u8x32)
                low_u8x32 = _mm256_add_epi8(low_u8x32, _mm256_shuffle_epi8(
                    table_part(tables + k8 * 64, 2), nibbles_u8x32))
                high_u8x32 = _mm256_add_epi8(high_u8x32, _mm256_shuffle_epi8(
                    table_part(tables + k8 * 64, 3), nibbles_u8x32))
        add_bytes(&low, low_u8x32)
        add_bytes(&high, high_u8x32)
        begin += step
    words_in_order(&low, &first_low, &second_low)
    words_in_order(&high, &first_high, &second_high)
    bias_i16x16 = _mm256_set1_epi16(<int16_t>((size >> 2) * 512 * bit_planes))
    first_low = _mm256_sub_epi16(
        _mm256_add_epi16(first_low, _mm256_slli_epi16(first_high, 5)), bias_i16x16)
    second_low = _mm256_sub_epi16(
        _mm256_add_epi16(second_low, _mm256_slli_epi16(second_high, 5)), bias_i16x16)
    sums_i32x8[0] = _mm256_add_epi32(
        sums_i32x8[0], _mm256_cvtepi16_epi32(_mm256_castsi256_si128(first_low)))
    sums_i32x8[1] = _mm256_add_epi32(
        sums_i32x8[1], _mm256_cvtepi16_epi32(_mm256_castsi256_si128(second_low)))
    sums_i32x8[2] = _mm256_add_epi32(
        sums_i32x8[2], _mm256_cvtepi16_epi32(_mm256_extracti128_si256(first_low, 1)))
    sums_i32x8[3] = _mm256_add_epi32(
        sums_i32x8[3], _mm256_cvtepi16_epi32(_mm256_extracti128_si256(second_low, 1)))


cdef inline void lookup_int16(const uint8_t *packed, const uint8_t *tables, Py_ssize_t size,
                              __m256i *sums_i32x8, int bit_planes) noexcept nogil:
    # Adds the sums of `size` <= 256 k: at most 2 * 64 look-ups of 255 in a word, 32640 < 2^16.
    cdef Py_ssize_t k8
    cdef int plane
    cdef __m256i mask_u8x32 = _mm256_set1_epi8(15)
    cdef __m256i bytes_u8x32, nibbles_u8x32, bias_i32x8
    cdef __m256i low_u16x16[2]
    cdef __m256i high_u16x16[2]
    cdef ByteSums low, high
    cdef int v
    low.even_u16x16 = low.odd_u16x16 = _mm256_setzero_si256()
    high.even_u16x16 = high.odd_u16x16 = _mm256_setzero_si256()
    for k8 in range(size >> 3):
        for plane in range(bit_planes):
            bytes_u8x32 = _mm256_loadu_si256(
                <const __m256i *>(packed + (k8 * bit_planes + plane) * 32))
            _mm_prefetch(packed + (k8 * bit_planes + plane) * 32 + PREFETCH, _MM_HINT_T1)
            nibbles_u8x32 = _mm256_and_si256(bytes_u8x32, mask_u8x32)
            add_bytes(&low, _mm256_shuffle_epi8(table_part(tables + k8 * 64, 0), nibbles_u8x32))
            add_bytes(&high, _mm256_shuffle_epi8(table_part(tables + k8 * 64, 1), nibbles_u8x32))
            nibbles_u8x32 = _mm256_and_si256(_mm256_srli_epi16(bytes_u8x32, 4), mask_u8x32)
            add_bytes(&low, _mm256_shuffle_epi8(table_part(tables + k8 * 64, 2), nibbles_u8x32))
            add_bytes(&high, _mm256_shuffle_epi8(table_part(tables + k8 * 64, 3), nibbles_u8x32))
    words_in_order(&low, &low_u16x16[0], &low_u16x16[1])
    words_in_order(&high, &high_u16x16[0], &high_u16x16[1])
    bias_i32x8 = _mm256_set1_epi32(<int32_t>((size >> 2) * 32768 * bit_planes))
    for v in range(2):
        sums_i32x8[v] = _mm256_add_epi32(sums_i32x8[v], biased_words(
            _mm256_castsi256_si128(low_u16x16[v]), _mm256_castsi256_si128(high_u16x16[v]),
            bias_i32x8))
        sums_i32x8[2 + v] = _mm256_add_epi32(sums_i32x8[2 + v], biased_words(
            _mm256_extracti128_si256(low_u16x16[v], 1), _mm256_extracti128_si256(high_u16x16[v], 1),
            bias_i32x8))


cdef inline __m256i biased_words(__m128i low_u16x8, __m128i high_u16x8,
                                 __m256i bias_i32x8) noexcept nogil:
    return _mm256_sub_epi32(
        _mm256_add_epi32(_mm256_cvtepu16_epi32(low_u16x8),
                         _mm256_slli_epi32(_mm256_cvtepu16_epi32(high_u16x8), 8)), bias_i32x8)


cdef inline void lookup_multiply(const Weights *w, const void *prepared, Py_ssize_t rows,
                                 float *out, Py_ssize_t out_stride,
                                 Py_ssize_t tile_begin, Py_ssize_t tile_end,
                                 int format, bint wide, int bit_planes) noexcept nogil:
    cdef const float *x_scales = <const float *>prepared
    cdef const int32_t *x_sums = <const int32_t *>(x_scales + w.groups * rows)
    cdef const uint8_t *tables = <const uint8_t *>(x_sums + w.groups * rows)
    cdef const uint8_t *packed
    cdef float y[LOOKUP_ROWS * 32]
    cdef __m256i sums_i32x8[4]
    cdef TileScales t
    cdef Py_ssize_t tile, group, row, at, begin, size
    cdef int v
    for tile in range(tile_begin, tile_end):
        memset(y, 0, rows * 32 * sizeof(float))
        for group in range(w.groups):
            load_tile_scales(w, format, tile, group, &t)
            packed = w.packed + (tile * w.groups + group) * (w.group_size >> 3) * 32 * bit_planes
            for row in range(rows):
                at = group * rows + row
                for v in range(4):
                    sums_i32x8[v] = _mm256_setzero_si256()
                if wide:
                    lookup_int16(packed, tables + at * w.group_size * 8, w.group_size, sums_i32x8,
                                 bit_planes)
                else:
                    size = min(w.group_size, <Py_ssize_t>128)
                    for begin in range(0, w.group_size, 128):
                        lookup_int8(packed + (begin >> 3) * 32 * bit_planes,
                                    tables + (at * w.group_size + begin) * 8, size, sums_i32x8,
                                    bit_planes)
                for v in range(4):
                    if bit_planes == 2:
                        sums_i32x8[v] = _mm256_srai_epi32(sums_i32x8[v], 1)
                    add_sums(&t, v, sums_i32x8[v], x_scales[at], x_sums[at], y + row * 32 + v * 8)
        store_tile(w, y, rows, out, out_stride, tile)
