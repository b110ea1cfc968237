# Products on AVX-512 VNNI: unsigned codes of weights times the signed bytes of activations.pxi, in
# int32, a block of rows of x at a time (avx512_nibbles.pxi, avx512_planes.pxi, avx512_bytes.pxi).
# What a code is too large by is the same for all k of a group and is taken off once, times the sum
# of the activations:
#   ternary  a + b   less 1        int4            nibble  less its zero point (8 where symmetric)
#   int2     a + 2 b less 2        looked-up level + 128   less 128
#   int8     byte, less its zero point (128 where symmetric)

cdef enum:
    PAIRED_ROWS = 8               # at most: then weights are read from two places at once


cdef Py_ssize_t plane_scratch(const Weights *w, Py_ssize_t rows, int mode) noexcept nogil:
    # y of all rows, of two tiles where they are few.
    return max(rows * 128, min(rows, <Py_ssize_t>PAIRED_ROWS) * 256)


cdef struct WideScales:
    # What one tile and kernel group adds to y: what its codes are too large by, and scales.
    bint same_zero                # of all rows: zero, else zeros
    int32_t zero
    __m512i zeros_i32x16[2]
    __m512 scales_f32x16[2]
    bint has_offsets
    __m512 offsets_f32x16[2]


cdef inline void load_wide_scales(const Weights *w, Py_ssize_t tile, Py_ssize_t group,
                                  WideScales *t) noexcept nogil:
    cdef __m512i nibbles_i32x16
    cdef const __m128i *bytes_u8x16
    load_32_scales(<const char *>w.scales + scales_at(w, tile, group), w.scale_type,
                   t.scales_f32x16)
    t.has_offsets = w.zero == ZERO_OFFSET
    if t.has_offsets:
        load_32_scales(<const char *>w.offsets + offsets_at(w, tile, group), w.offset_type,
                       t.offsets_f32x16)
    t.same_zero = w.zero != ZERO_CODE
    if t.same_zero:
        return
    if SPECS[w.format].layout == BYTES:
        bytes_u8x16 = <const __m128i *>(w.zero_points + scale_block(w, tile, group) * 32)
        t.zeros_i32x16[0] = _mm512_cvtepu8_epi32(_mm_loadu_si128(bytes_u8x16))
        t.zeros_i32x16[1] = _mm512_cvtepu8_epi32(_mm_loadu_si128(bytes_u8x16 + 1))
    else:
        nibbles_i32x16 = _mm512_cvtepu8_epi32(_mm_loadu_si128(
            <const __m128i *>(w.zero_points + scale_block(w, tile, group) * 16)))
        t.zeros_i32x16[0] = _mm512_and_si512(nibbles_i32x16, _mm512_set1_epi32(15))
        t.zeros_i32x16[1] = _mm512_srli_epi32(nibbles_i32x16, 4)


cdef inline void add_row(const WideScales *t, const __m512i *sums_i32x16, int planes,
                         float x_scale, int32_t x_sum, float *y) noexcept nogil:
    # y += sum * (w_scale * x_scale), each operation rounded by itself, for one row of x.
    cdef int h
    cdef __m512i sum_i32x16
    cdef __m512 y_f32x16
    cdef __m512 x_scale_f32x16 = _mm512_set1_ps(x_scale)
    for h in range(2):
        sum_i32x16 = sums_i32x16[h]
        if planes == 2:
            sum_i32x16 = _mm512_add_epi32(_mm512_slli_epi32(sum_i32x16, 8), sums_i32x16[2 + h])
        if not t.same_zero:
            sum_i32x16 = _mm512_sub_epi32(sum_i32x16, _mm512_mullo_epi32(
                t.zeros_i32x16[h], _mm512_set1_epi32(x_sum)))
        y_f32x16 = _mm512_add_ps(
            _mm512_loadu_ps(y + h * 16),
            _mm512_mul_ps(_mm512_cvtepi32_ps(sum_i32x16),
                          _mm512_mul_ps(t.scales_f32x16[h], x_scale_f32x16)))
        if t.has_offsets:
            y_f32x16 = _mm512_add_ps(y_f32x16, _mm512_mul_ps(
                _mm512_set1_ps(<float>x_sum),
                _mm512_mul_ps(t.offsets_f32x16[h], x_scale_f32x16)))
        _mm512_storeu_ps(y + h * 16, y_f32x16)


