# Products of codes of two bits and more with float32 activations: a tile of codes is converted to
# float32 [k][32 rows] in L1 once and multiplied by 6 rows of x at a time, 16 columns of weights in
# 12 accumulators, one fused multiply-add for each product. The scale of a group multiplies its sum.
# A prepared buffer holds
#   values float32 [group][row][group_size], sums of x float32 [group][row]
# and each row is summed in the same order whatever rows lie beside it.

cdef enum:
    BITS_SUMMED = 0x76800000  # 2^110: 256 of them by codes of 255 stay below the largest float


cdef Py_ssize_t float_prepared(const Weights *w, Py_ssize_t rows, int mode) noexcept nogil:
    return w.groups * rows * (w.group_size + 1) * <Py_ssize_t>sizeof(float)


cdef Py_ssize_t float_scratch(const Weights *w, Py_ssize_t rows, int mode) noexcept nogil:
    # The codes of a tile and y of all rows.
    return w.group_size * 128 + rows * 128


cdef void float_prepare(const Weights *w, const float *x, Py_ssize_t x_stride, Py_ssize_t rows,
                        void *prepared, uint8_t *unfit, Py_ssize_t row_begin,
                        Py_ssize_t row_end, int mode) noexcept nogil:
    cdef float *values = <float *>prepared
    cdef float *sums = values + w.groups * rows * w.group_size
    cdef float *target
    cdef Py_ssize_t row, group, at, count, k
    cdef uint32_t most = BITS_SUMMED if SPECS[w.format].largest > 15 else BITS_LARGEST
    cdef __m256i bits_u32x8
    cdef __m256i magnitude_u32x8 = _mm256_set1_epi32(0x7FFFFFFF)
    for row in range(row_begin, row_end):
        bits_u32x8 = _mm256_setzero_si256()
        for group in range(w.groups):
            at = group * rows + row
            count = min(w.group_size, w.in_features - group * w.group_size)
            target = values + at * w.group_size
            memcpy(target, x + row * x_stride + group * w.group_size, count * sizeof(float))
            memset(target + count, 0, (w.group_size - count) * sizeof(float))
            sums[at] = sum_of(target, count) if w.zero == ZERO_OFFSET else 0.0
            for k in range(0, w.group_size, 8):
                bits_u32x8 = _mm256_max_epu32(bits_u32x8, _mm256_and_si256(
                    magnitude_u32x8, _mm256_castps_si256(_mm256_loadu_ps(target + k))))
        unfit[row] = largest_u32x8(bits_u32x8) >= most
        if unfit[row]:
            for group in range(w.groups):
                at = group * rows + row
                memset(values + at * w.group_size, 0, w.group_size * sizeof(float))
                sums[at] = 0.0


cdef inline __m256 float_of_byte(__m256i levels_i8x32, int j) noexcept nogil:
    # Signed byte j of each dword.
    return _mm256_cvtepi32_ps(_mm256_srai_epi32(
        _mm256_slli_epi32(levels_i8x32, 24 - 8 * j), 24))


cdef inline void float_nibbles(const uint8_t *packed, Py_ssize_t k8s, const __m256i *zeros_i32x8,
                               __m256i levels_i8x32, float *codes, int layout) noexcept nogil:
    # The dword of a row holds 4 bytes: byte j is k + j low and k + 4 + j high.
    cdef Py_ssize_t k8
    cdef int r, j
    cdef __m256i dwords_i32x8
    cdef __m256i mask_u8x32 = _mm256_set1_epi8(15)
    cdef __m256i low_i32x8 = _mm256_set1_epi32(15)
    for k8 in range(k8s):
        for r in range(4):
            dwords_i32x8 = _mm256_loadu_si256(<const __m256i *>(packed + k8 * 128 + r * 32))
            for j in range(4):
                if layout == LEVELS:
                    _mm256_storeu_ps(
                        codes + (k8 * 8 + j) * 32 + r * 8,
                        float_of_byte(_mm256_shuffle_epi8(
                            levels_i8x32, _mm256_and_si256(dwords_i32x8, mask_u8x32)), j))
                    _mm256_storeu_ps(
                        codes + (k8 * 8 + 4 + j) * 32 + r * 8,
                        float_of_byte(_mm256_shuffle_epi8(levels_i8x32, _mm256_and_si256(
                            _mm256_srli_epi32(dwords_i32x8, 4), mask_u8x32)), j))
                    continue
                _mm256_storeu_ps(codes + (k8 * 8 + j) * 32 + r * 8, _mm256_cvtepi32_ps(
                    _mm256_sub_epi32(_mm256_and_si256(dwords_i32x8, low_i32x8),
                                     zeros_i32x8[r])))
                dwords_i32x8 = _mm256_srli_epi32(dwords_i32x8, 4)
                _mm256_storeu_ps(codes + (k8 * 8 + 4 + j) * 32 + r * 8, _mm256_cvtepi32_ps(
                    _mm256_sub_epi32(_mm256_and_si256(dwords_i32x8, low_i32x8),
                                     zeros_i32x8[r])))
                dwords_i32x8 = _mm256_srli_epi32(dwords_i32x8, 4)


