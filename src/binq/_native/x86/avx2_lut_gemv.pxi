# Rows of x by tiles of weights, two at once: one of either half of a piece, so that memory is read
# from two places that lie far apart. A prepared buffer holds, in this order,
#   tables [group][row][group_size / 8][digit][2][16] bytes
#   scales float32, sums of |x| int32, sums of x int32, each [group][row]

cdef enum:
    BLOCK_OF_ROWS = 16            # rows of x that multiply a tile in one go
    BLOCK_OF_TILES = 16           # tiles before the next kernel groups
    TABLE_CACHE = 16384           # bytes of tables that stay in L1 beside weights and y
    STREAMED = 65536              # bytes of a tile that few rows of x go through at a time
    STREAMED_ROWS = 4             # that are few


cdef inline Py_ssize_t table_bytes(const Weights *w, int digits) noexcept nogil:
    # Of one row of x and kernel group.
    return w.group_size * 4 * digits


cdef Py_ssize_t lut_gemv_prepared(const Weights *w, Py_ssize_t rows, int mode) noexcept nogil:
    return w.groups * rows * (table_bytes(w, 2 if mode == ACTIVATIONS_INT8 else 3) + 12)


cdef Py_ssize_t lut_gemv_scratch(const Weights *w, Py_ssize_t rows, int mode) noexcept nogil:
    # y of a block.
    return min(rows, <Py_ssize_t>BLOCK_OF_ROWS) * BLOCK_OF_TILES * 128


