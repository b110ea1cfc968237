# Products of unsigned codes and signed bytes in vectors of 32 bytes by vpdpbusd, which adds four
# of them into int32: AVX-VNNI, or AVX-512 VNNI with VL. Each module that includes this names the
# instruction `dpbusd`. A tile of weights is unpacked into L1 once (avx2_code_tile.pxi) and
# multiplied by up to 6 planes of x, half of its columns at a time: 12 sums, 2 vectors of weights
# and one of x are 15 of the 16 registers.
#
# Each loop is a function of its own, called by a pointer: inlined side by side, GCC 12 stores the
# sums of one in the loop of the other (51 instructions instead of 24). Inside of it, sums are set
# up and stored in a loop over parts: only then does GCC unroll those loops early and keep the sums
# in registers.

cdef enum:
    NIBBLE_PLANES = 2         # at most: then nibbles are unpacked in registers
    SUMS_BYTES = 6 * 4 * 32   # of 6 planes


cdef Py_ssize_t vnni_scratch(const Weights *w, Py_ssize_t rows, int mode) noexcept nogil:
    # Sums of a block of rows, the codes of a tile, y of all rows.
    return SUMS_BYTES + w.group_size * 32 + rows * 128


cdef inline __m256i broadcast_4(const int8_t *x) noexcept nogil:
    cdef int32_t four
    memcpy(&four, x, 4)
    return _mm256_set1_epi32(four)


cdef inline void dot_nibbles(const uint8_t *packed, const int8_t *x, Py_ssize_t group_size,
                             int32_t *sums, int parts, int planes) noexcept nogil:
    # sums[4 p + v][8] = columns 8 v .. 8 v + 7 . plane p, in one part. 256 * 15 * 128 < 2^19: never
    # overflows.
    cdef Py_ssize_t k8
    cdef int p, v, part
    cdef __m256i bytes_u8x32, low_u8x32, high_u8x32
    cdef __m256i mask_u8x32 = _mm256_set1_epi8(15)
    cdef __m256i low_x_s8x32[NIBBLE_PLANES]
    cdef __m256i high_x_s8x32[NIBBLE_PLANES]
    cdef __m256i totals_i32x8[8]
    for part in range(parts):
        for v in range(4 * planes):
            totals_i32x8[v] = _mm256_setzero_si256()
        for k8 in range(group_size >> 3):
            for p in range(planes):
                low_x_s8x32[p] = broadcast_4(x + p * group_size + k8 * 8)
                high_x_s8x32[p] = broadcast_4(x + p * group_size + k8 * 8 + 4)
            for v in range(4):
                bytes_u8x32 = _mm256_loadu_si256(<const __m256i *>(packed + k8 * 128 + v * 32))
                low_u8x32 = _mm256_and_si256(bytes_u8x32, mask_u8x32)
                high_u8x32 = _mm256_and_si256(_mm256_srli_epi16(bytes_u8x32, 4), mask_u8x32)
                for p in range(planes):
                    totals_i32x8[4 * p + v] = dpbusd(
                        dpbusd(totals_i32x8[4 * p + v], low_u8x32, low_x_s8x32[p]),
                        high_u8x32, high_x_s8x32[p])
        for v in range(4 * planes):
            _mm256_storeu_si256(<__m256i *>(sums + 8 * v), totals_i32x8[v])


cdef inline void dot_codes(const uint8_t *codes, const int8_t *x, Py_ssize_t group_size,
                           int32_t *sums, int parts, int planes, int vectors) noexcept nogil:
    # sums[4 p + v][8] = columns 8 v .. 8 v + 7 . plane p, so many vectors of columns in a part.
    # 256 * 255 * 128 < 2^23: never overflows.
    cdef Py_ssize_t quad
    cdef int p, v, part
    cdef __m256i x_s8x32
    cdef __m256i codes_u8x32[4]
    cdef __m256i totals_i32x8[12]
    for part in range(parts):
        for v in range(vectors * planes):
            totals_i32x8[v] = _mm256_setzero_si256()
        for quad in range(group_size >> 2):
            for v in range(vectors):
                codes_u8x32[v] = _mm256_loadu_si256(
                    <const __m256i *>(codes + quad * 128 + v * 32))
            for p in range(planes):
                x_s8x32 = broadcast_4(x + p * group_size + quad * 4)
                for v in range(vectors):
                    totals_i32x8[vectors * p + v] = dpbusd(
                        totals_i32x8[vectors * p + v], codes_u8x32[v], x_s8x32)
        for p in range(planes):
            for v in range(vectors):
                _mm256_storeu_si256(<__m256i *>(sums + 32 * p + 8 * v),
                                    totals_i32x8[vectors * p + v])
        codes += 32 * vectors
        sums += 8 * vectors


ctypedef void (*DotLoop)(const uint8_t *weights, const int8_t *x, Py_ssize_t group_size,
                         int32_t *sums, int parts) noexcept nogil


cdef void dot_nibbles_1(const uint8_t *packed, const int8_t *x, Py_ssize_t group_size,
                        int32_t *sums, int parts) noexcept nogil:
    dot_nibbles(packed, x, group_size, sums, parts, 1)


cdef void dot_nibbles_2(const uint8_t *packed, const int8_t *x, Py_ssize_t group_size,
                        int32_t *sums, int parts) noexcept nogil:
    dot_nibbles(packed, x, group_size, sums, parts, 2)


cdef void dot_codes_1(const uint8_t *codes, const int8_t *x, Py_ssize_t group_size,
                      int32_t *sums, int parts) noexcept nogil:
    dot_codes(codes, x, group_size, sums, parts, 1, 4)


