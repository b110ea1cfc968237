# Products of binary and ternary weights with integer activations, by tables in registers: no
# multiplication, four weights a step. The idea is that of T-MAC, LUT-GEMM and bitnet.cpp; new here
# are sums that stay exact: raised entries in digits to the base of 32. A nibble of a stored byte
# says which of four activations count; one vpshufb looks up, for 32 rows of the matrix at once,
# what those four add up to.
#
#   x0 x1 x2 x3  ->  table[b] = sum of max(x, 0) over set bits of b, max(-x, 0) over clear bits
#
# Entries are the subset sums raised by the sum of the negative x, hence never negative and at most
# |x0| + .. + |x3|; sums over a group, with A = sum of |x|, come back as
#   binary  (bits b, weight 2 b - 1)         2 * looked up - A
#   ternary (planes a and b, a + b - 1)      looked up by a + looked up by b - A
#
# An entry is stored as digits to the base of 32 in tables of bytes of their own: int8 activations
# (|x| <= 127, entry <= 508) make 2 digits, int16 (|x| <= 8191, entry <= 32764) 3. Eight digits add
# up in a byte (8 * 31 = 248) before they are widened:
#
#   8 x vpshufb, vpaddb       digit 0  |  digit 1  |  digit 2      32 rows each
#   vpunpck, vpmaddubsw       digit 0 + 32 * digit 1 (int16)   digit 2 (int16)
#   vpunpck, vpmaddwd         ... + 1024 * digit 2 (int32, int16 activations only)
#
# Tables of 8 k: [digit][k / 4 % 2][16] bytes, so that one pass makes those of a stored byte.

cdef inline __m256i spread_word(__m256i words_i16x16, int at) noexcept nogil:
    # Of a vector with 8 equal words in both halves: word `at` all over the low half, word at + 4
    # all over the high half.
    cdef __m256i first_u8x32 = _mm256_setr_epi64x(
        0x0100010001000100, 0x0100010001000100, 0x0908090809080908, 0x0908090809080908)
    return _mm256_shuffle_epi8(
        words_i16x16, _mm256_add_epi8(first_u8x32, _mm256_set1_epi8(<char>(2 * at))))


cdef inline __m256i counted(__m256i x_i16x16, __m256i signs_i16x16) noexcept nogil:
    return _mm256_max_epi16(_mm256_sign_epi16(x_i16x16, signs_i16x16), _mm256_setzero_si256())


cdef inline void make_tables(const int16_t *x, Py_ssize_t group_size, uint8_t *tables,
                             int digits) noexcept nogil:
    # The tables of one row and kernel group. Halves of a vector are the two quads of 8 k.
    cdef Py_ssize_t k
    cdef __m256i x_i16x16, top_i16x16, first_i16x16, second_i16x16
    cdef __m256i zero_i16x16 = _mm256_setzero_si256()
    cdef __m256i digit_i16x16 = _mm256_set1_epi16(31)
    # Words 0..7 are the entries 0..7 (and then 8..15): bit 0, 1, 2 of the entry set is +1.
    cdef __m256i bit0_i16x16 = _mm256_set1_epi32(0x0001FFFF)
    cdef __m256i bit1_i16x16 = _mm256_set1_epi64x(0x00010001FFFFFFFF)
    cdef __m256i bit2_i16x16 = _mm256_setr_epi64x(
        -1, 0x0001000100010001, -1, 0x0001000100010001)
    for k in range(0, group_size, 8):
        x_i16x16 = _mm256_broadcastsi128_si256(_mm_loadu_si128(<const __m128i *>(x + k)))
        top_i16x16 = spread_word(x_i16x16, 3)
        first_i16x16 = _mm256_add_epi16(
            _mm256_add_epi16(counted(spread_word(x_i16x16, 0), bit0_i16x16),
                             counted(spread_word(x_i16x16, 1), bit1_i16x16)),
            _mm256_add_epi16(counted(spread_word(x_i16x16, 2), bit2_i16x16),
                             _mm256_max_epi16(_mm256_sub_epi16(zero_i16x16, top_i16x16),
                                              zero_i16x16)))
        second_i16x16 = _mm256_add_epi16(first_i16x16, top_i16x16)
        _mm256_storeu_si256(<__m256i *>tables, _mm256_packus_epi16(
            _mm256_and_si256(first_i16x16, digit_i16x16),
            _mm256_and_si256(second_i16x16, digit_i16x16)))
        first_i16x16 = _mm256_srli_epi16(first_i16x16, 5)
        second_i16x16 = _mm256_srli_epi16(second_i16x16, 5)
        if digits == 3:
            _mm256_storeu_si256(<__m256i *>(tables + 32), _mm256_packus_epi16(
                _mm256_and_si256(first_i16x16, digit_i16x16),
                _mm256_and_si256(second_i16x16, digit_i16x16)))
            first_i16x16 = _mm256_srli_epi16(first_i16x16, 5)
            second_i16x16 = _mm256_srli_epi16(second_i16x16, 5)
        _mm256_storeu_si256(<__m256i *>(tables + 32 * digits - 32),
                            _mm256_packus_epi16(first_i16x16, second_i16x16))
        tables += 32 * digits


