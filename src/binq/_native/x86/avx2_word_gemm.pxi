# Integer products of codes up to 255 and activations of 16 bits, int8 and int16 alike: a tile of
# weights is unpacked to words in L1 once (avx2_code_tile.pxi) and vpmaddwd multiplies them by up to
# four rows of x at a time, 16 columns by 4 rows in 8 accumulators of int32, which nothing has to
# widen. Nothing saturates, as vpmaddubsw would: a sum of 256 * 255 * 32639 is below 2^31. A
# prepared buffer holds
#   activations int16 [group][row][group_size], scales float32 [group][row], sums int32 [group][row]
# with the activations of four k in the order 0, 2, 1, 3, as words of weights lie.
#
# One row alone unpacks a tile of bytes itself, which costs fewer stores. Where
# weights are stored as bytes it reads them where they lie, from the two halves of a piece side by
# side, as int4 does.
#
# Each loop is a function of its own, as those of few rows of bytes are.

cdef enum:
    WORD_ROWS = 4             # at once
    BYTE_ROWS = 32            # at most, of stored bytes: then words in L1 are faster, measured
    BYTES_AHEAD = 1024        # of stored bytes prefetched into L1
    BYTES_FAR_AHEAD = 4096    # and into L2, of any layout, by all but one row of stored bytes


cdef Py_ssize_t word_prepared(const Weights *w, Py_ssize_t rows, int mode) noexcept nogil:
    return w.groups * rows * (w.group_size * 2 + 8)


cdef Py_ssize_t word_scratch(const Weights *w, Py_ssize_t rows, int mode) noexcept nogil:
    # The words of a tile and y of all rows, of few rows in two tiles.
    return w.group_size * 64 + max(rows, min(rows, <Py_ssize_t>BYTE_ROWS) * 2) * 128


cdef inline void order_words(int16_t *codes, Py_ssize_t count) noexcept nogil:
    # Of each four k 0, 2, 1, 3.
    cdef Py_ssize_t k
    cdef __m256i *at
    cdef __m256i order_u8x32 = _mm256_setr_epi64x(
        0x0706030205040100, 0x0F0E0B0A0D0C0908, 0x0706030205040100, 0x0F0E0B0A0D0C0908)
    for k in range(0, count, 16):
        at = <__m256i *>(codes + k)
        _mm256_storeu_si256(at, _mm256_shuffle_epi8(_mm256_loadu_si256(at), order_u8x32))


cdef void word_prepare(const Weights *w, const float *x, Py_ssize_t x_stride, Py_ssize_t rows,
                       void *prepared, uint8_t *unfit, Py_ssize_t row_begin, Py_ssize_t row_end,
                       int mode) noexcept nogil:
    cdef float levels = SPECS[w.format].activation_levels[mode]
    cdef int16_t *codes = <int16_t *>prepared
    cdef float *scales = <float *>(codes + w.groups * rows * w.group_size)
    cdef int32_t *sums = <int32_t *>(scales + w.groups * rows)
    cdef int32_t absolute
    cdef Py_ssize_t row, group, at, count
    cdef bint fits
    for row in range(row_begin, row_end):
        fits = True
        for group in range(w.groups):
            at = group * rows + row
            count = min(w.group_size, w.in_features - group * w.group_size)
            fits &= round_group(x + row * x_stride + group * w.group_size, count, w.group_size,
                                codes + at * w.group_size, levels, scales + at, &absolute,
                                sums + at)
            order_words(codes + at * w.group_size, w.group_size)
        unfit[row] = not fits
        if not fits:
            for group in range(w.groups):
                at = group * rows + row
                memset(codes + at * w.group_size, 0, w.group_size * sizeof(int16_t))
                scales[at] = 0.0
                sums[at] = 0


