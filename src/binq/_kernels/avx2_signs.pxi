# Binary and ternary products of float32 activations without a multiplication: a table holds what four activations add up to under each of the 16 choices of sign, for 8 rows of x
# at once, and a nibble of weights is one load and one addition, 32 products.
#
#   nibble of weights 0b0101  ->  table[5] = x0 - x1 + x2 - x3, 8 rows of x side by side
#                                 sum += table[5]
#
# Ternary t = (A + B) / 2 looks up both planes. Entries of opposite nibbles are exact opposites, so
# that four weights of zero add exactly nothing.
#
# A prepared buffer holds, rows of x in blocks of 8, absent ones as zeros,
#   tables float32 [block][group][group_size / 4][16][8], sums of x float32 [block][group][8]
# Tables of 128 k are 16 KB and stay in L1 while a run of tiles passes by; groups of 256 are taken
# in halves. Every row of x is added up in the same order whatever rows lie beside it.

cdef enum:
    SIGNS_TILES = 32              # tiles that pass by one table: their y is 32 KB
    SIGNS_SPAN = 128              # k whose tables fill half of L1


cdef inline Py_ssize_t signs_prepared_bytes(const Weights *w, Py_ssize_t rows) noexcept nogil:
    return (rows + 7 >> 3) * w.groups * (w.group_size * 128 + 32)


cdef inline Py_ssize_t signs_scratch_bytes() noexcept nogil:
    return SIGNS_TILES * 1024


cdef inline void make_signs(const float *columns, float *table) noexcept nogil:
    # columns: 4 k of 8 rows of x. Bit i of an entry set adds k = i, clear subtracts it.
    cdef __m256 low_f32x8[4]
    cdef __m256 high_f32x8[4]
    cdef int i
    cdef __m256 zero_f32x8 = _mm256_setzero_ps()
    cdef __m256 a_f32x8 = _mm256_loadu_ps(columns)
    cdef __m256 b_f32x8 = _mm256_loadu_ps(columns + 8)
    low_f32x8[3] = _mm256_add_ps(a_f32x8, b_f32x8)
    low_f32x8[2] = _mm256_sub_ps(b_f32x8, a_f32x8)
    low_f32x8[1] = _mm256_sub_ps(a_f32x8, b_f32x8)
    low_f32x8[0] = _mm256_sub_ps(zero_f32x8, low_f32x8[3])
    a_f32x8 = _mm256_loadu_ps(columns + 16)
    b_f32x8 = _mm256_loadu_ps(columns + 24)
    high_f32x8[3] = _mm256_add_ps(a_f32x8, b_f32x8)
    high_f32x8[2] = _mm256_sub_ps(b_f32x8, a_f32x8)
    high_f32x8[1] = _mm256_sub_ps(a_f32x8, b_f32x8)
    high_f32x8[0] = _mm256_sub_ps(zero_f32x8, high_f32x8[3])
    for i in range(16):
        _mm256_storeu_ps(table + i * 8, _mm256_add_ps(low_f32x8[i & 3], high_f32x8[i >> 2]))


cdef inline bint is_finite_row(const float *x, Py_ssize_t count) noexcept nogil:
    cdef uint32_t bits
    cdef uint32_t largest = 0
    cdef Py_ssize_t k
    for k in range(count):
        memcpy(&bits, x + k, 4)
        largest = max(largest, bits & 0x7FFFFFFF)
    return largest < 0x7F800000


cdef inline void signs_prepare(const Weights *w, const float *x, Py_ssize_t x_stride,
                               Py_ssize_t rows, void *prepared, uint8_t *unfit,
                               Py_ssize_t row_begin, Py_ssize_t row_end) noexcept nogil:
    cdef float *tables = <float *>prepared
    cdef float *sums = tables + (rows + 7 >> 3) * w.groups * w.group_size * 32
    cdef float columns[256 * 8]
    cdef double total
    cdef Py_ssize_t row, group, n, k, at, count
    for row in range(row_begin, row_end):
        unfit[row] = not is_finite_row(x + row * x_stride, w.in_features)
    for row in range(row_begin, row_end, 8):
        for group in range(w.groups):
            at = (row >> 3) * w.groups + group
            count = min(w.group_size, w.in_features - group * w.group_size)
            memset(columns, 0, sizeof(columns))
            for n in range(min(<Py_ssize_t>8, rows - row)):
                total = 0.0
                if not unfit[row + n]:
                    for k in range(count):
                        columns[k * 8 + n] = x[(row + n) * x_stride + group * w.group_size + k]
                    if w.zero_points != NULL:
                        for k in range(count):
                            total += columns[k * 8 + n]
                sums[at * 8 + n] = <float>total
            for n in range(min(<Py_ssize_t>8, rows - row), 8):
                sums[at * 8 + n] = 0.0
            for k in range(0, w.group_size, 4):
                make_signs(columns + k * 8, tables + (at * w.group_size + k) * 32)


cdef inline __m256 take_signs(__m256 sum_f32x8, const char *tables, const uint8_t *packed,
                              int planes) noexcept nogil:
    # Two nibbles of one row of weights: 8 k.
    cdef uint32_t byte = packed[0]
    cdef __m256 low_f32x8 = _mm256_loadu_ps(<const float *>(tables + ((byte & 15) << 5)))
    cdef __m256 high_f32x8 = _mm256_loadu_ps(<const float *>(tables + 512 + ((byte & 0xF0) << 1)))
    if planes == 2:
        byte = packed[32]
        low_f32x8 = _mm256_add_ps(
            low_f32x8, _mm256_loadu_ps(<const float *>(tables + ((byte & 15) << 5))))
        high_f32x8 = _mm256_add_ps(
            high_f32x8, _mm256_loadu_ps(<const float *>(tables + 512 + ((byte & 0xF0) << 1))))
    return _mm256_add_ps(_mm256_add_ps(sum_f32x8, low_f32x8), high_f32x8)