cdef struct Looker:
    # What one row of x has looked up for one tile of 32 rows of weights.
    __m256i digits_u8x32[3]       # within one block of 8 look-ups
    __m256i sums_i16x16[2]        # digit 0 + 32 * digit 1, of the rows 0-7, 16-23 | 8-15, 24-31
    __m256i tops_i16x16[2]        # digit 2 of the same rows


cdef struct Nibbles:
    # 32 stored bytes of a tile.
    __m256i low_u8x32
    __m256i high_u8x32


cdef inline void load_nibbles(Nibbles *n, const uint8_t *packed) noexcept nogil:
    cdef __m256i mask_u8x32 = _mm256_set1_epi8(15)
    cdef __m256i bytes_u8x32 = _mm256_loadu_si256(<const __m256i *>packed)
    n.low_u8x32 = _mm256_and_si256(bytes_u8x32, mask_u8x32)
    n.high_u8x32 = _mm256_and_si256(_mm256_srli_epi16(bytes_u8x32, 4), mask_u8x32)


cdef inline void look_up_digit(const uint8_t *tables, int digit, const Nibbles *first_nibbles,
                               const Nibbles *second_nibbles, Looker *first, Looker *second,
                               int tiles) noexcept nogil:
    cdef __m256i table_u8x32 = _mm256_broadcastsi128_si256(
        _mm_loadu_si128(<const __m128i *>(tables + 32 * digit)))
    first.digits_u8x32[digit] = _mm256_add_epi8(
        first.digits_u8x32[digit], _mm256_shuffle_epi8(table_u8x32, first_nibbles.low_u8x32))
    if tiles == 2:
        second.digits_u8x32[digit] = _mm256_add_epi8(
            second.digits_u8x32[digit], _mm256_shuffle_epi8(table_u8x32, second_nibbles.low_u8x32))
    table_u8x32 = _mm256_broadcastsi128_si256(
        _mm_loadu_si128(<const __m128i *>(tables + 32 * digit + 16)))
    first.digits_u8x32[digit] = _mm256_add_epi8(
        first.digits_u8x32[digit], _mm256_shuffle_epi8(table_u8x32, first_nibbles.high_u8x32))
    if tiles == 2:
        second.digits_u8x32[digit] = _mm256_add_epi8(
            second.digits_u8x32[digit], _mm256_shuffle_epi8(table_u8x32, second_nibbles.high_u8x32))


cdef inline void look_up_vector(const uint8_t *packed, Py_ssize_t tile_stride,
                                const uint8_t *tables, Py_ssize_t row_bytes, Looker *a, Looker *b,
                                Looker *c, Looker *d, int digits, int rows,
                                int tiles) noexcept nogil:
    # 32 stored bytes of each tile: two nibbles of 32 rows of weights.
    cdef Nibbles first, second
    load_nibbles(&first, packed)
    if tiles == 2:
        load_nibbles(&second, packed + tile_stride)
    look_up_digit(tables, 0, &first, &second, a, b, tiles)
    look_up_digit(tables, 1, &first, &second, a, b, tiles)
    if digits == 3:
        look_up_digit(tables, 2, &first, &second, a, b, tiles)
    if rows == 2:
        tables += row_bytes
        look_up_digit(tables, 0, &first, &second, c, d, tiles)
        look_up_digit(tables, 1, &first, &second, c, d, tiles)


