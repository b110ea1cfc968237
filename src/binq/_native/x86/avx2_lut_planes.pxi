# Few rows of x by codes of two or three planes, plane p counting 2^p, by the tables of
# avx2_lut_tables.pxi: as T-MAC does it, one plane after the other, each looked up as binary
# weights are. With A = sum of |x|, S = sum of x and N = (A - S) / 2, what the tables are raised by,
# a plane of bits b makes
#   sum of b x = looked up - N
# and codes that are too large by z the sum of 2^p (looked up by plane p) - (2^planes - 1) N - z S.
#
# What is looked up by one plane is at most A: of int8 activations 256 * 127 = 32512, which 16 bits
# hold; of int16 ones it is counted from -32768 in 8 blocks at most, as that of binary. Times 7 it
# is below 2^27.

cdef inline void look_up_plane(const uint8_t *packed, Py_ssize_t stride, Py_ssize_t tile_stride,
                               const uint8_t *asked, Py_ssize_t blocks, const uint8_t *tables,
                               Looker *a, Looker *b, int digits, int tiles) noexcept nogil:
    # Blocks of 8 look-ups, 32 k: four vectors of one plane, `stride` bytes apart.
    cdef Py_ssize_t block
    cdef int step = 32 * digits   # bytes of tables for 8 k
    for block in range(blocks):
        ask_block(asked + block * 128)
        start_digits(a)
        if tiles == 2:
            ask_block(asked + tile_stride + block * 128)
            start_digits(b)
        look_up_vector(packed, tile_stride, tables, 0, a, b, NULL, NULL, digits, 1, tiles)
        look_up_vector(packed + stride, tile_stride, tables + step, 0, a, b, NULL, NULL, digits, 1,
                       tiles)
        look_up_vector(packed + 2 * stride, tile_stride, tables + 2 * step, 0, a, b, NULL, NULL,
                       digits, 1, tiles)
        look_up_vector(packed + 3 * stride, tile_stride, tables + 3 * step, 0, a, b, NULL, NULL,
                       digits, 1, tiles)
        packed += 4 * stride
        tables += 4 * step
        widen_digits(a, digits)
        if tiles == 2:
            widen_digits(b, digits)


cdef inline void add_plane(const Looker *looker, __m256i *totals_i32x8, int plane,
                           int digits) noexcept nogil:
    # To totals of 32 columns: in order (int8), or as flush_sums has them (int16).
    cdef __m256i parts_i32x8[4]
    cdef int i
    if digits == 2:
        for i in range(2):
            parts_i32x8[i] = _mm256_cvtepu16_epi32(
                _mm256_castsi256_si128(looker.sums_i16x16[i]))
            parts_i32x8[2 + i] = _mm256_cvtepu16_epi32(
                _mm256_extracti128_si256(looker.sums_i16x16[i], 1))
    else:
        start_totals(parts_i32x8)
        flush_sums(looker, parts_i32x8)
    for i in range(4):
        totals_i32x8[i] = _mm256_add_epi32(
            totals_i32x8[i], _mm256_slli_epi32(parts_i32x8[i], plane))


cdef inline void add_totals(const __m256i *totals_i32x8, int32_t excess, const TileScales *t,
                            float x_scale, int32_t x_sum, float *y, int digits) noexcept nogil:
    cdef __m256i excess_i32x8 = _mm256_set1_epi32(excess)
    cdef __m256i columns_i32x8[4]
    cdef int i
    for i in range(2):
        if digits == 2:
            columns_i32x8[i] = totals_i32x8[i]
            columns_i32x8[2 + i] = totals_i32x8[2 + i]
        else:
            columns_i32x8[i] = _mm256_permute2x128_si256(
                totals_i32x8[2 * i], totals_i32x8[2 * i + 1], 0x20)
            columns_i32x8[2 + i] = _mm256_permute2x128_si256(
                totals_i32x8[2 * i], totals_i32x8[2 * i + 1], 0x31)
    for i in range(4):
        columns_i32x8[i] = _mm256_sub_epi32(columns_i32x8[i], excess_i32x8)
        if t.same_zero:
            add_sums(t, i, columns_i32x8[i], x_scale, x_sum, y + 8 * i)
        else:
            add_columns(t, i, columns_i32x8[i], x_scale, x_sum, y + 8 * i)


