# Rows of x by tiles of weights. A prepared buffer holds, in this order,
#   tables [group][row][group_size / 8][digit][2][16] bytes
#   scales float32, sums of |x| int32, sums of x int32, each [group][row]

cdef enum:
    BLOCK_OF_ROWS = 16            # rows of x that meet a tile in one go
    BLOCK_OF_TILES = 16           # tiles that meet them before the next kernel groups
    TABLE_CACHE = 16384           # bytes of tables that stay in L1 beside weights and y
    FETCH_AHEAD = 12288           # bytes of weights asked for ahead, into L2: L1 misses are few


cdef inline Py_ssize_t table_bytes(const Weights *w, int digits) noexcept nogil:
    # Of one row of x and kernel group.
    return w.group_size * 4 * digits


cdef inline Py_ssize_t lookup_prepared_bytes(const Weights *w, Py_ssize_t rows,
                                             int digits) noexcept nogil:
    return w.groups * rows * (table_bytes(w, digits) + 12)


cdef inline Py_ssize_t lookup_scratch_bytes(Py_ssize_t rows) noexcept nogil:
    # y of a block.
    return min(rows, <Py_ssize_t>BLOCK_OF_ROWS) * BLOCK_OF_TILES * 128


cdef inline bint round_group(const float *x, Py_ssize_t count, Py_ssize_t group_size,
                             int16_t *codes, float levels, float *scale, int32_t *absolute,
                             int32_t *total) noexcept nogil:
    # One row and kernel group of x, as binq.reference.quantize_activations.
    cdef float padded[256]
    cdef float inverse
    cdef Py_ssize_t k
    cdef __m256i codes_i16x16
    cdef __m256i ones_i16x16 = _mm256_set1_epi16(1)
    cdef __m256i totals_i32x8 = _mm256_setzero_si256()
    cdef __m256i absolutes_i32x8 = _mm256_setzero_si256()
    cdef __m256 inverse_f32x8
    if count < group_size:
        memset(padded, 0, sizeof(padded))
        memcpy(padded, x, count * sizeof(float))
        x = padded
    if not group_scale(x, group_size, levels, scale, &inverse):
        return False
    inverse_f32x8 = _mm256_set1_ps(inverse)
    for k in range(0, group_size, 16):
        codes_i16x16 = codes_of_16(x + k, inverse_f32x8, &totals_i32x8)
        absolutes_i32x8 = _mm256_add_epi32(absolutes_i32x8, _mm256_madd_epi16(
            _mm256_abs_epi16(codes_i16x16), ones_i16x16))
        _mm256_storeu_si256(<__m256i *>(codes + k), codes_i16x16)
    absolute[0] = sum_i32x8(absolutes_i32x8)
    total[0] = sum_i32x8(totals_i32x8)
    return True


cdef inline void lookup_prepare(const Weights *w, const float *x, Py_ssize_t x_stride,
                                Py_ssize_t rows, void *prepared, uint8_t *unfit,
                                Py_ssize_t row_begin, Py_ssize_t row_end,
                                int digits, float levels) noexcept nogil:
    cdef Py_ssize_t size = table_bytes(w, digits)
    cdef uint8_t *tables = <uint8_t *>prepared
    cdef float *scales = <float *>(tables + w.groups * rows * size)
    cdef int32_t *absolutes = <int32_t *>(scales + w.groups * rows)
    cdef int32_t *sums = absolutes + w.groups * rows
    cdef int16_t codes[256]
    cdef Py_ssize_t row, group, at, count
    cdef bint fits
    for row in range(row_begin, row_end):
        fits = True
        for group in range(w.groups):
            at = group * rows + row
            count = min(w.group_size, w.in_features - group * w.group_size)
            if not round_group(x + row * x_stride + group * w.group_size, count, w.group_size,
                               codes, levels, scales + at, absolutes + at, sums + at):
                fits = False
                break
            make_tables(codes, w.group_size, tables + at * size, digits)
        unfit[row] = not fits
        if not fits:
            for group in range(w.groups):
                at = group * rows + row
                memset(tables + at * size, 0, size)
                scales[at] = 0.0
                absolutes[at] = 0
                sums[at] = 0