cdef inline void plane_block(const Weights *w, const uint8_t *packed, const int8_t *x,
                             const WideScales *t, const float *x_scales, const int32_t *x_sums,
                             float *y, int layout, int planes, int rows) noexcept nogil:
    # One kernel group of `rows` rows of x and 32 columns, added to y [row][32].
    cdef __m512i sums_i32x16[16]
    cdef int32_t starts[8]
    cdef int n
    for n in range(rows):
        # Of two planes the first is the high bytes.
        starts[n * planes] = 0
        starts[n * planes + planes - 1] = -t.zero * x_sums[n] if t.same_zero else 0
    if layout == BYTES:
        byte_dots(packed, x, w.group_size, starts, sums_i32x16, rows * planes)
    elif LAYOUTS[layout].row_bytes > 1:
        nibble_dots(w, packed, x, starts, sums_i32x16, layout, rows * planes)
    else:
        plane_dots(w, packed, x, starts, sums_i32x16, layout, rows * planes)
    for n in range(rows):
        add_row(t, sums_i32x16 + 2 * n * planes, planes, x_scales[n], x_sums[n], y + n * 32)


cdef inline Py_ssize_t plane_rows(const Weights *w, const uint8_t *packed, const int8_t *x,
                                  const WideScales *t, const float *x_scales,
                                  const int32_t *x_sums, float *y, int layout, int planes,
                                  Py_ssize_t rows) noexcept nogil:
    # Takes as many rows as make a block and returns how many those were. Each shape is written out,
    # so that it compiles to a loop of its own with its accumulators in registers.
    if planes == 1 and rows >= 8:
        plane_block(w, packed, x, t, x_scales, x_sums, y, layout, planes, 8)
        return 8
    if planes == 1 and rows == 7:
        plane_block(w, packed, x, t, x_scales, x_sums, y, layout, planes, 7)
        return 7
    if planes == 1 and rows == 6:
        plane_block(w, packed, x, t, x_scales, x_sums, y, layout, planes, 6)
        return 6
    if planes == 1 and rows == 5:
        plane_block(w, packed, x, t, x_scales, x_sums, y, layout, planes, 5)
        return 5
    if rows >= 4:
        plane_block(w, packed, x, t, x_scales, x_sums, y, layout, planes, 4)
        return 4
    if rows == 3:
        plane_block(w, packed, x, t, x_scales, x_sums, y, layout, planes, 3)
        return 3
    if rows == 2:
        plane_block(w, packed, x, t, x_scales, x_sums, y, layout, planes, 2)
        return 2
    plane_block(w, packed, x, t, x_scales, x_sums, y, layout, planes, 1)
    return 1


cdef inline void plane_tiles(const Weights *w, const void *prepared, Py_ssize_t rows,
                                float *out, Py_ssize_t out_stride, void *scratch,
                                const Piece *piece, int planes, int layout) noexcept nogil:
    cdef Py_ssize_t size = w.group_size * planes
    cdef Py_ssize_t group_bytes = w.group_size * block_bytes(layout) // 8
    cdef const int8_t *x = <const int8_t *>prepared
    cdef const float *x_scales = <const float *>(x + w.groups * rows * size)
    cdef const int32_t *x_sums = <const int32_t *>(x_scales + w.groups * rows)
    cdef const uint8_t *packed
    cdef float *y = <float *>scratch
    cdef WideScales t
    cdef Py_ssize_t first = piece.row_begin
    cdef Py_ssize_t count = piece.row_end - first
    cdef Py_ssize_t tiles = piece.tile_end - piece.tile_begin
    cdef Py_ssize_t paired = 2 if count <= PAIRED_ROWS else 1
    cdef Py_ssize_t apart = (tiles + paired - 1) // paired
    cdef Py_ssize_t first_tile, tile, group, row, at
    cdef float *to
    t.zero = common_zero(w)
    for first_tile in range(piece.tile_begin, piece.tile_begin + apart):
        # Of two tiles of either half of the piece the same group: memory that is read in two places
        # at once gives a third more.
        memset(y, 0, paired * count * 32 * sizeof(float))
        for group in range(w.groups):
            at = group * rows + first
            tile = first_tile
            to = y
            while tile < piece.tile_end:
                load_wide_scales(w, tile, group, &t)
                packed = w.packed + (tile * w.groups + group) * group_bytes
                row = 0
                while row < count:
                    row += plane_rows(w, packed, x + (at + row) * size, &t, x_scales + at + row,
                                      x_sums + at + row, to + row * 32, layout, planes,
                                      count - row)
                tile += apart
                to += count * 32
        tile = first_tile
        to = y
        while tile < piece.tile_end:
            store_tile(w, to, count, out + first * out_stride, out_stride, tile)
            tile += apart
            to += count * 32