cdef inline void word_dots(const uint8_t *words, const int16_t *x, Py_ssize_t group_size,
                           __m256i *sums_i32x8, int rows, int vectors) noexcept nogil:
    # sums[4 n + v] = 8 columns at words + 32 v . row n.
    cdef Py_ssize_t begin, pair
    cdef int n, v
    cdef __m256i x_i16x16
    cdef __m256i words_i16x16[4]
    cdef __m256i totals_i32x8[2 * WORD_ROWS]
    for v in range(vectors * rows):
        totals_i32x8[v] = _mm256_setzero_si256()
    for begin in range(0, group_size >> 1, 4):
        for pair in range(4):
            for v in range(vectors):
                words_i16x16[v] = _mm256_loadu_si256(
                    <const __m256i *>(words + (begin + pair) * 128 + v * 32))
            for n in range(rows):
                x_i16x16 = broadcast_4(
                    <const int8_t *>(x + n * group_size + (begin + pair) * 2))
                for v in range(vectors):
                    totals_i32x8[vectors * n + v] = _mm256_add_epi32(
                        totals_i32x8[vectors * n + v],
                        _mm256_madd_epi16(words_i16x16[v], x_i16x16))
    for n in range(rows):
        for v in range(vectors):
            sums_i32x8[4 * n + v] = totals_i32x8[vectors * n + v]


cdef inline void byte_dots(const uint8_t *codes, const int16_t *x, Py_ssize_t group_size,
                           __m256i *sums_i32x8, int rows, int vectors, bint asks) noexcept nogil:
    # sums[4 n + v] = 8 columns at codes + 32 v . row n. Bytes are taken apart in registers, even
    # and odd ones, for all rows at once.
    cdef Py_ssize_t quad
    cdef int n, v
    cdef __m256i codes_u8x32, x_i16x16
    cdef __m256i even_i16x16[4]
    cdef __m256i odd_i16x16[4]
    cdef __m256i totals_i32x8[2 * WORD_ROWS]
    for v in range(vectors * rows):
        totals_i32x8[v] = _mm256_setzero_si256()
    for quad in range(group_size >> 2):
        for v in range(vectors):
            if asks and not v & 1:
                _mm_prefetch(<const char *>codes + v * 32 + BYTES_AHEAD, _MM_HINT_T0)
                if rows > 1:
                    _mm_prefetch(<const char *>codes + v * 32 + BYTES_FAR_AHEAD, _MM_HINT_T1)
            codes_u8x32 = _mm256_loadu_si256(<const __m256i *>(codes + v * 32))
            even_i16x16[v] = _mm256_and_si256(codes_u8x32, _mm256_set1_epi16(255))
            odd_i16x16[v] = _mm256_srli_epi16(codes_u8x32, 8)
        for n in range(rows):
            x_i16x16 = broadcast_4(<const int8_t *>(x + n * group_size))
            for v in range(vectors):
                totals_i32x8[vectors * n + v] = _mm256_add_epi32(
                    totals_i32x8[vectors * n + v], _mm256_madd_epi16(even_i16x16[v], x_i16x16))
            x_i16x16 = broadcast_4(<const int8_t *>(x + n * group_size + 2))
            for v in range(vectors):
                totals_i32x8[vectors * n + v] = _mm256_add_epi32(
                    totals_i32x8[vectors * n + v], _mm256_madd_epi16(odd_i16x16[v], x_i16x16))
        codes += 128
        x += 4
    for n in range(rows):
        for v in range(vectors):
            sums_i32x8[4 * n + v] = totals_i32x8[vectors * n + v]


