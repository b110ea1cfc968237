# int4 and few planes of x: weights are unpacked in registers and multiplied at once by up to four
# planes (four rows of int8, two of int16), which reads them from memory as fast as they come. One
# row reads the two halves of a piece side by side: two places keep more of memory busy than one,
# four and more are slower again. More rows take longer for a byte and are no faster with two.
#
# Each loop is a function of its own, called by a pointer: inlined side by side, GCC keeps the sums
# of one in memory during another.

cdef enum:
    INT4_GEMV_PLANES = 16           # at most, measured: then unpacking into L1 once is faster
    INT4_STREAMED_ROWS = 3          # that read two places at once, measured
    INT4_AHEAD = 1024               # bytes prefetched into L1, measured
    INT4_FAR_AHEAD = 4096           # and into L2, by all but the fastest loop


cdef inline void ask_int4(const uint8_t *packed, int planes) noexcept nogil:
    # One plane comes to the lines that it prefetched soon enough. Others go through 128 bytes in
    # two parts and take longer, so that memory needs a second hint to stay busy.
    if planes > 1:
        _mm_prefetch(<const char *>packed + INT4_FAR_AHEAD, _MM_HINT_T1)
    _mm_prefetch(<const char *>packed + INT4_AHEAD, _MM_HINT_T0)


cdef inline __m256i broadcast_4(const int8_t *x) noexcept nogil:
    cdef int32_t four
    memcpy(&four, x, 4)
    return _mm256_set1_epi32(four)


cdef inline void add_products(__m256i *sums_i16x16, __m256i codes_u8x32,
                              __m256i x_s8x32) noexcept nogil:
    sums_i16x16[0] = _mm256_add_epi16(
        sums_i16x16[0], _mm256_maddubs_epi16(codes_u8x32, x_s8x32))


cdef inline void int4_gemv_dots(const uint8_t *packed, const int8_t *x, Py_ssize_t group_size,
                                __m256i *sums_i32x8, int planes, int vectors) noexcept nogil:
    # sums[vectors p + v] = 8 columns at packed + 32 v . plane p. Four stored rows of 8 k are 8
    # maddubs deep: 2 * 15 * 128 * 8 = 30720 < 32768. What up to two planes hold of x stays in
    # registers while the columns pass by, what more of them hold does not fit.
    cdef Py_ssize_t k8, begin
    cdef int p, v
    cdef __m256i bytes_u8x32, x_s8x32
    cdef __m256i first_s8x32[2]
    cdef __m256i second_s8x32[2]
    cdef __m256i low_u8x32[4]
    cdef __m256i high_u8x32[4]
    cdef __m256i mask_u8x32 = _mm256_set1_epi8(15)
    cdef __m256i ones_i16x16 = _mm256_set1_epi16(1)
    cdef __m256i part_i16x16[8]
    for p in range(vectors * planes):
        sums_i32x8[p] = _mm256_setzero_si256()
    for begin in range(0, group_size >> 3, 4):
        for p in range(vectors * planes):
            part_i16x16[p] = _mm256_setzero_si256()
        for k8 in range(4):
            if planes <= 2:
                for p in range(planes):
                    first_s8x32[p] = broadcast_4(x + p * group_size)
                    second_s8x32[p] = broadcast_4(x + p * group_size + 4)
            for v in range(vectors):
                if not v & 1:
                    ask_int4(packed + v * 32, planes)
                bytes_u8x32 = _mm256_loadu_si256(<const __m256i *>(packed + v * 32))
                low_u8x32[v] = _mm256_and_si256(bytes_u8x32, mask_u8x32)
                high_u8x32[v] = _mm256_and_si256(_mm256_srli_epi16(bytes_u8x32, 4), mask_u8x32)
                if planes <= 2:
                    for p in range(planes):
                        add_products(part_i16x16 + vectors * p + v, low_u8x32[v], first_s8x32[p])
                        add_products(part_i16x16 + vectors * p + v, high_u8x32[v], second_s8x32[p])
            if planes > 2:
                for p in range(planes):
                    x_s8x32 = broadcast_4(x + p * group_size)
                    for v in range(vectors):
                        add_products(part_i16x16 + vectors * p + v, low_u8x32[v], x_s8x32)
                    x_s8x32 = broadcast_4(x + p * group_size + 4)
                    for v in range(vectors):
                        add_products(part_i16x16 + vectors * p + v, high_u8x32[v], x_s8x32)
            packed += 128
            x += 8
        for p in range(vectors * planes):
            sums_i32x8[p] = _mm256_add_epi32(
                sums_i32x8[p], _mm256_madd_epi16(part_i16x16[p], ones_i16x16))


cdef inline void join_planes(const __m256i *part_i32x8, __m256i *sums_i32x8, int planes, int rows,
                             int vectors) noexcept nogil:
    # The sums of the planes of each row, of so many vectors of columns, as sums of 16-bit x.
    cdef int n, v
    for n in range(rows):
        for v in range(vectors):
            sums_i32x8[4 * n + v] = part_i32x8[n * planes * vectors + v]
            if planes == 2:
                sums_i32x8[4 * n + v] = _mm256_add_epi32(
                    _mm256_slli_epi32(sums_i32x8[4 * n + v], 8),
                    part_i32x8[(n * planes + 1) * vectors + v])


