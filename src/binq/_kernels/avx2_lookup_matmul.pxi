# Rows of x by tiles of weights. A prepared buffer holds, in this order,
#   tables [group][row][group_size / 8][digit][2][16] bytes where there are few rows, or else
#   codes int16 [group][row][group_size], of which multiply makes tables when it needs them;
#   scales float32, sums of |x| int32, sums of x int32, each [group][row].

cdef enum:
    TABLE_ROWS = 64               # up to so many rows of x are prepared as tables
    BLOCK_OF_ROWS = 16            # rows of x that meet a tile in one go
    BLOCK_OF_TILES = 16           # tiles that meet them before the next kernel group
    TABLE_CACHE = 16384           # bytes of tables that stay in L1 beside weights and y


cdef inline Py_ssize_t cell_bytes(const Weights *w, Py_ssize_t rows, int digits) noexcept nogil:
    return w.group_size * (4 * digits if rows <= TABLE_ROWS else 2)


cdef inline Py_ssize_t lookup_prepared_bytes(const Weights *w, Py_ssize_t rows,
                                             int digits) noexcept nogil:
    return w.groups * rows * (cell_bytes(w, rows, digits) + 12)


cdef inline Py_ssize_t lookup_scratch_bytes(const Weights *w, Py_ssize_t rows,
                                            int digits) noexcept nogil:
    # y of a block, and tables of one kernel group.
    cdef Py_ssize_t block = min(rows, <Py_ssize_t>BLOCK_OF_ROWS)
    return block * (BLOCK_OF_TILES * 128 + w.group_size * 4 * digits)


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
    cdef Py_ssize_t size = cell_bytes(w, rows, digits)
    cdef char *cells = <char *>prepared
    cdef float *scales = <float *>(cells + w.groups * rows * size)
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
            if rows <= TABLE_ROWS:
                make_tables(codes, w.group_size, <uint8_t *>(cells + at * size), digits)
            else:
                memcpy(cells + at * size, codes, size)
        unfit[row] = not fits
        if not fits:
            for group in range(w.groups):
                at = group * rows + row
                memset(cells + at * size, 0, size)
                scales[at] = 0.0
                absolutes[at] = 0
                sums[at] = 0


cdef inline void lookup_tiles(const Weights *w, Py_ssize_t tile, Py_ssize_t group,
                              const uint8_t *tables, const float *x_scales,
                              const int32_t *absolutes, const int32_t *x_sums, float *y,
                              Py_ssize_t rows, int planes, int digits, int tiles) noexcept nogil:
    # One kernel group of one tile or two and `rows` rows of x, added to y [tile][row][32].
    cdef TileScales t[2]
    cdef Py_ssize_t row
    cdef Py_ssize_t blocks = w.group_size * planes >> 5
    cdef Py_ssize_t row_bytes = w.group_size * 4 * digits
    cdef Py_ssize_t tile_stride = w.groups * blocks * 128
    cdef const uint8_t *packed = w.packed + tile * tile_stride + group * blocks * 128
    load_lookup_scales(w, tile, group, &t[0], planes)
    if tiles == 2:
        load_lookup_scales(w, tile + 1, group, &t[1], planes)
    if digits == 3:
        for row in range(rows):
            lookup_int16(packed, tile_stride, blocks, tables + row * row_bytes, t, x_scales[row],
                         absolutes[row], x_sums[row], y + row * 32, rows * 32, planes, tiles)
        return
    row = 0
    while row + 2 <= rows:
        lookup_int8(packed, tile_stride, blocks, tables + row * row_bytes, row_bytes, t,
                    x_scales + row, absolutes + row, x_sums + row, y + row * 32, rows * 32,
                    planes, 2, tiles)
        row += 2
    if row < rows:
        lookup_int8(packed, tile_stride, blocks, tables + row * row_bytes, row_bytes, t,
                    x_scales + row, absolutes + row, x_sums + row, y + row * 32, rows * 32,
                    planes, 1, tiles)


cdef inline void lookup_group(const Weights *w, Py_ssize_t tile, Py_ssize_t tiles,
                              Py_ssize_t group, const uint8_t *tables, const float *x_scales,
                              const int32_t *absolutes, const int32_t *x_sums, float *y,
                              Py_ssize_t rows, int planes, int digits) noexcept nogil:
    if tiles == 2:
        lookup_tiles(w, tile, group, tables, x_scales, absolutes, x_sums, y, rows, planes, digits,
                     2)
    else:
        lookup_tiles(w, tile, group, tables, x_scales, absolutes, x_sums, y, rows, planes, digits,
                     1)


cdef inline void lookup_multiply(const Weights *w, const void *prepared, Py_ssize_t rows,
                                 float *out, Py_ssize_t out_stride, void *scratch,
                                 Py_ssize_t tile_begin, Py_ssize_t tile_end,
                                 int planes, int digits) noexcept nogil:
    cdef Py_ssize_t size = cell_bytes(w, rows, digits)
    cdef Py_ssize_t table_bytes = w.group_size * 4 * digits
    cdef const char *cells = <const char *>prepared
    cdef const float *x_scales = <const float *>(cells + w.groups * rows * size)
    cdef const int32_t *absolutes = <const int32_t *>(x_scales + w.groups * rows)
    cdef const int32_t *x_sums = absolutes + w.groups * rows
    cdef float *y = <float *>scratch
    cdef uint8_t *made = <uint8_t *>scratch + min(rows, <Py_ssize_t>BLOCK_OF_ROWS) * BLOCK_OF_TILES * 128
    cdef const uint8_t *tables
    cdef Py_ssize_t row, tile, group, g, n, t, at, block, tiles, depth, groups
    row = 0
    while row < rows:
        block = min(rows - row, <Py_ssize_t>BLOCK_OF_ROWS)
        depth = 1
        if rows == 1:
            depth = w.groups      # in one go through memory
        elif rows <= TABLE_ROWS:
            depth = max(<Py_ssize_t>1, TABLE_CACHE // (table_bytes * block))
        tile = tile_begin
        while tile < tile_end:
            tiles = min(tile_end - tile, <Py_ssize_t>BLOCK_OF_TILES)
            memset(y, 0, tiles * block * 128)
            group = 0
            while group < w.groups:
                groups = min(depth, w.groups - group)
                if rows > TABLE_ROWS:
                    for n in range(block):
                        make_tables(<const int16_t *>(cells + (group * rows + row + n) * size),
                                    w.group_size, made + n * table_bytes, digits)
                for t in range(0, tiles, 2):
                    for g in range(group, group + groups):
                        at = g * rows + row
                        tables = made
                        if rows <= TABLE_ROWS:
                            tables = <const uint8_t *>cells + at * size
                        lookup_group(w, tile + t, min(<Py_ssize_t>2, tiles - t), g, tables,
                                     x_scales + at, absolutes + at, x_sums + at,
                                     y + t * block * 32, block, planes, digits)
                group += groups
            for t in range(tiles):
                store_tile(w, y + t * block * 32, block, out + row * out_stride, out_stride,
                           tile + t)
            tile += tiles
        row += block