cdef void dot_codes_2(const uint8_t *codes, const int8_t *x, Py_ssize_t group_size,
                      int32_t *sums, int parts) noexcept nogil:
    dot_codes(codes, x, group_size, sums, parts, 2, 4)


cdef void dot_codes_3(const uint8_t *codes, const int8_t *x, Py_ssize_t group_size,
                      int32_t *sums, int parts) noexcept nogil:
    dot_codes(codes, x, group_size, sums, parts, 3, 2)


cdef void dot_codes_4(const uint8_t *codes, const int8_t *x, Py_ssize_t group_size,
                      int32_t *sums, int parts) noexcept nogil:
    dot_codes(codes, x, group_size, sums, parts, 4, 2)


cdef void dot_codes_6(const uint8_t *codes, const int8_t *x, Py_ssize_t group_size,
                      int32_t *sums, int parts) noexcept nogil:
    dot_codes(codes, x, group_size, sums, parts, 6, 2)


# By number of planes; those without a loop of their own take the next smaller one.
cdef DotLoop NIBBLE_LOOPS[3]
NIBBLE_LOOPS[1] = dot_nibbles_1
NIBBLE_LOOPS[2] = dot_nibbles_2
cdef DotLoop CODE_LOOPS[7]
CODE_LOOPS[1] = dot_codes_1
CODE_LOOPS[2] = dot_codes_2
CODE_LOOPS[3] = dot_codes_3
CODE_LOOPS[4] = dot_codes_4
CODE_LOOPS[6] = dot_codes_6


cdef inline int planes_at_once(Py_ssize_t left) noexcept nogil:
    return 6 if left >= 6 else 4 if left >= 4 else <int>left


cdef inline void add_rows(const int32_t *sums, const TileScales *t, const float *x_scales,
                          const int32_t *x_sums, float *y, int planes, int rows) noexcept nogil:
    # The sums of `rows` rows of x and 32 columns, added to y [row][32].
    cdef __m256i sums_i32x8[4]
    cdef int n, v
    for n in range(rows):
        for v in range(4):
            sums_i32x8[v] = _mm256_loadu_si256(<const __m256i *>(sums + 32 * planes * n + 8 * v))
            if planes == 2:
                sums_i32x8[v] = _mm256_add_epi32(
                    _mm256_slli_epi32(sums_i32x8[v], 8), _mm256_loadu_si256(
                        <const __m256i *>(sums + 32 * planes * n + 32 + 8 * v)))
        add_tile_row(t, sums_i32x8, x_scales[n], x_sums[n], y + n * 32)


cdef inline int vnni_rows(const uint8_t *packed, const uint8_t *codes, const int8_t *x,
                          Py_ssize_t group_size, const TileScales *t, const float *x_scales,
                          const int32_t *x_sums, int32_t *sums, float *y, bint nibbles,
                          int planes, Py_ssize_t rows) noexcept nogil:
    # Takes as many rows of one kernel group as make a block and returns how many those were.
    cdef int count = planes_at_once(rows * planes)
    if nibbles:
        NIBBLE_LOOPS[count](packed, x, group_size, sums, 1)
    else:
        CODE_LOOPS[count](codes, x, group_size, sums, 1 if count <= 2 else 2)
    add_rows(sums, t, x_scales, x_sums, y, planes, count // planes)
    return count // planes


cdef inline void vnni_piece(const Weights *w, const void *prepared, Py_ssize_t rows,
                            float *out, Py_ssize_t out_stride, void *scratch,
                            const Piece *piece, int planes) noexcept nogil:
    cdef Py_ssize_t size = w.group_size * planes
    cdef int layout = SPECS[w.format].layout
    cdef Py_ssize_t group_bytes = (w.group_size >> 3) * block_bytes(layout)
    cdef const int8_t *x = <const int8_t *>prepared
    cdef const float *x_scales = <const float *>(x + w.groups * rows * size)
    cdef const int32_t *x_sums = <const int32_t *>(x_scales + w.groups * rows)
    cdef int32_t *sums = <int32_t *>scratch
    cdef uint8_t *codes = <uint8_t *>scratch + SUMS_BYTES
    cdef float *y = <float *>(codes + w.group_size * 32)
    cdef const uint8_t *packed
    cdef const uint8_t *at_codes = codes
    cdef int32_t zero = common_zero(w)
    cdef TileScales t
    cdef Py_ssize_t first = piece.row_begin
    cdef Py_ssize_t count = piece.row_end - first
    cdef Py_ssize_t tile, group, row, at
    cdef bint nibbles = layout == NIBBLES and count * planes <= NIBBLE_PLANES
    for tile in range(piece.tile_begin, piece.tile_end):
        memset(y, 0, count * 32 * sizeof(float))
        for group in range(w.groups):
            load_tile_scales(w, zero, tile, group, &t)
            packed = w.packed + (tile * w.groups + group) * group_bytes
            at = group * rows + first
            if layout == BYTES:
                at_codes = packed     # they lie as they are multiplied
            elif not nibbles:
                widen_codes(w, packed, codes)
            row = 0
            while row < count:
                row += vnni_rows(packed, at_codes, x + (at + row) * size, w.group_size, &t,
                                 x_scales + at + row, x_sums + at + row, sums, y + row * 32,
                                 nibbles, planes, count - row)
        store_tile(w, y, count, out + first * out_stride, out_stride, tile)


cdef void vnni_multiply(const Weights *w, const void *prepared, Py_ssize_t rows, float *out,
                        Py_ssize_t out_stride, void *scratch, const Piece *piece,
                        int mode) noexcept nogil:
    # A loop of its own for each number of planes.
    if mode == ACTIVATIONS_INT8:
        vnni_piece(w, prepared, rows, out, out_stride, scratch, piece, 1)
    else:
        vnni_piece(w, prepared, rows, out, out_stride, scratch, piece, 2)