cdef inline void few_rows(const uint8_t *packed, const int8_t *x, Py_ssize_t group_size,
                          const TileScales *t, const float *x_scales, const int32_t *x_sums,
                          float *y, int planes, int rows, int vectors) noexcept nogil:
    # One kernel group of `rows` rows of x and 32 columns, added to y [row][32].
    cdef __m256i part_i32x8[8]
    cdef __m256i sums_i32x8[16]
    cdef int part, n
    for part in range(4 // vectors):
        int4_gemv_dots(packed + part * 64, x, group_size, part_i32x8, planes * rows, vectors)
        join_planes(part_i32x8, sums_i32x8 + part * vectors, planes, rows, vectors)
    for n in range(rows):
        add_tile_row(t, sums_i32x8 + 4 * n, x_scales[n], x_sums[n], y + n * 32)


ctypedef void (*FewLoop)(const uint8_t *packed, const int8_t *x, Py_ssize_t group_size,
                         const TileScales *t, const float *x_scales, const int32_t *x_sums,
                         float *y) noexcept nogil


cdef void few_1_1(const uint8_t *packed, const int8_t *x, Py_ssize_t group_size,
                  const TileScales *t, const float *x_scales, const int32_t *x_sums,
                  float *y) noexcept nogil:
    few_rows(packed, x, group_size, t, x_scales, x_sums, y, 1, 1, 4)


cdef void few_1_2(const uint8_t *packed, const int8_t *x, Py_ssize_t group_size,
                  const TileScales *t, const float *x_scales, const int32_t *x_sums,
                  float *y) noexcept nogil:
    few_rows(packed, x, group_size, t, x_scales, x_sums, y, 1, 2, 4)


cdef void few_1_3(const uint8_t *packed, const int8_t *x, Py_ssize_t group_size,
                  const TileScales *t, const float *x_scales, const int32_t *x_sums,
                  float *y) noexcept nogil:
    few_rows(packed, x, group_size, t, x_scales, x_sums, y, 1, 3, 2)


cdef void few_1_4(const uint8_t *packed, const int8_t *x, Py_ssize_t group_size,
                  const TileScales *t, const float *x_scales, const int32_t *x_sums,
                  float *y) noexcept nogil:
    few_rows(packed, x, group_size, t, x_scales, x_sums, y, 1, 4, 2)


cdef void few_2_1(const uint8_t *packed, const int8_t *x, Py_ssize_t group_size,
                  const TileScales *t, const float *x_scales, const int32_t *x_sums,
                  float *y) noexcept nogil:
    few_rows(packed, x, group_size, t, x_scales, x_sums, y, 2, 1, 4)


cdef void few_2_2(const uint8_t *packed, const int8_t *x, Py_ssize_t group_size,
                  const TileScales *t, const float *x_scales, const int32_t *x_sums,
                  float *y) noexcept nogil:
    few_rows(packed, x, group_size, t, x_scales, x_sums, y, 2, 2, 2)


# By number of planes and of rows.
cdef FewLoop FEW_LOOPS[3][5]
FEW_LOOPS[1][1] = few_1_1
FEW_LOOPS[1][2] = few_1_2
FEW_LOOPS[1][3] = few_1_3
FEW_LOOPS[1][4] = few_1_4
FEW_LOOPS[2][1] = few_2_1
FEW_LOOPS[2][2] = few_2_2


cdef inline void int4_gemv_piece(const Weights *w, const void *prepared, Py_ssize_t rows,
                                 float *out, Py_ssize_t out_stride, float *y, const Piece *piece,
                                 int planes) noexcept nogil:
    cdef Py_ssize_t size = w.group_size * planes
    cdef Py_ssize_t group_bytes = w.group_size * 16
    cdef const int8_t *x = <const int8_t *>prepared
    cdef const float *x_scales = <const float *>(x + w.groups * rows * size)
    cdef const int32_t *x_sums = <const int32_t *>(x_scales + w.groups * rows)
    cdef int32_t zero = common_zero(w)
    cdef TileScales t
    cdef Py_ssize_t first = piece.row_begin
    cdef Py_ssize_t count = piece.row_end - first
    cdef Py_ssize_t at_once = min(count, <Py_ssize_t>(4 // planes))
    cdef Py_ssize_t streams = 2 if count <= INT4_STREAMED_ROWS else 1
    cdef Py_ssize_t step = (piece.tile_end - piece.tile_begin + streams - 1) // streams
    cdef Py_ssize_t tile, group, at, stream, row, now
    cdef float *to
    for tile in range(piece.tile_begin, piece.tile_begin + step):
        memset(y, 0, streams * count * 32 * sizeof(float))
        for group in range(w.groups):
            at = group * rows + first
            stream = tile
            to = y
            while stream < piece.tile_end:
                load_tile_scales(w, zero, stream, group, &t)
                row = 0
                while row < count:
                    now = min(count - row, at_once)
                    FEW_LOOPS[planes][now](
                        w.packed + (stream * w.groups + group) * group_bytes,
                        x + (at + row) * size, w.group_size, &t, x_scales + at + row,
                        x_sums + at + row, to + row * 32)
                    row += now
                stream += step
                to += count * 32
        stream = tile
        to = y
        while stream < piece.tile_end:
            store_tile(w, to, count, out + first * out_stride, out_stride, stream)
            stream += step
            to += count * 32
