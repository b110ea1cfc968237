# Products of codes up to 15 and signed bytes, many rows of x: a tile of weights is unpacked into L1
# once (avx2_code_tile.pxi) and multiplied by four planes of x at a time, 16 columns of weights by 4
# planes in 8 accumulators.
#
# maddubs adds pairs of products into int16. As many such pairs add up there as fit before they are
# widened: 8 of codes up to 15 (8 * 2 * 15 * 128 = 30720), 16 of codes up to 7 (28672). Each loop is
# a function of its own, as those of few rows are.

cdef enum:
    PLANES_AT_ONCE = 4
    DEPTH = 8                 # quads of k before sums of codes up to 15 are widened
    SMALL_DEPTH = 16          # of codes up to 7


cdef Py_ssize_t plane_scratch(const Weights *w, Py_ssize_t rows, int mode) noexcept nogil:
    # The codes of a tile and y of all rows, of two tiles where they are few.
    return w.group_size * 32 + max(rows * 128, min(rows, <Py_ssize_t>INT4_GEMV_PLANES) * 256)


cdef inline void dot_quads(const uint8_t *codes, const int8_t *x, Py_ssize_t group_size,
                           __m256i *part_i16x16, int planes, bint begins) noexcept nogil:
    # Four quads of k, added to sums or the first of them.
    cdef Py_ssize_t quad
    cdef int p
    cdef __m256i first_u8x32, second_u8x32, x_s8x32
    for quad in range(4):
        first_u8x32 = _mm256_loadu_si256(<const __m256i *>(codes + quad * 128))
        second_u8x32 = _mm256_loadu_si256(<const __m256i *>(codes + quad * 128 + 32))
        for p in range(planes):
            x_s8x32 = broadcast_4(x + p * group_size + quad * 4)
            if begins and quad == 0:
                part_i16x16[2 * p] = _mm256_maddubs_epi16(first_u8x32, x_s8x32)
                part_i16x16[2 * p + 1] = _mm256_maddubs_epi16(second_u8x32, x_s8x32)
                continue
            part_i16x16[2 * p] = _mm256_add_epi16(
                part_i16x16[2 * p], _mm256_maddubs_epi16(first_u8x32, x_s8x32))
            part_i16x16[2 * p + 1] = _mm256_add_epi16(
                part_i16x16[2 * p + 1], _mm256_maddubs_epi16(second_u8x32, x_s8x32))


cdef inline void block_dots(const uint8_t *codes, const int8_t *x, Py_ssize_t group_size,
                            __m256i *sums_i32x8, int planes, Py_ssize_t depth) noexcept nogil:
    # sums[2 p + h] = 8 columns at codes + 32 h . plane p. Sums of 16 bits hold `depth` quads of k.
    cdef Py_ssize_t begin = 0, end
    cdef int p
    cdef __m256i part_i16x16[2 * PLANES_AT_ONCE]
    cdef __m256i ones_i16x16 = _mm256_set1_epi16(1)
    for p in range(2 * planes):
        sums_i32x8[p] = _mm256_setzero_si256()
    while begin < group_size:
        end = min(begin + 4 * depth, group_size)
        dot_quads(codes + begin * 32, x + begin, group_size, part_i16x16, planes, True)
        if depth == DEPTH:
            dot_quads(codes + begin * 32 + 512, x + begin + 16, group_size, part_i16x16, planes,
                      False)
            begin += 4 * DEPTH
        else:
            begin += 16
            while begin < end:
                dot_quads(codes + begin * 32, x + begin, group_size, part_i16x16, planes, False)
                begin += 16
        for p in range(2 * planes):
            sums_i32x8[p] = _mm256_add_epi32(
                sums_i32x8[p], _mm256_madd_epi16(part_i16x16[p], ones_i16x16))


cdef inline void block_group(const uint8_t *codes, const int8_t *x, Py_ssize_t group_size,
                             const TileScales *t, const float *x_scales, const int32_t *x_sums,
                             float *y, int planes, int rows, Py_ssize_t depth) noexcept nogil:
    # One kernel group of `rows` rows of x and 32 columns, added to y [row][32].
    cdef __m256i half_i32x8[2 * PLANES_AT_ONCE]
    cdef __m256i sums_i32x8[4 * PLANES_AT_ONCE]
    cdef int half, n
    for half in range(2):
        block_dots(codes + half * 64, x, group_size, half_i32x8, rows * planes, depth)
        join_planes(half_i32x8, sums_i32x8 + 2 * half, planes, rows, 2)
    for n in range(rows):
        add_tile_row(t, sums_i32x8 + 4 * n, x_scales[n], x_sums[n], y + n * 32)


cdef void codes_1_1(const uint8_t *codes, const int8_t *x, Py_ssize_t group_size,
                    const TileScales *t, const float *x_scales, const int32_t *x_sums,
                    float *y) noexcept nogil:
    block_group(codes, x, group_size, t, x_scales, x_sums, y, 1, 1, DEPTH)


cdef void codes_1_2(const uint8_t *codes, const int8_t *x, Py_ssize_t group_size,
                    const TileScales *t, const float *x_scales, const int32_t *x_sums,
                    float *y) noexcept nogil:
    block_group(codes, x, group_size, t, x_scales, x_sums, y, 1, 2, DEPTH)


cdef void codes_1_4(const uint8_t *codes, const int8_t *x, Py_ssize_t group_size,
                    const TileScales *t, const float *x_scales, const int32_t *x_sums,
                    float *y) noexcept nogil:
    block_group(codes, x, group_size, t, x_scales, x_sums, y, 1, 4, DEPTH)