cdef inline void layout_tiles(const Weights *w, const void *prepared, Py_ssize_t rows, float *out,
                              Py_ssize_t out_stride, void *scratch, const Piece *piece, int mode,
                              int layout) noexcept nogil:
    if mode == ACTIVATIONS_INT8:
        plane_tiles(w, prepared, rows, out, out_stride, scratch, piece, 1, layout)
    else:
        plane_tiles(w, prepared, rows, out, out_stride, scratch, piece, 2, layout)


# The loops of each layout are a function of its own, called by a pointer: side by side in one, GCC
# 12 makes those of nibbles a tenth slower.

cdef void trit_tiles(const Weights *w, const void *prepared, Py_ssize_t rows, float *out,
                     Py_ssize_t out_stride, void *scratch, const Piece *piece,
                     int mode) noexcept nogil:
    layout_tiles(w, prepared, rows, out, out_stride, scratch, piece, mode, TRITS)


cdef void two_plane_tiles(const Weights *w, const void *prepared, Py_ssize_t rows, float *out,
                          Py_ssize_t out_stride, void *scratch, const Piece *piece,
                          int mode) noexcept nogil:
    layout_tiles(w, prepared, rows, out, out_stride, scratch, piece, mode, TWO_PLANES)


cdef void three_plane_tiles(const Weights *w, const void *prepared, Py_ssize_t rows, float *out,
                            Py_ssize_t out_stride, void *scratch, const Piece *piece,
                            int mode) noexcept nogil:
    layout_tiles(w, prepared, rows, out, out_stride, scratch, piece, mode, THREE_PLANES)


cdef void nibble_tiles(const Weights *w, const void *prepared, Py_ssize_t rows, float *out,
                       Py_ssize_t out_stride, void *scratch, const Piece *piece,
                       int mode) noexcept nogil:
    layout_tiles(w, prepared, rows, out, out_stride, scratch, piece, mode, NIBBLES)


cdef void level_tiles(const Weights *w, const void *prepared, Py_ssize_t rows, float *out,
                      Py_ssize_t out_stride, void *scratch, const Piece *piece,
                      int mode) noexcept nogil:
    layout_tiles(w, prepared, rows, out, out_stride, scratch, piece, mode, LEVELS)


cdef void byte_tiles(const Weights *w, const void *prepared, Py_ssize_t rows, float *out,
                     Py_ssize_t out_stride, void *scratch, const Piece *piece,
                     int mode) noexcept nogil:
    layout_tiles(w, prepared, rows, out, out_stride, scratch, piece, mode, BYTES)


ctypedef void (*TilesLoop)(const Weights *w, const void *prepared, Py_ssize_t rows, float *out,
                           Py_ssize_t out_stride, void *scratch, const Piece *piece,
                           int mode) noexcept nogil
cdef TilesLoop TILES_LOOPS[LAYOUT_COUNT]
TILES_LOOPS[TRITS] = trit_tiles
TILES_LOOPS[TWO_PLANES] = two_plane_tiles
TILES_LOOPS[THREE_PLANES] = three_plane_tiles
TILES_LOOPS[NIBBLES] = nibble_tiles
TILES_LOOPS[LEVELS] = level_tiles
TILES_LOOPS[BYTES] = byte_tiles


cdef void plane_multiply(const Weights *w, const void *prepared, Py_ssize_t rows, float *out,
                         Py_ssize_t out_stride, void *scratch, const Piece *piece,
                         int mode) noexcept nogil:
    TILES_LOOPS[SPECS[w.format].layout](
        w, prepared, rows, out, out_stride, scratch, piece, mode)