cdef inline void finish_signs(float *y, __m256 sum_f32x8, const float *scale) noexcept nogil:
    _mm256_storeu_ps(y, _mm256_fmadd_ps(
        sum_f32x8, _mm256_broadcast_ss(scale), _mm256_loadu_ps(y)))


cdef inline void signs_of_8(const uint8_t *packed, Py_ssize_t k8s, const char *tables,
                            const float *scales, float *y, int planes) noexcept nogil:
    # 8 rows of weights by 8 rows of x, added to y [row of weights][row of x].
    cdef Py_ssize_t k8
    cdef __m256 a = _mm256_setzero_ps()
    cdef __m256 b = a
    cdef __m256 c = a
    cdef __m256 d = a
    cdef __m256 e = a
    cdef __m256 f = a
    cdef __m256 g = a
    cdef __m256 h = a
    for k8 in range(k8s):
        a = take_signs(a, tables, packed, planes)
        b = take_signs(b, tables, packed + 1, planes)
        c = take_signs(c, tables, packed + 2, planes)
        d = take_signs(d, tables, packed + 3, planes)
        e = take_signs(e, tables, packed + 4, planes)
        f = take_signs(f, tables, packed + 5, planes)
        g = take_signs(g, tables, packed + 6, planes)
        h = take_signs(h, tables, packed + 7, planes)
        packed += 32 * planes
        tables += 1024
    finish_signs(y, a, scales)
    finish_signs(y + 8, b, scales + 1)
    finish_signs(y + 16, c, scales + 2)
    finish_signs(y + 24, d, scales + 3)
    finish_signs(y + 32, e, scales + 4)
    finish_signs(y + 40, f, scales + 5)
    finish_signs(y + 48, g, scales + 6)
    finish_signs(y + 56, h, scales + 7)


cdef inline void store_signs(const Weights *w, const float *y, Py_ssize_t rows, float *out,
                             Py_ssize_t out_stride, Py_ssize_t tile) noexcept nogil:
    # y [32 rows of weights][8 rows of x] to `rows` rows of out.
    cdef float turned[32]
    cdef Py_ssize_t row, column
    cdef Py_ssize_t columns = min(<Py_ssize_t>32, w.out_features - tile * 32)
    for row in range(rows):
        for column in range(32):
            turned[column] = y[column * 8 + row]
        memcpy(out + row * out_stride + tile * 32, turned, columns * sizeof(float))


cdef inline void signs_tile(const Weights *w, Py_ssize_t tile, Py_ssize_t group,
                            Py_ssize_t first, Py_ssize_t last, const char *tables,
                            const float *x_sums, float *y, int planes) noexcept nogil:
    # k of one group from first up to last.
    cdef __m256 scales_f32x8[4]
    cdef __m256 midpoints_f32x8[4]
    cdef const float *scales = <const float *>scales_f32x8
    cdef const float *midpoints = <const float *>midpoints_f32x8
    cdef Py_ssize_t r
    cdef Py_ssize_t at = scales_at(w, tile, group)
    cdef const uint8_t *packed = w.packed + (
        (tile * w.groups + group) * w.group_size + first >> 3) * 32 * planes
    load_vectors(<const char *>w.scales + at, w.scales_float32, scales_f32x8)
    if planes == 2:
        for r in range(4):
            scales_f32x8[r] = _mm256_mul_ps(scales_f32x8[r], _mm256_set1_ps(0.5))
    for r in range(0, 32, 8):
        signs_of_8(packed + r, last - first >> 3, tables + first * 128, scales + r, y + r * 8,
                   planes)
    if planes == 1 and w.zero_points != NULL and first == 0:
        load_vectors(<const char *>w.zero_points + at, w.scales_float32, midpoints_f32x8)
        for r in range(32):
            finish_signs(y + r * 8, _mm256_loadu_ps(x_sums), midpoints + r)


cdef inline void signs_multiply(const Weights *w, const void *prepared, Py_ssize_t rows,
                                float *out, Py_ssize_t out_stride, void *scratch,
                                Py_ssize_t tile_begin, Py_ssize_t tile_end,
                                int planes) noexcept nogil:
    cdef const float *tables = <const float *>prepared
    cdef const float *sums = tables + (rows + 7 >> 3) * w.groups * w.group_size * 32
    cdef float *y = <float *>scratch
    cdef Py_ssize_t row, tile, tiles, t, group, first, last, at
    for row in range(0, rows, 8):
        tile = tile_begin
        while tile < tile_end:
            tiles = min(<Py_ssize_t>SIGNS_TILES, tile_end - tile)
            memset(y, 0, tiles * 1024)
            for group in range(w.groups):
                at = (row >> 3) * w.groups + group
                first = 0
                while first < w.group_size:
                    last = min(first + SIGNS_SPAN, w.group_size)
                    for t in range(tiles):
                        signs_tile(w, tile + t, group, first, last,
                                   <const char *>(tables + at * w.group_size * 32), sums + at * 8,
                                   y + t * 256, planes)
                    first = last
            for t in range(tiles):
                store_signs(w, y + t * 256, min(<Py_ssize_t>8, rows - row),
                            out + row * out_stride, out_stride, tile + t)
            tile += tiles
