# What one tile and kernel group adds to y, in vectors of 8 columns, and how it is added.

cdef enum:
    PREFETCH_SCALES = 1024    # bytes ahead
    LEVEL_BIAS = 128          # makes levels that are looked up unsigned


cdef struct TileScales:
    # What one tile and kernel group adds to y: what its codes are too large by, scales, offsets.
    __m256i zeros_i32x8[4]
    __m256 scales_f32x8[4]
    __m256 offsets_f32x8[4]
    bint has_offsets
    bint same_zero                # of all columns: zero
    int32_t zero


cdef inline void load_powers(const char *stored, int bias, __m256 *values_f32x8) noexcept nogil:
    # 32 powers of two: an exponent of float32, or where there is none, a bit of a subnormal one. A
    # count of 32 or more shifts all bits out.
    cdef __m256i exponents_i32x8, bits_i32x8
    cdef Py_ssize_t r
    for r in range(4):
        exponents_i32x8 = _mm256_sub_epi32(
            _mm256_cvtepu8_epi32(_mm_loadl_epi64(<const __m128i *>(stored + r * 8))),
            _mm256_set1_epi32(bias - 127))
        bits_i32x8 = _mm256_or_si256(
            _mm256_slli_epi32(_mm256_max_epi32(exponents_i32x8, _mm256_setzero_si256()), 23),
            _mm256_srlv_epi32(_mm256_set1_epi32(0x00400000),
                              _mm256_sub_epi32(_mm256_setzero_si256(), exponents_i32x8)))
        values_f32x8[r] = _mm256_castsi256_ps(bits_i32x8)


cdef inline void load_vectors(const char *stored, int type,
                              __m256 *values_f32x8) noexcept nogil:
    # 32 scales or offsets of one tile and group.
    cdef Py_ssize_t r
    if type == SCALE_E8M0 or type == SCALE_E8M0_HALVES:
        load_powers(stored, SCALE_SPECS[type].bias, values_f32x8)
        return
    for r in range(4):
        if type == SCALE_FLOAT16:
            values_f32x8[r] = _mm256_cvtph_ps(_mm_loadu_si128(
                <const __m128i *>(<const uint16_t *>stored + r * 8)))
        elif type == SCALE_BFLOAT16:
            values_f32x8[r] = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(
                _mm_loadu_si128(<const __m128i *>(<const uint16_t *>stored + r * 8))), 16))
        else:
            values_f32x8[r] = _mm256_loadu_ps(<const float *>stored + r * 8)


cdef inline Py_ssize_t scale_block(const Weights *w, Py_ssize_t tile,
                                   Py_ssize_t group) noexcept nogil:
    # Which block of 32 scales belongs to a tile and kernel group.
    return tile * w.scale_groups + (group if w.scale_groups > 1 else 0)


cdef inline Py_ssize_t scales_at(const Weights *w, Py_ssize_t tile,
                                 Py_ssize_t group) noexcept nogil:
    # Bytes to the scales of one tile and group.
    return scale_block(w, tile, group) * 32 * SCALE_SPECS[w.scale_type].bytes


cdef inline Py_ssize_t offsets_at(const Weights *w, Py_ssize_t tile,
                                  Py_ssize_t group) noexcept nogil:
    # Bytes to the offsets of one tile and group.
    return scale_block(w, tile, group) * 32 * SCALE_SPECS[w.offset_type].bytes


cdef inline void load_offsets(const Weights *w, Py_ssize_t tile, Py_ssize_t group,
                              __m256 *offsets_f32x8) noexcept nogil:
    load_vectors(<const char *>w.offsets + offsets_at(w, tile, group), w.offset_type,
                 offsets_f32x8)


cdef inline int32_t common_zero(const Weights *w) noexcept nogil:
    # What all unsigned codes are too large by where no zero points say it.
    return LEVEL_BIAS if SPECS[w.format].layout == LEVELS else -first_level(w.format, w.zero)


cdef inline void load_zero_nibbles(const uint8_t *stored, __m256i *zeros_i32x8) noexcept nogil:
    # Zero points of rows r and r + 16 in a byte.
    cdef __m128i nibbles_u8x16 = _mm_loadu_si128(<const __m128i *>stored)
    cdef __m128i low_u8x16 = _mm_and_si128(nibbles_u8x16, _mm_set1_epi8(15))
    cdef __m128i high_u8x16 = _mm_and_si128(_mm_srli_epi16(nibbles_u8x16, 4), _mm_set1_epi8(15))
    zeros_i32x8[0] = _mm256_cvtepu8_epi32(low_u8x16)
    zeros_i32x8[1] = _mm256_cvtepu8_epi32(_mm_shuffle_epi32(low_u8x16, 0x4E))
    zeros_i32x8[2] = _mm256_cvtepu8_epi32(high_u8x16)
    zeros_i32x8[3] = _mm256_cvtepu8_epi32(_mm_shuffle_epi32(high_u8x16, 0x4E))