cdef inline void prepare_tables(const Weights *w, const float *x, Py_ssize_t x_stride,
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


cdef struct Stretch:
    # Kernel groups of one tile in a row, where its next group stands, and steps in bytes.
    const uint8_t *packed
    const char *scales
    const char *offsets           # NULL: none
    const uint8_t *zero_points    # NULL: none
    Py_ssize_t group_bytes
    Py_ssize_t scales_step        # to the scales of the next group: 0 where one serves the row
    Py_ssize_t tile_stride        # to the same group of the other tile
    Py_ssize_t scales_stride
    Py_ssize_t offsets_step
    Py_ssize_t offsets_stride
    Py_ssize_t zeros_step
    Py_ssize_t zeros_stride
    int scale_type
    int offset_type


cdef inline void start_stretch(Stretch *s, const Weights *w, Py_ssize_t tile, Py_ssize_t apart,
                               Py_ssize_t group, int planes) noexcept nogil:
    cdef Py_ssize_t scale_bytes = 32 * SCALE_SPECS[w.scale_type].bytes
    cdef Py_ssize_t scales, offset_bytes
    s.scale_type = w.scale_type
    s.group_bytes = w.group_size * planes * 4
    s.tile_stride = apart * w.groups * s.group_bytes
    s.scales_step = scale_bytes if w.scale_groups > 1 else 0
    s.scales_stride = apart * w.scale_groups * scale_bytes
    scales = tile * w.scale_groups * scale_bytes + group * s.scales_step
    s.packed = w.packed + (tile * w.groups + group) * s.group_bytes
    s.scales = <const char *>w.scales + scales
    s.offsets = NULL
    if w.zero == ZERO_OFFSET:
        offset_bytes = 32 * SCALE_SPECS[w.offset_type].bytes
        s.offset_type = w.offset_type
        s.offsets_step = offset_bytes if w.scale_groups > 1 else 0
        s.offsets_stride = apart * w.scale_groups * offset_bytes
        s.offsets = (<const char *>w.offsets + tile * w.scale_groups * offset_bytes
                     + group * s.offsets_step)
    s.zero_points = NULL
    if w.zero == ZERO_CODE:
        s.zeros_step = 16 if w.scale_groups > 1 else 0
        s.zeros_stride = apart * w.scale_groups * 16
        s.zero_points = w.zero_points + tile * w.scale_groups * 16 + group * s.zeros_step


cdef inline void load_stretch_scales(const Stretch *s, int tile, TileScales *t) noexcept nogil:
    load_vectors(s.scales + tile * s.scales_stride, s.scale_type, t.scales_f32x8)
    t.has_offsets = s.offsets != NULL
    if t.has_offsets:
        load_vectors(s.offsets + tile * s.offsets_stride, s.offset_type, t.offsets_f32x8)
    t.same_zero = s.zero_points == NULL
    if not t.same_zero:
        load_zero_nibbles(s.zero_points + tile * s.zeros_stride, t.zeros_i32x8)


cdef inline void lut_gemv_tiles(const Stretch *s, Py_ssize_t blocks,
                              const uint8_t *tables, Py_ssize_t row_bytes,
                              const float *x_scales, const int32_t *absolutes,
                              const int32_t *x_sums, float *y, Py_ssize_t rows, int planes,
                              int digits, int tiles) noexcept nogil:
    # One kernel group of one tile or two and `rows` rows of x, added to y [tile][row][32].
    cdef TileScales t[2]
    cdef Py_ssize_t row
    load_stretch_scales(s, 0, &t[0])
    if tiles == 2:
        load_stretch_scales(s, 1, &t[1])
    if digits == 3:
        for row in range(rows):
            lut_gemv_int16(s.packed, s.tile_stride, blocks, tables + row * row_bytes, t,
                         x_scales[row], absolutes[row], x_sums[row], y + row * 32, rows * 32,
                         planes, tiles)
        return
    row = 0
    while row + 2 <= rows:
        lut_gemv_int8(s.packed, s.tile_stride, blocks, tables + row * row_bytes, row_bytes,
                      t,
                    x_scales + row, absolutes + row, x_sums + row, y + row * 32, rows * 32,
                    planes, 2, tiles)
        row += 2
    if row < rows:
        lut_gemv_int8(s.packed, s.tile_stride, blocks, tables + row * row_bytes, row_bytes,
                      t,
                    x_scales + row, absolutes + row, x_sums + row, y + row * 32, rows * 32,
                    planes, 1, tiles)


cdef inline void lut_gemv_stretch(Stretch s, Py_ssize_t groups,
                                const uint8_t *tables, Py_ssize_t size, Py_ssize_t tables_step,
                                const float *x_scales, const int32_t *absolutes,
                                const int32_t *x_sums, Py_ssize_t step, float *y, Py_ssize_t rows,
                                int planes, int digits, int tiles) noexcept nogil:
    # `groups` kernel groups of one tile or two.
    cdef Py_ssize_t g
    cdef Py_ssize_t blocks = s.group_bytes >> 7
    for g in range(groups):
        _mm_prefetch(s.scales + PREFETCH_SCALES, _MM_HINT_T0)
        if tiles == 2:
            _mm_prefetch(s.scales + s.scales_stride + PREFETCH_SCALES, _MM_HINT_T0)
        lut_gemv_tiles(&s, blocks, tables, size, x_scales, absolutes, x_sums, y, rows,
                     planes, digits, tiles)
        s.packed += s.group_bytes
        s.scales += s.scales_step
        if s.offsets != NULL:
            s.offsets += s.offsets_step
        tables += tables_step
        x_scales += step
        absolutes += step
        x_sums += step


cdef inline void lut_gemv_piece(const Weights *w, const void *prepared, Py_ssize_t rows,
                                 float *out, Py_ssize_t out_stride, void *scratch,
                                 const Piece *piece,
                                 int planes, int digits) noexcept nogil:
    cdef Py_ssize_t size = table_bytes(w, digits)
    cdef const uint8_t *tables = <const uint8_t *>prepared
    cdef const float *x_scales = <const float *>(tables + w.groups * rows * size)
    cdef const int32_t *absolutes = <const int32_t *>(x_scales + w.groups * rows)
    cdef const int32_t *x_sums = absolutes + w.groups * rows
    cdef float *y = <float *>scratch
    cdef Stretch s
    cdef Py_ssize_t half = (piece.tile_end - piece.tile_begin + 1) // 2
    cdef Py_ssize_t row, tile, group, t, at, block, pairs, depth, groups
    row = piece.row_begin
    while row < piece.row_end:
        block = min(piece.row_end - row, <Py_ssize_t>BLOCK_OF_ROWS)
        # Few rows of x go through memory once and straight on.
        depth = (STREAMED // (w.group_size * planes * 4) if block <= STREAMED_ROWS
                 else max(<Py_ssize_t>1, TABLE_CACHE // (size * block)))
        tile = piece.tile_begin
        while tile < piece.tile_begin + half:
            pairs = min(piece.tile_begin + half - tile, <Py_ssize_t>(BLOCK_OF_TILES // 2))
            memset(y, 0, pairs * 2 * block * 128)
            group = 0
            while group < w.groups:
                groups = min(depth, w.groups - group)
                at = group * rows + row
                for t in range(pairs):
                    start_stretch(&s, w, tile + t, half, group, planes)
                    if tile + t + half >= piece.tile_end:
                        lut_gemv_stretch(s, groups, tables + at * size, size, rows * size,
                                       x_scales + at, absolutes + at, x_sums + at, rows,
                                       y + t * 2 * block * 32, block, planes, digits, 1)
                    elif rows == 1:
                        # Of its own: a loop over one row would cost a twentieth.
                        lut_gemv_stretch(s, groups, tables + at * size, size, size,
                                       x_scales + at, absolutes + at, x_sums + at, 1,
                                       y + t * 64, 1, planes, digits, 2)
                    else:
                        lut_gemv_stretch(s, groups, tables + at * size, size, rows * size,
                                       x_scales + at, absolutes + at, x_sums + at, rows,
                                       y + t * 2 * block * 32, block, planes, digits, 2)
                group += groups
            for t in range(pairs):
                store_tile(w, y + t * 2 * block * 32, block, out + row * out_stride, out_stride,
                           tile + t)
                if tile + t + half < piece.tile_end:
                    store_tile(w, y + (t * 2 + 1) * block * 32, block, out + row * out_stride,
                               out_stride, tile + t + half)
            tile += pairs
        row += block


cdef void lut_gemv_prepare(const Weights *w, const float *x, Py_ssize_t x_stride, Py_ssize_t rows,
                           void *prepared, uint8_t *unfit, Py_ssize_t row_begin,
                           Py_ssize_t row_end, int mode) noexcept nogil:
    cdef float levels = SPECS[w.format].activation_levels[mode]
    if mode == ACTIVATIONS_INT8:
        prepare_tables(w, x, x_stride, rows, prepared, unfit, row_begin, row_end, 2, levels)
    else:
        prepare_tables(w, x, x_stride, rows, prepared, unfit, row_begin, row_end, 3, levels)


cdef void lut_gemv_multiply(const Weights *w, const void *prepared, Py_ssize_t rows, float *out,
                            Py_ssize_t out_stride, void *scratch, const Piece *piece,
                            int mode) noexcept nogil:
    # A loop of its own for each number of planes and digits.
    if SPECS[w.format].layout == ONE_PLANE and mode == ACTIVATIONS_INT8:
        lut_gemv_piece(w, prepared, rows, out, out_stride, scratch, piece, 1, 2)
    elif SPECS[w.format].layout == ONE_PLANE:
        lut_gemv_piece(w, prepared, rows, out, out_stride, scratch, piece, 1, 3)
    elif mode == ACTIVATIONS_INT8:
        lut_gemv_piece(w, prepared, rows, out, out_stride, scratch, piece, 2, 2)
    else:
        lut_gemv_piece(w, prepared, rows, out, out_stride, scratch, piece, 2, 3)
