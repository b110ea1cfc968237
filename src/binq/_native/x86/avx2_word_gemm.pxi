# Integer products of codes up to 255 and any rows of x: a tile of weights is unpacked into L1 once
# (avx2_code_tile.pxi), its codes are widened to int16 as they are read, and vpmaddwd multiplies
# them by activations of 16 bits, int8 and int16 alike. Nothing saturates, as vpmaddubsw would: a
# sum of 256 * 255 * 32639 is below 2^31. A prepared buffer holds
#   activations int16 [group][row][group_size], scales float32 [group][row], sums int32 [group][row]

cdef enum:
    WORD_ROWS = 3             # at once: 12 sums, 1 vector of weights and 1 of x


cdef Py_ssize_t word_prepared(const Weights *w, Py_ssize_t rows, int mode) noexcept nogil:
    return w.groups * rows * (w.group_size * 2 + 8)


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
        unfit[row] = not fits
        if not fits:
            for group in range(w.groups):
                at = group * rows + row
                memset(codes + at * w.group_size, 0, w.group_size * sizeof(int16_t))
                scales[at] = 0.0
                sums[at] = 0


cdef inline void word_dots(const uint8_t *codes, const int16_t *x, Py_ssize_t group_size,
                           __m256i *sums_i32x8, int rows) noexcept nogil:
    # sums[2 n + h] = 8 columns at codes + 32 h . row n. A dword holds the sum of two k.
    cdef Py_ssize_t quad
    cdef int n, v
    cdef int64_t four
    cdef __m256i codes_i16x16
    cdef __m256i x_i16x16[WORD_ROWS]
    cdef __m256i totals_i32x8[4 * WORD_ROWS]
    for v in range(4 * rows):
        totals_i32x8[v] = _mm256_setzero_si256()
    for quad in range(group_size >> 2):
        for n in range(rows):
            memcpy(&four, x + n * group_size + quad * 4, 8)
            x_i16x16[n] = _mm256_set1_epi64x(four)
        for v in range(4):
            codes_i16x16 = _mm256_cvtepu8_epi16(
                _mm_loadu_si128(<const __m128i *>(codes + quad * 128 + v * 16)))
            for n in range(rows):
                totals_i32x8[4 * n + v] = _mm256_add_epi32(
                    totals_i32x8[4 * n + v], _mm256_madd_epi16(codes_i16x16, x_i16x16[n]))
    for v in range(2 * rows):
        sums_i32x8[v] = _mm256_permute4x64_epi64(
            _mm256_hadd_epi32(totals_i32x8[2 * v], totals_i32x8[2 * v + 1]), 0xD8)


cdef inline void word_group(const uint8_t *codes, const int16_t *x, Py_ssize_t group_size,
                            const TileScales *t, const float *x_scales, const int32_t *x_sums,
                            float *y, int rows) noexcept nogil:
    # One kernel group of `rows` rows of x and 32 columns, added to y [row][32].
    cdef __m256i sums_i32x8[2 * WORD_ROWS]
    cdef int half, n, h
    for half in range(2):
        word_dots(codes + half * 64, x, group_size, sums_i32x8, rows)
        for n in range(rows):
            for h in range(2):
                add_columns(t, half * 2 + h, sums_i32x8[2 * n + h], x_scales[n], x_sums[n],
                            y + n * 32 + half * 16 + h * 8)


cdef void word_multiply(const Weights *w, const void *prepared, Py_ssize_t rows, float *out,
                        Py_ssize_t out_stride, void *scratch, const Piece *piece,
                        int mode) noexcept nogil:
    cdef const int16_t *x = <const int16_t *>prepared
    cdef const float *x_scales = <const float *>(x + w.groups * rows * w.group_size)
    cdef const int32_t *x_sums = <const int32_t *>(x_scales + w.groups * rows)
    cdef uint8_t *codes = <uint8_t *>scratch
    cdef float *y = <float *>(codes + w.group_size * 32)
    cdef Py_ssize_t group_bytes = (w.group_size >> 3) * block_bytes(SPECS[w.format].layout)
    cdef int32_t zero = common_zero(w)
    cdef TileScales t
    cdef Py_ssize_t first = piece.row_begin
    cdef Py_ssize_t count = piece.row_end - first
    cdef Py_ssize_t tile, group, row, at
    for tile in range(piece.tile_begin, piece.tile_end):
        memset(y, 0, count * 32 * sizeof(float))
        for group in range(w.groups):
            load_tile_scales(w, zero, tile, group, &t)
            widen_codes(w, w.packed + (tile * w.groups + group) * group_bytes, codes)
            row = 0
            while row < count:
                at = group * rows + first + row
                if count - row >= 3:
                    word_group(codes, x + at * w.group_size, w.group_size, &t, x_scales + at,
                               x_sums + at, y + row * 32, 3)
                    row += 3
                elif count - row == 2:
                    word_group(codes, x + at * w.group_size, w.group_size, &t, x_scales + at,
                               x_sums + at, y + row * 32, 2)
                    row += 2
                else:
                    word_group(codes, x + at * w.group_size, w.group_size, &t, x_scales + at,
                               x_sums + at, y + row * 32, 1)
                    row += 1
        store_tile(w, y, count, out + first * out_stride, out_stride, tile)