cdef inline void lut_planes_group(const Stretch *s, const uint8_t *tables, int32_t excess,
                                  const TileScales *t, float x_scale, int32_t x_sum, float *y,
                                  Py_ssize_t y_stride, int planes, int digits,
                                  int tiles) noexcept nogil:
    # One kernel group of one tile or two and one row of x, added to y [tile][32].
    cdef Looker a, b
    cdef __m256i a_totals_i32x8[4]
    cdef __m256i b_totals_i32x8[4]
    cdef Py_ssize_t blocks = s.group_bytes // (128 * planes)
    cdef int p
    start_totals(a_totals_i32x8)
    start_totals(b_totals_i32x8)
    for p in range(planes):
        start_sums(&a, digits)
        start_sums(&b, digits)
        look_up_plane(s.packed + 32 * p, 32 * planes, s.tile_stride,
                      s.packed + p * blocks * 128, blocks, tables, &a, &b, digits, tiles)
        add_plane(&a, a_totals_i32x8, p, digits)
        if tiles == 2:
            add_plane(&b, b_totals_i32x8, p, digits)
    add_totals(a_totals_i32x8, excess, t, x_scale, x_sum, y, digits)
    if tiles == 2:
        add_totals(b_totals_i32x8, excess, t + 1, x_scale, x_sum, y + y_stride, digits)


cdef inline void lut_planes_tiles(Stretch s, const Weights *w, Py_ssize_t rows, Py_ssize_t first,
                                  Py_ssize_t count, const void *prepared, float *y, int planes,
                                  int digits, int tiles) noexcept nogil:
    # All groups of one tile or two and `count` rows of x from `first` on, added to y
    # [tile][row][32].
    cdef Py_ssize_t size = table_bytes(w, digits)
    cdef const uint8_t *tables = <const uint8_t *>prepared
    cdef const float *x_scales = <const float *>(tables + w.groups * rows * size)
    cdef const int32_t *absolutes = <const int32_t *>(x_scales + w.groups * rows)
    cdef const int32_t *x_sums = absolutes + w.groups * rows
    cdef int32_t zero = common_zero(w)
    cdef int32_t most = (1 << planes) - 1
    # int16 sums of each plane have counted from -32768.
    cdef int32_t start = -32768 * most if digits == 3 else 0
    cdef TileScales t[2]
    cdef Py_ssize_t group, row, at
    for group in range(w.groups):
        _mm_prefetch(s.scales + PREFETCH_SCALES, _MM_HINT_T0)
        load_stretch_scales(&s, 0, &t[0])
        if tiles == 2:
            _mm_prefetch(s.scales + s.scales_stride + PREFETCH_SCALES, _MM_HINT_T0)
            load_stretch_scales(&s, 1, &t[1])
        for row in range(count):
            at = group * rows + first + row
            lut_planes_group(
                &s, tables + at * size,
                start + most * ((absolutes[at] - x_sums[at]) >> 1) + zero * x_sums[at], t,
                x_scales[at], x_sums[at], y + row * 32, count * 32, planes, digits, tiles)
        s.packed += s.group_bytes
        s.scales += s.scales_step
        if s.offsets != NULL:
            s.offsets += s.offsets_step
        if s.zero_points != NULL:
            s.zero_points += s.zeros_step


cdef inline void lut_planes_piece(const Weights *w, const void *prepared, Py_ssize_t rows,
                                  float *out, Py_ssize_t out_stride, void *scratch,
                                  const Piece *piece, int planes, int digits) noexcept nogil:
    # Two tiles at a time, of either half of the piece: memory is read in two places at once.
    cdef float *y = <float *>scratch
    cdef Stretch s
    cdef Py_ssize_t half = (piece.tile_end - piece.tile_begin + 1) // 2
    cdef Py_ssize_t row, tile, count
    row = piece.row_begin
    while row < piece.row_end:
        count = min(piece.row_end - row, <Py_ssize_t>BLOCK_OF_ROWS)
        for tile in range(piece.tile_begin, piece.tile_begin + half):
            memset(y, 0, 2 * count * 128)
            start_stretch(&s, w, tile, half, 0, planes)
            if tile + half < piece.tile_end:
                lut_planes_tiles(s, w, rows, row, count, prepared, y, planes, digits, 2)
                store_tile(w, y + count * 32, count, out + row * out_stride, out_stride,
                           tile + half)
            else:
                lut_planes_tiles(s, w, rows, row, count, prepared, y, planes, digits, 1)
            store_tile(w, y, count, out + row * out_stride, out_stride, tile)
        row += count


cdef void lut_planes_multiply(const Weights *w, const void *prepared, Py_ssize_t rows, float *out,
                              Py_ssize_t out_stride, void *scratch, const Piece *piece,
                              int mode) noexcept nogil:
    # A loop of its own for each number of planes and digits.
    cdef bint three = SPECS[w.format].layout == THREE_PLANES
    if three and mode == ACTIVATIONS_INT8:
        lut_planes_piece(w, prepared, rows, out, out_stride, scratch, piece, 3, 2)
    elif three:
        lut_planes_piece(w, prepared, rows, out, out_stride, scratch, piece, 3, 3)
    elif mode == ACTIVATIONS_INT8:
        lut_planes_piece(w, prepared, rows, out, out_stride, scratch, piece, 2, 2)
    else:
        lut_planes_piece(w, prepared, rows, out, out_stride, scratch, piece, 2, 3)