cdef inline void lookup_tiles(const Weights *w, Py_ssize_t tile, Py_ssize_t group,
                              const uint8_t *ahead, const uint8_t *tables,
                              const float *x_scales, const int32_t *absolutes,
                              const int32_t *x_sums, float *y,
                              Py_ssize_t rows, int planes, int digits, int tiles) noexcept nogil:
    # One kernel group of one tile or two and `rows` rows of x, added to y [tile][row][32].
    cdef TileScales t[2]
    cdef Py_ssize_t row
    cdef Py_ssize_t blocks = w.group_size * planes >> 5
    cdef Py_ssize_t row_bytes = table_bytes(w, digits)
    cdef Py_ssize_t tile_stride = w.groups * blocks * 128
    cdef const uint8_t *packed = w.packed + tile * tile_stride + group * blocks * 128
    load_lookup_scales(w, tile, group, &t[0], planes)
    if tiles == 2:
        load_lookup_scales(w, tile + 1, group, &t[1], planes)
    if digits == 3:
        for row in range(rows):
            lookup_int16(packed, ahead, tile_stride, blocks, tables + row * row_bytes, t, x_scales[row],
                         absolutes[row], x_sums[row], y + row * 32, rows * 32, planes, tiles)
        return
    row = 0
    while row + 2 <= rows:
        lookup_int8(packed, ahead, tile_stride, blocks, tables + row * row_bytes, row_bytes, t,
                    x_scales + row, absolutes + row, x_sums + row, y + row * 32, rows * 32,
                    planes, 2, tiles)
        row += 2
    if row < rows:
        lookup_int8(packed, ahead, tile_stride, blocks, tables + row * row_bytes, row_bytes, t,
                    x_scales + row, absolutes + row, x_sums + row, y + row * 32, rows * 32,
                    planes, 1, tiles)


cdef inline void lookup_group(const Weights *w, Py_ssize_t tile, Py_ssize_t tiles,
                              Py_ssize_t group, const uint8_t *ahead, const uint8_t *tables,
                              const float *x_scales, const int32_t *absolutes,
                              const int32_t *x_sums, float *y,
                              Py_ssize_t rows, int planes, int digits) noexcept nogil:
    if tiles == 2:
        lookup_tiles(w, tile, group, ahead, tables, x_scales, absolutes, x_sums, y, rows, planes, digits,
                     2)
    else:
        lookup_tiles(w, tile, group, ahead, tables, x_scales, absolutes, x_sums, y, rows, planes, digits,
                     1)


cdef inline void lookup_multiply(const Weights *w, const void *prepared, Py_ssize_t rows,
                                 float *out, Py_ssize_t out_stride, void *scratch,
                                 Py_ssize_t tile_begin, Py_ssize_t tile_end,
                                 int planes, int digits) noexcept nogil:
    cdef Py_ssize_t size = table_bytes(w, digits)
    cdef const uint8_t *tables = <const uint8_t *>prepared
    cdef const float *x_scales = <const float *>(tables + w.groups * rows * size)
    cdef const int32_t *absolutes = <const int32_t *>(x_scales + w.groups * rows)
    cdef const int32_t *x_sums = absolutes + w.groups * rows
    cdef const uint8_t *ahead
    cdef float *y = <float *>scratch
    cdef Py_ssize_t group_bytes = w.group_size * planes * 4
    cdef Py_ssize_t row, tile, group, g, t, at, block, tiles, depth, end, ahead_t, ahead_g
    row = 0
    while row < rows:
        block = min(rows - row, <Py_ssize_t>BLOCK_OF_ROWS)
        # One row of x goes through memory once and straight on.
        depth = w.groups if rows == 1 else max(<Py_ssize_t>1, TABLE_CACHE // (size * block))
        tile = tile_begin
        while tile < tile_end:
            tiles = min(tile_end - tile, <Py_ssize_t>BLOCK_OF_TILES)
            memset(y, 0, tiles * block * 128)
            group = 0
            while group < w.groups:
                end = min(group + depth, w.groups)
                # Where the weights stand that come FETCH_AHEAD bytes later.
                ahead_g = FETCH_AHEAD // (2 * group_bytes)
                ahead_t = ahead_g // (end - group) * 2
                ahead_g = group + ahead_g % (end - group)
                for t in range(0, tiles, 2):
                    for g in range(group, end):
                        ahead = w.packed + (
                            (tile + ahead_t) * w.groups + ahead_g) * group_bytes
                        ahead_g += 1
                        if ahead_g == end:
                            ahead_g = group
                            ahead_t += 2
                        at = g * rows + row
                        lookup_group(w, tile + t, min(<Py_ssize_t>2, tiles - t), g, ahead,
                                     tables + at * size, x_scales + at, absolutes + at,
                                     x_sums + at, y + t * block * 32, block, planes, digits)
                group = end
            for t in range(tiles):
                store_tile(w, y + t * block * 32, block, out + row * out_stride, out_stride,
                           tile + t)
            tile += tiles
        row += block