cdef inline void float_planes(const uint8_t *packed, Py_ssize_t k8s, const float *levels,
                              float *codes, int planes) noexcept nogil:
    # 8 rows a vector, the byte of a row in its lane; one bit of all planes at a time is the code,
    # which one permutation maps to its level.
    cdef Py_ssize_t k8
    cdef int r, bit, p
    cdef __m256i code_i32x8
    cdef __m256i planes_i32x8[3]
    cdef __m256 levels_f32x8 = _mm256_loadu_ps(levels)
    for k8 in range(k8s):
        for r in range(4):
            for p in range(planes):
                planes_i32x8[p] = _mm256_slli_epi32(_mm256_cvtepu8_epi32(
                    _mm_loadl_epi64(<const __m128i *>(packed + (k8 * planes + p) * 32 + r * 8))), p)
            for bit in range(8):
                code_i32x8 = _mm256_and_si256(planes_i32x8[0], _mm256_set1_epi32(1))
                for p in range(1, planes):
                    code_i32x8 = _mm256_or_si256(code_i32x8, _mm256_and_si256(
                        planes_i32x8[p], _mm256_set1_epi32(1 << p)))
                _mm256_storeu_ps(codes + (k8 * 8 + bit) * 32 + r * 8,
                                 _mm256_permutevar8x32_ps(levels_f32x8, code_i32x8))
                for p in range(planes):
                    planes_i32x8[p] = _mm256_srli_epi32(planes_i32x8[p], 1)


cdef inline void take_zeros(const __m256i *zeros_i32x8, Py_ssize_t group_size,
                            float *codes) noexcept nogil:
    # Zero points of each row off its codes.
    cdef Py_ssize_t k
    cdef int r
    cdef __m256 zeros_f32x8[4]
    for r in range(4):
        zeros_f32x8[r] = _mm256_cvtepi32_ps(zeros_i32x8[r])
    for k in range(group_size):
        for r in range(4):
            _mm256_storeu_ps(codes + k * 32 + r * 8, _mm256_sub_ps(
                _mm256_loadu_ps(codes + k * 32 + r * 8), zeros_f32x8[r]))


cdef inline void float_few(const uint8_t *packed, const float *x, Py_ssize_t group_size,
                           const TileScales *t, float *y, int rows) noexcept nogil:
    # float_block of up to 3 rows of x and nibbles, in the same order, with codes that never leave
    # the registers.
    cdef __m256 sums_f32x8[12]
    cdef __m256i dwords_i32x8[4]
    cdef __m256 code_f32x8
    cdef __m256i low_i32x8 = _mm256_set1_epi32(15)
    cdef Py_ssize_t k8
    cdef int r, n, j
    for n in range(4 * rows):
        sums_f32x8[n] = _mm256_setzero_ps()
    for k8 in range(group_size >> 3):
        for r in range(4):
            dwords_i32x8[r] = _mm256_loadu_si256(<const __m256i *>(packed + k8 * 128 + r * 32))
        for j in range(8):
            # Byte j is k + j low and k + 4 + j high.
            for r in range(4):
                code_f32x8 = _mm256_cvtepi32_ps(_mm256_sub_epi32(
                    _mm256_and_si256(
                        _mm256_srli_epi32(dwords_i32x8[r], 8 * j if j < 4 else 8 * j - 28),
                        low_i32x8),
                    t.zeros_i32x8[r]))
                for n in range(rows):
                    sums_f32x8[4 * n + r] = _mm256_fmadd_ps(
                        code_f32x8, _mm256_broadcast_ss(x + n * group_size + k8 * 8 + j),
                        sums_f32x8[4 * n + r])
    for n in range(rows):
        for r in range(4):
            _mm256_storeu_ps(y + n * 32 + r * 8, _mm256_fmadd_ps(
                sums_f32x8[4 * n + r], t.scales_f32x8[r], _mm256_loadu_ps(y + n * 32 + r * 8)))


cdef inline void float_block(const float *codes, const float *x, Py_ssize_t group_size,
                             const TileScales *t, float *y,
                             int rows) noexcept nogil:
    # One kernel group of `rows` rows of x and 32 columns, added to y [row][32].
    cdef __m256 sums_f32x8[12]
    cdef __m256 first_f32x8, second_f32x8, x_f32x8
    cdef Py_ssize_t k
    cdef int half, n, h
    for half in range(2):
        for n in range(2 * rows):
            sums_f32x8[n] = _mm256_setzero_ps()
        for k in range(group_size):
            first_f32x8 = _mm256_loadu_ps(codes + k * 32 + half * 16)
            second_f32x8 = _mm256_loadu_ps(codes + k * 32 + half * 16 + 8)
            for n in range(rows):
                x_f32x8 = _mm256_broadcast_ss(x + n * group_size + k)
                sums_f32x8[2 * n] = _mm256_fmadd_ps(first_f32x8, x_f32x8, sums_f32x8[2 * n])
                sums_f32x8[2 * n + 1] = _mm256_fmadd_ps(
                    second_f32x8, x_f32x8, sums_f32x8[2 * n + 1])
        for n in range(rows):
            for h in range(2):
                _mm256_storeu_ps(y + n * 32 + half * 16 + h * 8, _mm256_fmadd_ps(
                    sums_f32x8[2 * n + h], t.scales_f32x8[half * 2 + h],
                    _mm256_loadu_ps(y + n * 32 + half * 16 + h * 8)))