cdef inline void start_digits(Looker *looker) noexcept nogil:
    looker.digits_u8x32[0] = _mm256_setzero_si256()
    looker.digits_u8x32[1] = _mm256_setzero_si256()
    looker.digits_u8x32[2] = _mm256_setzero_si256()


cdef inline void widen_digits(Looker *looker, int digits) noexcept nogil:
    cdef __m256i weights_i8x32 = _mm256_set1_epi16(0x2001)
    cdef __m256i zero_u8x32 = _mm256_setzero_si256()
    looker.sums_i16x16[0] = _mm256_add_epi16(looker.sums_i16x16[0], _mm256_maddubs_epi16(
        _mm256_unpacklo_epi8(looker.digits_u8x32[0], looker.digits_u8x32[1]), weights_i8x32))
    looker.sums_i16x16[1] = _mm256_add_epi16(looker.sums_i16x16[1], _mm256_maddubs_epi16(
        _mm256_unpackhi_epi8(looker.digits_u8x32[0], looker.digits_u8x32[1]), weights_i8x32))
    if digits == 3:
        looker.tops_i16x16[0] = _mm256_add_epi16(
            looker.tops_i16x16[0], _mm256_unpacklo_epi8(looker.digits_u8x32[2], zero_u8x32))
        looker.tops_i16x16[1] = _mm256_add_epi16(
            looker.tops_i16x16[1], _mm256_unpackhi_epi8(looker.digits_u8x32[2], zero_u8x32))


cdef enum:
    LUT_FAR = 4096                # bytes of weights prefetched into L2
    LUT_NEAR = 1024               # and from there into L1


cdef inline void ask_block(const uint8_t *packed) noexcept nogil:
    # 128 bytes of each tile. In one step, into either cache, one row of x was up to a quarter
    # slower: asked into L1 from memory, too few lines are on their way at once; asked into L2
    # alone, each waits once more.
    _mm_prefetch(<const char *>packed + LUT_FAR, _MM_HINT_T1)
    _mm_prefetch(<const char *>packed + LUT_FAR + 64, _MM_HINT_T1)
    _mm_prefetch(<const char *>packed + LUT_NEAR, _MM_HINT_T0)
    _mm_prefetch(<const char *>packed + LUT_NEAR + 64, _MM_HINT_T0)


cdef inline void look_up_blocks(const uint8_t *packed, Py_ssize_t tile_stride,
                                Py_ssize_t begin, Py_ssize_t end, const uint8_t *tables,
                                Py_ssize_t row_bytes, Looker *a, Looker *b, Looker *c, Looker *d,
                                int planes, int digits, int rows, int tiles) noexcept nogil:
    # Blocks of 8 look-ups, four stored vectors each: 32 k of binary, 16 k of ternary.
    # a, b: first row of x by one tile and the other; c, d: second row of x.
    cdef Py_ssize_t block
    cdef int step = 32 * digits   # bytes of tables for 8 k
    packed += begin * 128
    tables += begin * 4 // planes * step
    for block in range(begin, end):
        ask_block(packed)
        start_digits(a)
        if tiles == 2:
            ask_block(packed + tile_stride)
            start_digits(b)
        if rows == 2:
            start_digits(c)
            if tiles == 2:
                start_digits(d)
        look_up_vector(packed, tile_stride, tables, row_bytes, a, b, c, d, digits, rows, tiles)
        if planes == 1:
            tables += step
        look_up_vector(packed + 32, tile_stride, tables, row_bytes, a, b, c, d, digits, rows, tiles)
        tables += step
        look_up_vector(packed + 64, tile_stride, tables, row_bytes, a, b, c, d, digits, rows, tiles)
        if planes == 1:
            tables += step
        look_up_vector(packed + 96, tile_stride, tables, row_bytes, a, b, c, d, digits, rows, tiles)
        tables += step
        packed += 128
        widen_digits(a, digits)
        if tiles == 2:
            widen_digits(b, digits)
        if rows == 2:
            widen_digits(c, digits)
            if tiles == 2:
                widen_digits(d, digits)