cdef inline void load_tile_scales(const Weights *w, int32_t zero, Py_ssize_t tile,
                                  Py_ssize_t group, TileScales *t) noexcept nogil:
    # zero: common_zero(w).
    cdef Py_ssize_t r
    cdef Py_ssize_t at = scales_at(w, tile, group)
    _mm_prefetch(<const char *>w.scales + at + PREFETCH_SCALES, _MM_HINT_T0)
    load_vectors(<const char *>w.scales + at, w.scale_type, t.scales_f32x8)
    t.has_offsets = w.zero == ZERO_OFFSET
    if t.has_offsets:
        load_offsets(w, tile, group, t.offsets_f32x8)
    t.same_zero = w.zero != ZERO_CODE
    t.zero = zero
    if t.same_zero:
        for r in range(4):
            t.zeros_i32x8[r] = _mm256_set1_epi32(zero)
        return
    if SPECS[w.format].layout == BYTES:
        for r in range(4):
            t.zeros_i32x8[r] = _mm256_cvtepu8_epi32(_mm_loadl_epi64(<const __m128i *>(
                w.zero_points + scale_block(w, tile, group) * 32 + r * 8)))
        return
    load_zero_nibbles(w.zero_points + scale_block(w, tile, group) * 16, t.zeros_i32x8)


cdef inline void add_tile_row(const TileScales *t, const __m256i *sums_i32x8, float x_scale,
                              int32_t x_sum, float *y) noexcept nogil:
    # The sums of unsigned codes, for 32 columns of one row of x. What is the same for all columns
    # is set up once.
    cdef int v
    cdef __m256i excess_i32x8
    cdef __m256 x_scale_f32x8
    if not t.same_zero or t.has_offsets:
        for v in range(4):
            add_columns(t, v, sums_i32x8[v], x_scale, x_sum, y + v * 8)
        return
    excess_i32x8 = _mm256_set1_epi32(t.zero * x_sum)
    x_scale_f32x8 = _mm256_set1_ps(x_scale)
    for v in range(4):
        _mm256_storeu_ps(y + v * 8, _mm256_add_ps(
            _mm256_loadu_ps(y + v * 8),
            _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_sub_epi32(sums_i32x8[v], excess_i32x8)),
                          _mm256_mul_ps(t.scales_f32x8[v], x_scale_f32x8))))


cdef inline void add_columns(const TileScales *t, int vector, __m256i sum_i32x8, float x_scale,
                             int32_t x_sum, float *y) noexcept nogil:
    # The sum of unsigned codes, for 8 columns of one row of x.
    add_sums(t, vector,
             _mm256_sub_epi32(sum_i32x8, _mm256_mullo_epi32(
                 t.zeros_i32x8[vector], _mm256_set1_epi32(x_sum))),
             x_scale, x_sum, y)


cdef inline void add_sums(const TileScales *t, int vector, __m256i sum_i32x8, float x_scale,
                          int32_t x_sum, float *y) noexcept nogil:
    # y += sum * (w_scale * x_scale), each operation rounded by itself.
    cdef __m256 x_scale_f32x8 = _mm256_set1_ps(x_scale)
    cdef __m256 y_f32x8 = _mm256_add_ps(
        _mm256_loadu_ps(y),
        _mm256_mul_ps(_mm256_cvtepi32_ps(sum_i32x8),
                      _mm256_mul_ps(t.scales_f32x8[vector], x_scale_f32x8)))
    if t.has_offsets:
        y_f32x8 = _mm256_add_ps(y_f32x8, _mm256_mul_ps(
            _mm256_set1_ps(<float>x_sum),
            _mm256_mul_ps(t.offsets_f32x8[vector], x_scale_f32x8)))
    _mm256_storeu_ps(y, y_f32x8)


cdef inline void store_tile(const Weights *w, const float *y, Py_ssize_t rows, float *out,
                            Py_ssize_t out_stride, Py_ssize_t tile) noexcept nogil:
    cdef Py_ssize_t row
    cdef Py_ssize_t columns = min(<Py_ssize_t>32, w.out_features - tile * 32)
    for row in range(rows):
        memcpy(out + row * out_stride + tile * 32, y + row * 32, columns * sizeof(float))


cdef inline void float_levels(const Weights *w, float *levels) noexcept nogil:
    # What stored codes of up to 4 bits stand for, zero points aside.
    cdef int base = SPECS[w.format].levels[0]
    cdef int first = first_level(w.format, w.zero)
    cdef int code
    for code in range(16):
        levels[code] = <float>(SPECS[w.format].levels[code] - base + first)