cdef inline Py_ssize_t float_rows(const float *codes, const float *x, Py_ssize_t group_size,
                                  const TileScales *t, float *y,
                                  Py_ssize_t rows) noexcept nogil:
    # Takes as many rows as make a block and returns how many those were. Each shape is written out,
    # so that it compiles to a loop of its own with its accumulators in registers.
    if rows >= 6:
        float_block(codes, x, group_size, t, y, 6)
        return 6
    if rows >= 4:
        float_block(codes, x, group_size, t, y, 4)
        return 4
    if rows >= 2:
        float_block(codes, x, group_size, t, y, 2)
        return 2
    float_block(codes, x, group_size, t, y, 1)
    return 1


cdef inline void add_offsets(const TileScales *t, const float *x_sums, float *y,
                             Py_ssize_t rows) noexcept nogil:
    # y += sum of x * offset, after the scaled sums of the group.
    cdef Py_ssize_t row
    cdef int r
    for row in range(rows):
        for r in range(4):
            _mm256_storeu_ps(y + row * 32 + r * 8, _mm256_add_ps(
                _mm256_loadu_ps(y + row * 32 + r * 8),
                _mm256_mul_ps(_mm256_set1_ps(x_sums[row]), t.offsets_f32x8[r])))


cdef inline void float_group(const Weights *w, const TileScales *t, const uint8_t *packed,
                             const float *levels, const float *x, float *codes, float *y,
                             Py_ssize_t count) noexcept nogil:
    cdef Py_ssize_t row = 0
    cdef int layout = SPECS[w.format].layout
    cdef __m256i zero_i32x8 = _mm256_setzero_si256()
    if layout == BYTES and count <= 3:
        FLOAT_BYTES_LOOPS[count](packed, x, w.group_size, t, y)
        return
    if layout == NIBBLES and count <= 3:
        if count == 1:
            float_few(packed, x, w.group_size, t, y, 1)
        elif count == 2:
            float_few(packed, x, w.group_size, t, y, 2)
        else:
            float_few(packed, x, w.group_size, t, y, 3)
        return
    if layout == NIBBLES:
        float_nibbles(packed, w.group_size >> 3, t.zeros_i32x8, zero_i32x8, codes, NIBBLES)
    elif layout == LEVELS:
        float_nibbles(packed, w.group_size >> 3, t.zeros_i32x8, _mm256_broadcastsi128_si256(
            _mm_loadu_si128(<const __m128i *>SPECS[w.format].levels)), codes, LEVELS)
    elif layout == BYTES:
        float_bytes(packed, w.group_size >> 2, t.zeros_i32x8, codes)
    elif layout == THREE_PLANES:
        float_planes(packed, w.group_size >> 3, levels, codes, 3)
    else:
        float_planes(packed, w.group_size >> 3, levels, codes, 2)
    if LAYOUTS[layout].row_bytes == 1 and not t.same_zero:
        take_zeros(t.zeros_i32x8, w.group_size, codes)
    while row < count:
        row += float_rows(codes, x + row * w.group_size, w.group_size, t, y + row * 32, count - row)


cdef void float_multiply(const Weights *w, const void *prepared, Py_ssize_t rows, float *out,
                         Py_ssize_t out_stride, void *scratch, const Piece *piece,
                         int mode) noexcept nogil:
    cdef const float *x = <const float *>prepared
    cdef const float *x_sums = x + w.groups * rows * w.group_size
    cdef float *codes = <float *>scratch
    cdef float *y = codes + w.group_size * 32
    cdef const uint8_t *packed
    cdef float levels[16]
    cdef int32_t zero = common_zero(w)
    cdef TileScales t
    cdef Py_ssize_t first = piece.row_begin
    cdef Py_ssize_t count = piece.row_end - first
    cdef Py_ssize_t tile, group, at
    float_levels(w, levels)
    for tile in range(piece.tile_begin, piece.tile_end):
        memset(y, 0, count * 32 * sizeof(float))
        for group in range(w.groups):
            load_tile_scales(w, zero, tile, group, &t)
            packed = w.packed + (
                (tile * w.groups + group) * (w.group_size >> 3)
                * block_bytes(SPECS[w.format].layout))
            at = group * rows + first
            float_group(w, &t, packed, levels, x + at * w.group_size, codes, y, count)
            if t.has_offsets:
                add_offsets(&t, x_sums + at, y, count)
        store_tile(w, y, count, out + first * out_stride, out_stride, tile)
