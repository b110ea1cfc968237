# Products on AVX-512 VNNI: unsigned codes of weights times the signed bytes of avx2_activations.pxi,
# in int32. Few rows of int4 meet the weights as they are unpacked in registers (avx512_few.pxi);
# many rows meet a tile unpacked into L1 once, 8 planes of rows at a time, in 2 x 8 accumulators of
# 16 columns.

cdef enum:
    PLANES_AT_ONCE = 8


cdef inline Py_ssize_t plane_scratch_bytes(const Weights *w, Py_ssize_t rows) noexcept nogil:
    # The codes of a tile and y of all rows.
    return w.group_size * 32 + rows * 128


cdef inline void block_dots(const uint8_t *codes, const int8_t *x, Py_ssize_t group_size,
                            __m512i *sums_i32x16, int planes) noexcept nogil:
    # sums[2 p + h] = codes of 16 columns . plane p. 256 * 15 * 128 < 2^19: never overflows.
    cdef Py_ssize_t quad
    cdef int p
    cdef int32_t four
    cdef __m512i first_u8x64, second_u8x64, x_s8x64
    cdef __m512i block_i32x16[2 * PLANES_AT_ONCE]
    for p in range(2 * planes):
        block_i32x16[p] = _mm512_setzero_si512()
    for quad in range(group_size >> 2):
        first_u8x64 = _mm512_load_si512(codes + quad * 128)
        second_u8x64 = _mm512_load_si512(codes + quad * 128 + 64)
        for p in range(planes):
            memcpy(&four, x + p * group_size + quad * 4, 4)
            x_s8x64 = _mm512_set1_epi32(four)
            block_i32x16[2 * p] = _mm512_dpbusd_epi32(block_i32x16[2 * p], first_u8x64, x_s8x64)
            block_i32x16[2 * p + 1] = _mm512_dpbusd_epi32(
                block_i32x16[2 * p + 1], second_u8x64, x_s8x64)
    for p in range(2 * planes):
        sums_i32x16[p] = block_i32x16[p]


cdef struct WideScales:
    # What one tile and kernel group adds to y: offsets of the codes and scales.
    __m512i offsets_i32x16[2]
    __m512 scales_f32x16[2]


cdef inline void load_wide_scales(const Weights *w, int format, Py_ssize_t tile, Py_ssize_t group,
                                  WideScales *t) noexcept nogil:
    load_offsets(w, format, tile, group, t.offsets_i32x16)
    load_scales(w, tile, group, t.scales_f32x16)


cdef inline void add_row(const WideScales *t, const __m512i *sums_i32x16, int planes,
                         float x_scale, int32_t x_sum, float *y) noexcept nogil:
    # y += sum * (w_scale * x_scale), each operation rounded by itself, for one row of x.
    cdef int h
    cdef __m512i sum_i32x16
    cdef __m512 x_scale_f32x16 = _mm512_set1_ps(x_scale)
    cdef __m512i x_sum_i32x16 = _mm512_set1_epi32(x_sum)
    for h in range(2):
        sum_i32x16 = sums_i32x16[h]
        if planes == 2:
            sum_i32x16 = _mm512_add_epi32(_mm512_slli_epi32(sum_i32x16, 8), sums_i32x16[2 + h])
        sum_i32x16 = _mm512_sub_epi32(
            sum_i32x16, _mm512_mullo_epi32(t.offsets_i32x16[h], x_sum_i32x16))
        _mm512_storeu_ps(y + h * 16, _mm512_add_ps(
            _mm512_loadu_ps(y + h * 16),
            _mm512_mul_ps(_mm512_cvtepi32_ps(sum_i32x16),
                          _mm512_mul_ps(t.scales_f32x16[h], x_scale_f32x16))))


cdef inline void block_group(const uint8_t *codes, const int8_t *x, Py_ssize_t group_size,
                             const WideScales *t, const float *x_scales, const int32_t *x_sums,
                             float *y, int planes, int rows) noexcept nogil:
    # One kernel group of `rows` rows of x and 32 columns, added to y [row][32].
    cdef __m512i sums_i32x16[2 * PLANES_AT_ONCE]
    cdef int n
    block_dots(codes, x, group_size, sums_i32x16, rows * planes)
    for n in range(rows):
        add_row(t, sums_i32x16 + 2 * n * planes, planes, x_scales[n], x_sums[n], y + n * 32)


cdef inline Py_ssize_t block_rows(const uint8_t *codes, const int8_t *x, Py_ssize_t group_size,
                                  const WideScales *t, const float *x_scales,
                                  const int32_t *x_sums, float *y, int planes,
                                  Py_ssize_t rows) noexcept nogil:
    # Takes as many rows as make a block and returns how many those were. Each shape is written out,
    # so that it compiles to a loop of its own with its accumulators in registers.
    if planes == 1:
        if rows >= 8:
            block_group(codes, x, group_size, t, x_scales, x_sums, y, 1, 8)
            return 8
        if rows >= 4:
            block_group(codes, x, group_size, t, x_scales, x_sums, y, 1, 4)
            return 4
        if rows >= 2:
            block_group(codes, x, group_size, t, x_scales, x_sums, y, 1, 2)
            return 2
        block_group(codes, x, group_size, t, x_scales, x_sums, y, 1, 1)
        return 1
    if rows >= 4:
        block_group(codes, x, group_size, t, x_scales, x_sums, y, 2, 4)
        return 4
    if rows >= 2:
        block_group(codes, x, group_size, t, x_scales, x_sums, y, 2, 2)
        return 2
    block_group(codes, x, group_size, t, x_scales, x_sums, y, 2, 1)
    return 1


cdef inline void plane_multiply(const Weights *w, const void *prepared, Py_ssize_t rows,
                                float *out, Py_ssize_t out_stride, void *scratch,
                                Py_ssize_t tile_begin, Py_ssize_t tile_end,
                                int format, int planes) noexcept nogil:
    cdef Py_ssize_t size = w.group_size * planes
    cdef const int8_t *x = <const int8_t *>prepared
    cdef const float *x_scales = <const float *>(x + w.groups * rows * size)
    cdef const int32_t *x_sums = <const int32_t *>(x_scales + w.groups * rows)
    cdef uint8_t *codes = <uint8_t *>scratch
    cdef float *y = <float *>(codes + w.group_size * 32)
    cdef WideScales t
    cdef Py_ssize_t tile, group, row, at
    for tile in range(tile_begin, tile_end):
        memset(y, 0, rows * 32 * sizeof(float))
        for group in range(w.groups):
            load_wide_scales(w, format, tile, group, &t)
            at = group * rows
            if format == FORMAT_INT4 and rows * planes <= 4:
                few_group(w, tile, group, x + at * size, &t, x_scales + at, x_sums + at, y,
                          planes, <int>rows)
                continue
            widen_tile(w, format, tile, group, codes)
            row = 0
            while row < rows:
                row += block_rows(codes, x + (at + row) * size, w.group_size, &t,
                                  x_scales + at + row, x_sums + at + row, y + row * 32, planes,
                                  rows - row)
        store_tile(w, y, rows, out, out_stride, tile)