cdef void codes_2_1(const uint8_t *codes, const int8_t *x, Py_ssize_t group_size,
                    const TileScales *t, const float *x_scales, const int32_t *x_sums,
                    float *y) noexcept nogil:
    block_group(codes, x, group_size, t, x_scales, x_sums, y, 2, 1, DEPTH)


cdef void codes_2_2(const uint8_t *codes, const int8_t *x, Py_ssize_t group_size,
                    const TileScales *t, const float *x_scales, const int32_t *x_sums,
                    float *y) noexcept nogil:
    block_group(codes, x, group_size, t, x_scales, x_sums, y, 2, 2, DEPTH)


cdef void small_codes_1_1(const uint8_t *codes, const int8_t *x, Py_ssize_t group_size,
                          const TileScales *t, const float *x_scales, const int32_t *x_sums,
                          float *y) noexcept nogil:
    block_group(codes, x, group_size, t, x_scales, x_sums, y, 1, 1, SMALL_DEPTH)


cdef void small_codes_1_2(const uint8_t *codes, const int8_t *x, Py_ssize_t group_size,
                          const TileScales *t, const float *x_scales, const int32_t *x_sums,
                          float *y) noexcept nogil:
    block_group(codes, x, group_size, t, x_scales, x_sums, y, 1, 2, SMALL_DEPTH)


cdef void small_codes_1_4(const uint8_t *codes, const int8_t *x, Py_ssize_t group_size,
                          const TileScales *t, const float *x_scales, const int32_t *x_sums,
                          float *y) noexcept nogil:
    block_group(codes, x, group_size, t, x_scales, x_sums, y, 1, 4, SMALL_DEPTH)


cdef void small_codes_2_1(const uint8_t *codes, const int8_t *x, Py_ssize_t group_size,
                          const TileScales *t, const float *x_scales, const int32_t *x_sums,
                          float *y) noexcept nogil:
    block_group(codes, x, group_size, t, x_scales, x_sums, y, 2, 1, SMALL_DEPTH)


cdef void small_codes_2_2(const uint8_t *codes, const int8_t *x, Py_ssize_t group_size,
                          const TileScales *t, const float *x_scales, const int32_t *x_sums,
                          float *y) noexcept nogil:
    block_group(codes, x, group_size, t, x_scales, x_sums, y, 2, 2, SMALL_DEPTH)


# By whether codes are small, number of planes, of rows. Those without a loop of their own take the
# next smaller one.
cdef FewLoop BLOCK_LOOPS[2][3][5]
BLOCK_LOOPS[0][1][1] = codes_1_1
BLOCK_LOOPS[0][1][2] = codes_1_2
BLOCK_LOOPS[0][1][4] = codes_1_4
BLOCK_LOOPS[0][2][1] = codes_2_1
BLOCK_LOOPS[0][2][2] = codes_2_2
BLOCK_LOOPS[1][1][1] = small_codes_1_1
BLOCK_LOOPS[1][1][2] = small_codes_1_2
BLOCK_LOOPS[1][1][4] = small_codes_1_4
BLOCK_LOOPS[1][2][1] = small_codes_2_1
BLOCK_LOOPS[1][2][2] = small_codes_2_2


cdef inline void plane_tiles(const Weights *w, const void *prepared, Py_ssize_t rows,
                                float *out, Py_ssize_t out_stride, void *scratch,
                                const Piece *piece, int planes) noexcept nogil:
    cdef Py_ssize_t size = w.group_size * planes
    cdef const int8_t *x = <const int8_t *>prepared
    cdef const float *x_scales = <const float *>(x + w.groups * rows * size)
    cdef const int32_t *x_sums = <const int32_t *>(x_scales + w.groups * rows)
    cdef uint8_t *codes = <uint8_t *>scratch
    cdef const uint8_t *packed
    cdef float *y = <float *>(codes + w.group_size * 32)
    cdef int32_t zero = common_zero(w)
    cdef TileScales t
    cdef Py_ssize_t first = piece.row_begin
    cdef Py_ssize_t count = piece.row_end - first
    cdef Py_ssize_t at_once = PLANES_AT_ONCE // planes
    cdef Py_ssize_t tile, group, row, at, now
    cdef int layout = SPECS[w.format].layout
    cdef bint small = layout != NIBBLES
    if layout == NIBBLES and count * planes <= INT4_GEMV_PLANES:
        int4_gemv_piece(w, prepared, rows, out, out_stride, y, piece, planes)
        return
    for tile in range(piece.tile_begin, piece.tile_end):
        memset(y, 0, count * 32 * sizeof(float))
        for group in range(w.groups):
            load_tile_scales(w, zero, tile, group, &t)
            at = group * rows + first
            packed = w.packed + (
                (tile * w.groups + group) * (w.group_size >> 3) * block_bytes(layout))
            widen_codes(w, packed, codes)
            row = 0
            while row < count:
                now = 4 if count - row >= 4 else 2 if count - row >= 2 else 1
                now = min(now, at_once)
                BLOCK_LOOPS[small][planes][now](
                    codes, x + (at + row) * size, w.group_size, &t, x_scales + at + row,
                    x_sums + at + row, y + row * 32)
                row += now
        store_tile(w, y, count, out + first * out_stride, out_stride, tile)


cdef void plane_multiply(const Weights *w, const void *prepared, Py_ssize_t rows, float *out,
                         Py_ssize_t out_stride, void *scratch, const Piece *piece,
                         int mode) noexcept nogil:
    if mode == ACTIVATIONS_INT8:
        plane_tiles(w, prepared, rows, out, out_stride, scratch, piece, 1)
    else:
        plane_tiles(w, prepared, rows, out, out_stride, scratch, piece, 2)
