# Products of binary and ternary weights without a multiplication, for many rows of x: LUT-GEMM,
# with vectors of tokens as in Vec-LUT (vlut.cpp), exact. A table holds what four activations add
# up to under each choice of weights, for as many rows of x side by side as a vector has lanes, so
# that four weights are one load and one addition.
#
#   binary   bits 1 0 1 0            ->  table[5]  = x0 - x1 + x2 - x3         16 entries
#   ternary  -1 0 +1 +1, in base 3   ->  table[75] = -x0      + x2 + x3        81 entries
#
# Lanes are float32 for float32 activations, int32 for int16 and int16 for int8, whose sums over a
# group are at most 256 * 127 = 32512 in size. Four weights of zero add exactly nothing, and every
# row of x is added up in the same order whatever rows lie beside it.
#
# A prepared buffer holds, rows of x in blocks of one vector, absent ones as zeros,
#   x [block][group][k] vectors, scales float32 and sums of x float32, both [block][group][lane]

cdef enum:
    LANES_FLOAT32 = 0
    LANES_INT32 = 1
    LANES_INT16 = 2
    LUT_TILES = 64             # tiles that pass by one set of tables
    LUT_AHEAD = 3              # tiles whose weights are asked for ahead
    LUT_ROWS = 8               # rows of weights that are summed at once, so that none waits


cdef inline Py_ssize_t lanes_of(int lanes) noexcept nogil:
    return VECTOR_BYTES // 2 if lanes == LANES_INT16 else VECTOR_BYTES // 4


cdef inline Py_ssize_t entries_of(int planes) noexcept nogil:
    return 16 if planes == 1 else 81


cdef inline Py_ssize_t lut_span(const Weights *w, int planes) noexcept nogil:
    # k whose tables serve while a run of tiles passes by, spread evenly over a group, measured: 16
    # KB of binary, 31 of ternary, nearly what a first-level cache of 32 KB holds. Fewer would cost
    # more, for the sums of each row of weights are fetched and stored once for all of them.
    cdef Py_ssize_t most = 128 if planes == 1 else 48
    cdef Py_ssize_t spans = (w.group_size + most - 1) // most
    return ((w.group_size >> 3) + spans - 1) // spans * 8


cdef inline int lanes_for(int mode) noexcept nogil:
    if mode == ACTIVATIONS_FLOAT32:
        return LANES_FLOAT32
    return LANES_INT32 if mode == ACTIVATIONS_INT16 else LANES_INT16


cdef Py_ssize_t lut_gemm_prepared(const Weights *w, Py_ssize_t rows, int mode) noexcept nogil:
    cdef Py_ssize_t count = lanes_of(lanes_for(mode))
    return (rows + count - 1) // count * w.groups * (w.group_size * VECTOR_BYTES + count * 8)


cdef Py_ssize_t lut_gemm_scratch(const Weights *w, Py_ssize_t rows, int mode) noexcept nogil:
    # Tables, then of each tile sums of one group and y, both [32 rows of weights][row of x].
    cdef int planes = LAYOUTS[SPECS[w.format].layout].planes
    return (lut_span(w, planes) * entries_of(planes) * VECTOR_BYTES // 4
            + LUT_TILES * 32 * (VECTOR_BYTES + 4 * lanes_of(lanes_for(mode))))