cdef inline void byte_group(const uint8_t *codes, const int16_t *x, Py_ssize_t group_size,
                            const TileScales *t, const float *x_scales, const int32_t *x_sums,
                            float *y, int rows, int vectors, bint asks) noexcept nogil:
    # One kernel group of `rows` rows of x and 32 columns, added to y [row][32].
    cdef __m256i sums_i32x8[4 * WORD_ROWS]
    cdef int part, n
    for part in range(4 // vectors):
        byte_dots(codes + part * vectors * 32, x, group_size, sums_i32x8 + part * vectors, rows,
                  vectors, asks)
    for n in range(rows):
        add_tile_row(t, sums_i32x8 + 4 * n, x_scales[n], x_sums[n], y + n * 32)


cdef void one_row(const uint8_t *codes, const int16_t *x, Py_ssize_t group_size,
                  const TileScales *t, const float *x_scales, const int32_t *x_sums,
                  float *y) noexcept nogil:
    byte_group(codes, x, group_size, t, x_scales, x_sums, y, 1, 4, False)


cdef void bytes_1(const uint8_t *codes, const int16_t *x, Py_ssize_t group_size,
                  const TileScales *t, const float *x_scales, const int32_t *x_sums,
                  float *y) noexcept nogil:
    byte_group(codes, x, group_size, t, x_scales, x_sums, y, 1, 4, True)


cdef void bytes_2(const uint8_t *codes, const int16_t *x, Py_ssize_t group_size,
                  const TileScales *t, const float *x_scales, const int32_t *x_sums,
                  float *y) noexcept nogil:
    byte_group(codes, x, group_size, t, x_scales, x_sums, y, 2, 4, True)


cdef void bytes_3(const uint8_t *codes, const int16_t *x, Py_ssize_t group_size,
                  const TileScales *t, const float *x_scales, const int32_t *x_sums,
                  float *y) noexcept nogil:
    byte_group(codes, x, group_size, t, x_scales, x_sums, y, 3, 2, True)


cdef void bytes_4(const uint8_t *codes, const int16_t *x, Py_ssize_t group_size,
                  const TileScales *t, const float *x_scales, const int32_t *x_sums,
                  float *y) noexcept nogil:
    byte_group(codes, x, group_size, t, x_scales, x_sums, y, 4, 2, True)


cdef inline void word_group(const uint8_t *words, const int16_t *x, Py_ssize_t group_size,
                            const TileScales *t, const float *x_scales, const int32_t *x_sums,
                            float *y, int rows, int vectors) noexcept nogil:
    # One kernel group of `rows` rows of x and 32 columns, added to y [row][32].
    cdef __m256i sums_i32x8[4 * WORD_ROWS]
    cdef int part, n
    for part in range(4 // vectors):
        word_dots(words + part * vectors * 32, x, group_size, sums_i32x8 + part * vectors, rows,
                  vectors)
    for n in range(rows):
        add_tile_row(t, sums_i32x8 + 4 * n, x_scales[n], x_sums[n], y + n * 32)


ctypedef void (*WordLoop)(const uint8_t *words, const int16_t *x, Py_ssize_t group_size,
                          const TileScales *t, const float *x_scales, const int32_t *x_sums,
                          float *y) noexcept nogil


cdef void words_1(const uint8_t *words, const int16_t *x, Py_ssize_t group_size,
                  const TileScales *t, const float *x_scales, const int32_t *x_sums,
                  float *y) noexcept nogil:
    word_group(words, x, group_size, t, x_scales, x_sums, y, 1, 4)


cdef void words_2(const uint8_t *words, const int16_t *x, Py_ssize_t group_size,
                  const TileScales *t, const float *x_scales, const int32_t *x_sums,
                  float *y) noexcept nogil:
    word_group(words, x, group_size, t, x_scales, x_sums, y, 2, 4)


cdef void words_3(const uint8_t *words, const int16_t *x, Py_ssize_t group_size,
                  const TileScales *t, const float *x_scales, const int32_t *x_sums,
                  float *y) noexcept nogil:
    word_group(words, x, group_size, t, x_scales, x_sums, y, 3, 2)


cdef void words_4(const uint8_t *words, const int16_t *x, Py_ssize_t group_size,
                  const TileScales *t, const float *x_scales, const int32_t *x_sums,
                  float *y) noexcept nogil:
    word_group(words, x, group_size, t, x_scales, x_sums, y, 4, 2)


# By number of rows.
cdef WordLoop WORD_LOOPS[5]
WORD_LOOPS[1] = words_1
WORD_LOOPS[2] = words_2
WORD_LOOPS[3] = words_3
WORD_LOOPS[4] = words_4


cdef void widen_words(const Weights *w, const uint8_t *packed, uint8_t *words) noexcept nogil:
    by_codes(SPECS[w.format].layout, widen_layout, w, packed, words, True)


# The same of bytes.
cdef WordLoop BYTE_LOOPS[5]
BYTE_LOOPS[1] = bytes_1
BYTE_LOOPS[2] = bytes_2
BYTE_LOOPS[3] = bytes_3
BYTE_LOOPS[4] = bytes_4


cdef inline void add_rows(const WordLoop *loops, const uint8_t *codes, const int16_t *x,
                          Py_ssize_t group_size, const TileScales *t, const float *x_scales,
                          const int32_t *x_sums, float *y, Py_ssize_t count) noexcept nogil:
    # One kernel group of `count` rows of x, added to y [row][32].
    cdef Py_ssize_t row = 0, now
    while row < count:
        now = min(count - row, <Py_ssize_t>WORD_ROWS)
        loops[now](codes, x + row * group_size, group_size, t, x_scales + row, x_sums + row,
                   y + row * 32)
        row += now


cdef inline void few_rows_of_bytes(const Weights *w, const int16_t *x, const float *x_scales,
                                   const int32_t *x_sums, Py_ssize_t rows, float *out,
                                   Py_ssize_t out_stride, float *y,
                                   const Piece *piece) noexcept nogil:
    # Of a tile of either half of the piece the same group.
    cdef Py_ssize_t group_bytes = w.group_size * 32
    cdef Py_ssize_t apart = (piece.tile_end - piece.tile_begin + 1) >> 1
    cdef Py_ssize_t count = piece.row_end - piece.row_begin
    cdef int32_t zero = common_zero(w)
    cdef TileScales t
    cdef Py_ssize_t first, tile, group, at
    cdef float *to
    for first in range(piece.tile_begin, piece.tile_begin + apart):
        memset(y, 0, 2 * count * 32 * sizeof(float))
        for group in range(w.groups):
            at = group * rows + piece.row_begin
            tile = first
            to = y
            while tile < piece.tile_end:
                load_tile_scales(w, zero, tile, group, &t)
                add_rows(BYTE_LOOPS, w.packed + (tile * w.groups + group) * group_bytes,
                         x + at * w.group_size, w.group_size, &t, x_scales + at, x_sums + at, to,
                         count)
                tile += apart
                to += count * 32
        tile = first
        to = y
        while tile < piece.tile_end:
            store_tile(w, to, count, out + piece.row_begin * out_stride, out_stride, tile)
            tile += apart
            to += count * 32


cdef inline void ask_bytes(const uint8_t *packed, Py_ssize_t count) noexcept nogil:
    # While many products keep the processor from what follows, memory would stand idle.
    cdef Py_ssize_t at
    for at in range(0, count, 64):
        _mm_prefetch(<const char *>packed + at, _MM_HINT_T1)


cdef void word_multiply(const Weights *w, const void *prepared, Py_ssize_t rows, float *out,
                        Py_ssize_t out_stride, void *scratch, const Piece *piece,
                        int mode) noexcept nogil:
    cdef const int16_t *x = <const int16_t *>prepared
    cdef const float *x_scales = <const float *>(x + w.groups * rows * w.group_size)
    cdef const int32_t *x_sums = <const int32_t *>(x_scales + w.groups * rows)
    cdef const uint8_t *packed
    cdef uint8_t *words = <uint8_t *>scratch
    cdef float *y = <float *>(words + w.group_size * 64)
    cdef Py_ssize_t group_bytes = (w.group_size >> 3) * block_bytes(SPECS[w.format].layout)
    cdef int32_t zero = common_zero(w)
    cdef TileScales t
    cdef Py_ssize_t first = piece.row_begin
    cdef Py_ssize_t count = piece.row_end - first
    cdef Py_ssize_t tile, group, at
    if count <= BYTE_ROWS and SPECS[w.format].layout == BYTES:
        few_rows_of_bytes(w, x, x_scales, x_sums, rows, out, out_stride, y, piece)
        return
    for tile in range(piece.tile_begin, piece.tile_end):
        memset(y, 0, count * 32 * sizeof(float))
        for group in range(w.groups):
            load_tile_scales(w, zero, tile, group, &t)
            packed = w.packed + (tile * w.groups + group) * group_bytes
            at = group * rows + first
            ask_bytes(packed + BYTES_FAR_AHEAD, group_bytes)
            if count == 1:
                widen_codes(w, packed, words)
                one_row(words, x + at * w.group_size, w.group_size, &t, x_scales + at,
                        x_sums + at, y)
            else:
                widen_words(w, packed, words)
                add_rows(WORD_LOOPS, words, x + at * w.group_size, w.group_size, &t,
                         x_scales + at, x_sums + at, y, count)
        store_tile(w, y, count, out + first * out_stride, out_stride, tile)
