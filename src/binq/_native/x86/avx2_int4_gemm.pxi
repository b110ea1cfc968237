# Integer products of codes up to 15 and many rows of x: a tile of weights is unpacked into
# L1 once (avx2_code_tile.pxi) and met by four planes of x at a time, 16 columns of weights by 4
# planes in 8 accumulators.
#
# maddubs adds pairs of products into int16, and eight such pairs add up there before they are
# widened: 8 * 2 * 15 * 128 = 30720 < 32768.

cdef enum:
    PLANES_AT_ONCE = 4
    DEPTH = 8                 # quads of k before int16 sums are widened


cdef Py_ssize_t plane_scratch(const Weights *w, Py_ssize_t rows, int mode) noexcept nogil:
    # The codes of a tile and y of all rows, of two tiles where they are few.
    return w.group_size * 32 + max(rows * 128, min(rows, <Py_ssize_t>INT4_GEMV_PLANES) * 256)


cdef inline void block_dots(const uint8_t *codes, const int8_t *x, Py_ssize_t group_size,
                            __m256i *sums_i32x8, int planes) noexcept nogil:
    # sums[2 p + h] = 8 columns at codes + 32 h . plane p.
    cdef Py_ssize_t quad, begin, end
    cdef Py_ssize_t quads = group_size >> 2
    cdef int p
    cdef int32_t four
    cdef __m256i first_u8x32, second_u8x32, x_s8x32
    cdef __m256i part_i16x16[2 * PLANES_AT_ONCE]
    cdef __m256i ones_i16x16 = _mm256_set1_epi16(1)
    for p in range(2 * planes):
        sums_i32x8[p] = _mm256_setzero_si256()
    begin = 0
    while begin < quads:
        end = min(begin + DEPTH, quads)
        for p in range(2 * planes):
            part_i16x16[p] = _mm256_setzero_si256()
        for quad in range(begin, end):
            first_u8x32 = _mm256_loadu_si256(<const __m256i *>(codes + quad * 128))
            second_u8x32 = _mm256_loadu_si256(<const __m256i *>(codes + quad * 128 + 32))
            for p in range(planes):
                memcpy(&four, x + p * group_size + quad * 4, 4)
                x_s8x32 = _mm256_set1_epi32(four)
                part_i16x16[2 * p] = _mm256_add_epi16(
                    part_i16x16[2 * p], _mm256_maddubs_epi16(first_u8x32, x_s8x32))
                part_i16x16[2 * p + 1] = _mm256_add_epi16(
                    part_i16x16[2 * p + 1], _mm256_maddubs_epi16(second_u8x32, x_s8x32))
        for p in range(2 * planes):
            sums_i32x8[p] = _mm256_add_epi32(
                sums_i32x8[p], _mm256_madd_epi16(part_i16x16[p], ones_i16x16))
        begin = end


cdef inline void block_group(const uint8_t *codes, const int8_t *x, Py_ssize_t group_size,
                             const TileScales *t, const float *x_scales, const int32_t *x_sums,
                             float *y, int planes, int rows) noexcept nogil:
    # One kernel group of `rows` rows of x and 32 columns, added to y [row][32].
    cdef __m256i sums_i32x8[2 * PLANES_AT_ONCE]
    cdef __m256i sum_i32x8
    cdef int half, n, h
    for half in range(2):
        block_dots(codes + half * 64, x, group_size, sums_i32x8, rows * planes)
        for n in range(rows):
            for h in range(2):
                sum_i32x8 = sums_i32x8[2 * n * planes + h]
                if planes == 2:
                    sum_i32x8 = _mm256_add_epi32(
                        _mm256_slli_epi32(sum_i32x8, 8), sums_i32x8[4 * n + 2 + h])
                add_columns(t, half * 2 + h, sum_i32x8, x_scales[n], x_sums[n],
                            y + n * 32 + half * 16 + h * 8)


cdef inline Py_ssize_t block_rows(const uint8_t *codes, const int8_t *x, Py_ssize_t group_size,
                                  const TileScales *t, const float *x_scales,
                                  const int32_t *x_sums, float *y, int planes,
                                  Py_ssize_t rows) noexcept nogil:
    # Takes as many rows as make a block and returns how many those were. Each shape is written out,
    # so that it compiles to a loop of its own with its accumulators in registers.
    if planes == 1:
        if rows >= 4:
            block_group(codes, x, group_size, t, x_scales, x_sums, y, 1, 4)
            return 4
        if rows >= 2:
            block_group(codes, x, group_size, t, x_scales, x_sums, y, 1, 2)
            return 2
        block_group(codes, x, group_size, t, x_scales, x_sums, y, 1, 1)
        return 1
    if rows >= 2:
        block_group(codes, x, group_size, t, x_scales, x_sums, y, 2, 2)
        return 2
    block_group(codes, x, group_size, t, x_scales, x_sums, y, 2, 1)
    return 1


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
    cdef Py_ssize_t tile, group, row, at
    cdef int layout = SPECS[w.format].layout
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
                row += block_rows(codes, x + (at + row) * size, w.group_size, &t,
                                  x_scales + at + row,
                                  x_sums + at + row, y + row * 32, planes, count - row)
        store_tile(w, y, count, out + first * out_stride, out_stride, tile)


cdef void plane_multiply(const Weights *w, const void *prepared, Py_ssize_t rows, float *out,
                         Py_ssize_t out_stride, void *scratch, const Piece *piece,
                         int mode) noexcept nogil:
    # A loop of its own for each number of planes.
    if mode == ACTIVATIONS_INT8:
        plane_tiles(w, prepared, rows, out, out_stride, scratch, piece, 1)
    else:
        plane_tiles(w, prepared, rows, out, out_stride, scratch, piece, 2)