cdef inline void transpose_columns(const float *values, const int16_t *codes, char *target,
                                   Py_ssize_t group_size, int lanes) noexcept nogil:
    # 8 rows of one group, [row][256], to 8 lanes of its vectors.
    cdef __m128i transposed[8]
    cdef Py_ssize_t k, i
    for k in range(0, group_size, 8):
        if lanes == LANES_FLOAT32:
            transpose_f32(values + k, 256, <float *>(target + k * VECTOR_BYTES), VECTOR_BYTES // 4)
            continue
        transpose_i16(codes + k, 256, transposed)
        for i in range(8):
            if lanes == LANES_INT32:
                _mm256_storeu_si256(<__m256i *>(target + (k + i) * VECTOR_BYTES),
                                    _mm256_cvtepi16_epi32(transposed[i]))
            else:
                _mm_storeu_si128(<__m128i *>(target + (k + i) * VECTOR_BYTES), transposed[i])


cdef inline void prepare_columns(const Weights *w, const float *x, Py_ssize_t x_stride,
                                 Py_ssize_t rows, void *prepared, uint8_t *unfit,
                                 Py_ssize_t row_begin, Py_ssize_t row_end,
                                 int lanes, float levels) noexcept nogil:
    cdef Py_ssize_t count = lanes_of(lanes)
    cdef Py_ssize_t blocks = (rows + count - 1) // count
    cdef Py_ssize_t lane_bytes = VECTOR_BYTES // count
    cdef char *columns = <char *>prepared
    cdef float *scales = <float *>(columns + blocks * w.groups * w.group_size * VECTOR_BYTES)
    cdef float *sums = scales + blocks * w.groups * count
    cdef float values[8 * 256]
    cdef int16_t codes[8 * 256]
    cdef bint fits[8]
    cdef Py_ssize_t row, group, n, at, size
    cdef const float *source
    if row_end == rows:
        row_end = blocks * count
    for row in range(row_begin, row_end, 8):
        for n in range(8):
            fits[n] = row + n < rows and (
                lanes != LANES_FLOAT32 or is_fit_row(x + (row + n) * x_stride, w.in_features))
        for group in range(w.groups):
            at = row // count * w.groups + group
            size = min(w.group_size, w.in_features - group * w.group_size)
            for n in range(8):
                scales[at * count + row % count + n] = 0.0
                sums[at * count + row % count + n] = 0.0
                source = x + (row + n) * x_stride + group * w.group_size
                if not fits[n]:
                    memset(values + n * 256, 0, w.group_size * sizeof(float))
                    memset(codes + n * 256, 0, w.group_size * sizeof(int16_t))
                elif lanes == LANES_FLOAT32:
                    memcpy(values + n * 256, source, size * sizeof(float))
                    memset(values + n * 256 + size, 0, (w.group_size - size) * sizeof(float))
                    if w.zero == ZERO_OFFSET:
                        sums[at * count + row % count + n] = sum_of(source, size)
                else:
                    fits[n] = round_columns(source, size, w.group_size, codes + n * 256, levels,
                                            scales + at * count + row % count + n,
                                            sums + at * count + row % count + n)
            transpose_columns(values, codes, columns + at * w.group_size * VECTOR_BYTES
                              + row % count * lane_bytes, w.group_size, lanes)
        for n in range(min(<Py_ssize_t>8, rows - row)):
            unfit[row + n] = not fits[n]
            if not fits[n] and lanes != LANES_FLOAT32:
                clear_lane(w, columns, scales, sums, row + n, count)


cdef inline bint round_columns(const float *x, Py_ssize_t size, Py_ssize_t group_size,
                               int16_t *codes, float levels, float *scale,
                               float *sum) noexcept nogil:
    cdef int32_t absolute = 0
    cdef int32_t total = 0
    if not round_group(x, size, group_size, codes, levels, scale, &absolute, &total):
        memset(codes, 0, group_size * sizeof(int16_t))
        return False
    sum[0] = <float>total
    return True


cdef inline void clear_lane(const Weights *w, char *columns, float *scales, float *sums,
                            Py_ssize_t row, Py_ssize_t count) noexcept nogil:
    # A row that was found unfit in a later group.
    cdef Py_ssize_t lane_bytes = VECTOR_BYTES // count
    cdef Py_ssize_t group, k, at
    for group in range(w.groups):
        at = row // count * w.groups + group
        scales[at * count + row % count] = 0.0
        sums[at * count + row % count] = 0.0
        for k in range(w.group_size):
            memset(columns + (at * w.group_size + k) * VECTOR_BYTES + row % count * lane_bytes, 0,
                   lane_bytes)


cdef inline float sum_of(const float *x, Py_ssize_t count) noexcept nogil:
    cdef double total = 0.0
    cdef Py_ssize_t k
    for k in range(count):
        total += x[k]
    return <float>total


cdef inline bint is_fit_row(const float *x, Py_ssize_t count) noexcept nogil:
    cdef uint32_t bits
    cdef uint32_t largest = 0
    cdef Py_ssize_t k
    for k in range(count):
        memcpy(&bits, x + k, 4)
        largest = max(largest, bits & 0x7FFFFFFF)
    return largest < BITS_LARGEST


cdef inline void make_columns(const char *x, char *table, int planes, int lanes) noexcept nogil:
    # The table of 4 k: sums of the first two and of the last two, and all sums of those. Binary:
    # bit i set adds x[i], clear subtracts it. Ternary: digit i of the entry less one is the weight
    # of x[i].
    cdef vector low[9]
    cdef vector high[9]
    cdef vector zero = zero_vector()
    cdef Py_ssize_t i, j
    cdef Py_ssize_t sums = 4 if planes == 1 else 9
    pair_sums(load_vector(x), load_vector(x + VECTOR_BYTES), zero, low, planes, lanes)
    pair_sums(load_vector(x + 2 * VECTOR_BYTES), load_vector(x + 3 * VECTOR_BYTES), zero, high,
              planes, lanes)
    for i in range(sums):
        for j in range(sums):
            store_vector(table + (i * sums + j) * VECTOR_BYTES, add_vectors(low[j], high[i], lanes))


cdef inline void pair_sums(vector a, vector b, vector zero, vector *sums, int planes,
                           int lanes) noexcept nogil:
    if planes == 1:
        sums[3] = add_vectors(a, b, lanes)
        sums[2] = sub_vectors(b, a, lanes)
        sums[1] = sub_vectors(a, b, lanes)
        sums[0] = sub_vectors(zero, sums[3], lanes)
        return
    sums[8] = add_vectors(a, b, lanes)
    sums[7] = b
    sums[6] = sub_vectors(b, a, lanes)
    sums[5] = a
    sums[4] = zero
    sums[3] = sub_vectors(zero, a, lanes)
    sums[2] = sub_vectors(a, b, lanes)
    sums[1] = sub_vectors(zero, b, lanes)
    sums[0] = sub_vectors(zero, sums[8], lanes)


cdef inline void store_offsets(__m256i first_u8x32, __m256i second_u8x32,
                               uint16_t *offsets) noexcept nogil:
    # (first + second) * VECTOR_BYTES, rows 0-7, 16-23, 8-15, 24-31.
    cdef __m256i step_i8x32 = _mm256_set1_epi8(VECTOR_BYTES)
    _mm256_storeu_si256(<__m256i *>offsets, _mm256_maddubs_epi16(
        _mm256_unpacklo_epi8(first_u8x32, second_u8x32), step_i8x32))
    _mm256_storeu_si256(<__m256i *>(offsets + 16), _mm256_maddubs_epi16(
        _mm256_unpackhi_epi8(first_u8x32, second_u8x32), step_i8x32))


cdef inline void find_entries(const uint8_t *packed, Py_ssize_t k8s,
                              uint16_t *offsets) noexcept nogil:
    # Bytes from the table of each 4 k to the entry of each row of weights, ternary:
    # [k / 4][32 rows], at most 80 * 64, in the order of store_offsets.
    cdef __m256i mask_u8x32 = _mm256_set1_epi8(15)
    # bit 0 + 3 * bit 1 + 9 * bit 2 + 27 * bit 3
    cdef __m256i base3_u8x32 = _mm256_setr_epi64x(
        0x0D0C0A0904030100, 0x282725241F1E1C1B, 0x0D0C0A0904030100, 0x282725241F1E1C1B)
    cdef __m256i first_u8x32, second_u8x32
    cdef Py_ssize_t k8
    for k8 in range(k8s):
        first_u8x32 = _mm256_loadu_si256(<const __m256i *>(packed + k8 * 64))
        second_u8x32 = _mm256_loadu_si256(<const __m256i *>(packed + k8 * 64 + 32))
        store_offsets(
            _mm256_shuffle_epi8(base3_u8x32, _mm256_and_si256(first_u8x32, mask_u8x32)),
            _mm256_shuffle_epi8(base3_u8x32, _mm256_and_si256(second_u8x32, mask_u8x32)),
            offsets + k8 * 64)
        store_offsets(
            _mm256_shuffle_epi8(base3_u8x32, _mm256_and_si256(
                _mm256_srli_epi16(first_u8x32, 4), mask_u8x32)),
            _mm256_shuffle_epi8(base3_u8x32, _mm256_and_si256(
                _mm256_srli_epi16(second_u8x32, 4), mask_u8x32)),
            offsets + k8 * 64 + 32)


cdef inline void find_nibbles(const uint8_t *packed, Py_ssize_t k8s,
                              uint8_t *eighths) noexcept nogil:
    # Where each row of weights stands in the table of each 4 k, binary, in units of 8 bytes:
    # [k / 4][32 rows], at most 15 * 64 / 8.
    cdef int bits = 2 if VECTOR_BYTES == 32 else 3
    cdef __m256i mask_u8x32 = _mm256_set1_epi8(<char>(15 << bits))
    cdef __m256i bytes_u8x32
    cdef Py_ssize_t k8
    for k8 in range(k8s):
        bytes_u8x32 = _mm256_loadu_si256(<const __m256i *>(packed + k8 * 32))
        _mm256_storeu_si256(<__m256i *>(eighths + k8 * 64), _mm256_and_si256(
            _mm256_slli_epi16(bytes_u8x32, 2 if VECTOR_BYTES == 32 else 3), mask_u8x32))
        _mm256_storeu_si256(<__m256i *>(eighths + k8 * 64 + 32), _mm256_and_si256(
            _mm256_srli_epi16(bytes_u8x32, 2 if VECTOR_BYTES == 32 else 1), mask_u8x32))


cdef inline void sum_binary(const uint8_t *eighths, Py_ssize_t k4s, const char *tables,
                            vector *sums, int lanes) noexcept nogil:
    # Eight places in one load, as in sum_ternary.
    cdef uint64_t eight
    cdef Py_ssize_t k4
    cdef int r
    for k4 in range(k4s):
        memcpy(&eight, eighths, 8)
        for r in range(LUT_ROWS):
            sums[r] = add_vectors(sums[r], load_vector(
                tables + <Py_ssize_t>(<uint8_t>(eight >> (8 * r))) * 8), lanes)
        eighths += 32
        tables += 16 * VECTOR_BYTES


cdef inline void sum_ternary(const uint16_t *offsets, Py_ssize_t k4s, const char *tables,
                             vector *sums, int lanes) noexcept nogil:
    # Four offsets in one load: the ports that load are what binds.
    cdef uint64_t four
    cdef Py_ssize_t k4
    cdef int r, i
    for k4 in range(k4s):
        for r in range(0, LUT_ROWS, 4):
            memcpy(&four, offsets + r, 8)
            for i in range(4):
                sums[r + i] = add_vectors(
                    sums[r + i],
                    load_vector(tables + <uint16_t>(four >> (16 * i))), lanes)
        offsets += 32
        tables += 81 * VECTOR_BYTES


cdef inline void ask_tile(const Weights *w, Py_ssize_t tile, Py_ssize_t group, Py_ssize_t first,
                          Py_ssize_t last, int planes) noexcept nogil:
    # The same k of a tile that is far from this one: no processor asks for it by itself.
    cdef const char *packed = <const char *>w.packed + (
        (tile * w.groups + group) * w.group_size + first >> 3) * 32 * planes
    cdef Py_ssize_t at
    for at in range(0, (last - first) * 4 * planes, 64):
        _mm_prefetch(packed + at, _MM_HINT_T0)
    _mm_prefetch(<const char *>w.scales + scales_at(w, tile, group), _MM_HINT_T0)


cdef inline void lut_gemm_tile(const Weights *w, Py_ssize_t tile, Py_ssize_t group,
                              Py_ssize_t first, Py_ssize_t last, const char *tables,
                              const float *x_scales, const float *x_sums, char *sums, float *y,
                              int planes, int lanes) noexcept nogil:
    # k of one group from first up to last; the last of them adds the group to y.
    cdef vector totals[LUT_ROWS]
    cdef uint16_t offsets[16 * 32]
    cdef uint8_t eighths[32 * 32]
    cdef __m256 scales_f32x8[4]
    cdef __m256 offsets_f32x8[4]
    cdef Py_ssize_t r, i
    cdef Py_ssize_t count = lanes_of(lanes)
    cdef Py_ssize_t at = scales_at(w, tile, group)
    cdef const uint8_t *packed = w.packed + (
        (tile * w.groups + group) * w.group_size + first >> 3) * 32 * planes
    if planes == 2:
        find_entries(packed, last - first >> 3, offsets)
    else:
        find_nibbles(packed, last - first >> 3, eighths)
    if last == w.group_size:
        load_vectors(<const char *>w.scales + at, w.scale_type, scales_f32x8)
    for r in range(0, 32, 8):
        for i in range(LUT_ROWS):
            totals[i] = zero_vector() if first == 0 else load_vector(sums + (r + i) * VECTOR_BYTES)
        if planes == 1:
            sum_binary(eighths + r, last - first >> 2, tables, totals, lanes)
        else:
            sum_ternary(offsets + 2 * (r & 8) + (r & 16) // 2, last - first >> 2, tables, totals,
                        lanes)
        if last < w.group_size:
            for i in range(LUT_ROWS):
                store_vector(sums + (r + i) * VECTOR_BYTES, totals[i])
        else:
            for i in range(LUT_ROWS):
                finish_columns(y + (r + i) * count, totals[i], (<float *>scales_f32x8)[r + i],
                               x_scales, lanes)
    if planes == 1 and w.zero == ZERO_OFFSET and last == w.group_size:
        load_offsets(w, tile, group, offsets_f32x8)
        for r in range(32):
            finish_offset(y + r * count, x_sums, (<float *>offsets_f32x8)[r], x_scales, lanes)


cdef inline void finish_columns(float *y, vector total, float w_scale, const float *x_scales,
                                int lanes) noexcept nogil:
    if lanes == LANES_FLOAT32:
        add_floats(y, total, w_scale)
    else:
        add_integers(y, total, w_scale, x_scales, lanes)


cdef inline void finish_offset(float *y, const float *x_sums, float midpoint,
                                 const float *x_scales, int lanes) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(lanes_of(lanes)):
        if lanes == LANES_FLOAT32:
            y[i] += x_sums[i] * midpoint
        else:
            y[i] += x_sums[i] * (midpoint * x_scales[i])


cdef inline void store_columns(const Weights *w, const float *y, Py_ssize_t rows, float *out,
                               Py_ssize_t out_stride, Py_ssize_t tile,
                               Py_ssize_t count) noexcept nogil:
    # y [32 rows of weights][row of x] to `rows` rows of out.
    cdef float transposed[8 * 32]
    cdef Py_ssize_t row, column, i
    cdef Py_ssize_t columns = min(<Py_ssize_t>32, w.out_features - tile * 32)
    for row in range(0, rows, 8):
        for column in range(0, 32, 8):
            transpose_f32(y + column * count + row, count, transposed + column, 32)
        for i in range(min(<Py_ssize_t>8, rows - row)):
            memcpy(out + (row + i) * out_stride + tile * 32, transposed + i * 32,
                   columns * sizeof(float))


cdef inline void lut_gemm_piece(const Weights *w, const void *prepared, Py_ssize_t rows,
                                  float *out, Py_ssize_t out_stride, void *scratch,
                                  const Piece *piece,
                                  int planes, int lanes) noexcept nogil:
    cdef Py_ssize_t count = lanes_of(lanes)
    cdef Py_ssize_t blocks = (rows + count - 1) // count
    cdef Py_ssize_t span = lut_span(w, planes)
    cdef Py_ssize_t table_bytes = entries_of(planes) * VECTOR_BYTES
    cdef const char *columns = <const char *>prepared
    cdef const float *scales = <const float *>(
        columns + blocks * w.groups * w.group_size * VECTOR_BYTES)
    cdef const float *x_sums = scales + blocks * w.groups * count
    cdef char *tables = <char *>scratch
    cdef char *sums = tables + span // 4 * table_bytes
    cdef float *y = <float *>(sums + LUT_TILES * 32 * VECTOR_BYTES)
    cdef Py_ssize_t block, tile, tiles, t, group, first, last, k, at
    for block in range(piece.row_begin // count, (piece.row_end + count - 1) // count):
        tile = piece.tile_begin
        while tile < piece.tile_end:
            tiles = min(<Py_ssize_t>LUT_TILES, piece.tile_end - tile)
            memset(y, 0, tiles * 32 * count * sizeof(float))
            for group in range(w.groups):
                at = block * w.groups + group
                first = 0
                while first < w.group_size:
                    last = min(first + span, w.group_size)
                    for k in range(0, last - first, 4):
                        make_columns(columns + (at * w.group_size + first + k) * VECTOR_BYTES,
                                     tables + k // 4 * table_bytes, planes, lanes)
                    for t in range(tiles):
                        if t + LUT_AHEAD < tiles:
                            ask_tile(w, tile + t + LUT_AHEAD, group, first, last, planes)
                        lut_gemm_tile(w, tile + t, group, first, last, tables,
                                     scales + at * count, x_sums + at * count,
                                     sums + t * 32 * VECTOR_BYTES, y + t * 32 * count,
                                     planes, lanes)
                    first = last
            for t in range(tiles):
                store_columns(w, y + t * 32 * count, min(count, rows - block * count),
                              out + block * count * out_stride, out_stride, tile + t, count)
            tile += tiles
