# Dequantize, unpack and pack, a row of a tile at a time: reads and writes of the large side are
# sequential, and the packed bytes of 32 rows x ARRAY_CHUNK columns stay in L1 while their rows
# pass. Eight columns of one row are a byte of each plane, or a dword of nibbles, which
# one broadcast brings to all lanes, or two dwords of bytes.

cdef enum:
    ARRAY_CHUNK = 512         # columns; whole groups of any size
    STREAMED_BYTES = 16777216


cdef inline bint is_even(int layout) noexcept nogil:
    # Whole codes one step apart: floats are made of numbers, not looked up.
    return layout == NIBBLES or layout == BYTES


cdef inline Py_ssize_t row_offset(int layout, Py_ssize_t row) noexcept nogil:
    return row * LAYOUTS[layout].row_bytes


cdef inline __m256 repeat_byte(const uint8_t *byte) noexcept nogil:
    # Bit i of the byte becomes the sign of lane i.
    return _mm256_castsi256_ps(_mm256_sllv_epi32(
        _mm256_set1_epi8(<char>byte[0]), _mm256_setr_epi32(7, 6, 5, 4, 3, 2, 1, 0)))


cdef struct RowLevels:
    # What the codes stand for in one row and group, offset and all: a vector for each of up to 4
    # codes of planes, or their levels side by side; of whole codes what they are too large by,
    # scale, offset.
    __m256 of_f32x8[4]
    bint has_offset


cdef inline void set_levels(int layout, const float *of_codes, float scale, float zero,
                            RowLevels *levels) noexcept nogil:
    # Each level is rounded as the definition rounds it, a product and then a sum. of_codes: levels,
    # too large by zero.
    cdef __m256 scale_f32x8 = _mm256_set1_ps(scale)
    cdef __m256 zero_f32x8 = _mm256_set1_ps(zero)
    cdef int code
    levels.has_offset = False
    if is_even(layout):
        levels.of_f32x8[0] = zero_f32x8
        levels.of_f32x8[1] = scale_f32x8
    elif layout == THREE_PLANES or layout == LEVELS:
        for code in range(2):
            levels.of_f32x8[code] = _mm256_mul_ps(
                scale_f32x8, _mm256_sub_ps(_mm256_loadu_ps(of_codes + 8 * code), zero_f32x8))
    else:
        for code in range(2 * LAYOUTS[layout].planes):
            levels.of_f32x8[code] = _mm256_mul_ps(
                scale_f32x8, _mm256_sub_ps(_mm256_set1_ps(of_codes[code]), zero_f32x8))


cdef inline void move_levels(int layout, float offset, RowLevels *levels) noexcept nogil:
    cdef __m256 offset_f32x8 = _mm256_set1_ps(offset)
    cdef int code
    if is_even(layout):
        levels.of_f32x8[2] = offset_f32x8
        levels.has_offset = True
        return
    # A vector for each code of one or two planes, else 8 levels each.
    for code in range(4 if LAYOUTS[layout].planes == 2 else 2):
        levels.of_f32x8[code] = _mm256_add_ps(levels.of_f32x8[code], offset_f32x8)


cdef inline __m256i bits_of_3(const uint8_t *packed) noexcept nogil:
    # Three planes of 8 columns of one row: the code of each.
    cdef __m256i codes_i32x8 = _mm256_srlv_epi32(
        _mm256_set1_epi32(<int>(<uint32_t>packed[0] | <uint32_t>packed[32] << 8
                                | <uint32_t>packed[64] << 16)),
        _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))
    return _mm256_or_si256(
        _mm256_and_si256(codes_i32x8, _mm256_set1_epi32(1)),
        _mm256_or_si256(
            _mm256_and_si256(_mm256_srli_epi32(codes_i32x8, 7), _mm256_set1_epi32(2)),
            _mm256_and_si256(_mm256_srli_epi32(codes_i32x8, 14), _mm256_set1_epi32(4))))


cdef inline __m256 floats_of_8(int layout, const uint8_t *packed,
                               const RowLevels *levels) noexcept nogil:
    cdef __m256 first, second
    cdef int32_t dword, second_dword
    cdef __m256i codes_i32x8
    if layout == ONE_PLANE:
        return _mm256_blendv_ps(levels.of_f32x8[0], levels.of_f32x8[1], repeat_byte(packed))
    if LAYOUTS[layout].planes == 2:
        first = repeat_byte(packed)
        second = repeat_byte(packed + 32)
        return _mm256_blendv_ps(
            _mm256_blendv_ps(levels.of_f32x8[0], levels.of_f32x8[1], first),
            _mm256_blendv_ps(levels.of_f32x8[2], levels.of_f32x8[3], first), second)
    if layout == THREE_PLANES:
        return _mm256_permutevar8x32_ps(levels.of_f32x8[0], bits_of_3(packed))
    memcpy(&dword, packed, 4)
    if layout == BYTES:
        memcpy(&second_dword, packed + 128, 4)
        codes_i32x8 = _mm256_cvtepu8_epi32(_mm_setr_epi32(dword, second_dword, 0, 0))
    else:
        codes_i32x8 = _mm256_and_si256(
            _mm256_srlv_epi32(_mm256_set1_epi32(dword),
                              _mm256_setr_epi32(0, 8, 16, 24, 4, 12, 20, 28)),
            _mm256_set1_epi32(15))
    if layout == LEVELS:
        return _mm256_blendv_ps(
            _mm256_permutevar8x32_ps(levels.of_f32x8[0], codes_i32x8),
            _mm256_permutevar8x32_ps(levels.of_f32x8[1], codes_i32x8),
            _mm256_castsi256_ps(_mm256_slli_epi32(codes_i32x8, 28)))
    first = _mm256_mul_ps(
        _mm256_sub_ps(_mm256_cvtepi32_ps(codes_i32x8), levels.of_f32x8[0]), levels.of_f32x8[1])
    return _mm256_add_ps(first, levels.of_f32x8[2]) if levels.has_offset else first


cdef inline void dequantize_row(int layout, const uint8_t *packed, Py_ssize_t count,
                                const RowLevels *row_levels, bint streamed,
                                float *out) noexcept nogil:
    cdef RowLevels levels = row_levels[0]
    cdef Py_ssize_t k8
    cdef __m256 values_f32x8
    cdef float last[8]
    for k8 in range(count >> 3):
        values_f32x8 = floats_of_8(layout, packed + k8 * block_bytes(layout), &levels)
        if streamed:
            _mm_stream_ps(out + k8 * 8, _mm256_castps256_ps128(values_f32x8))
            _mm_stream_ps(out + k8 * 8 + 4, _mm256_extractf128_ps(values_f32x8, 1))
        else:
            _mm256_storeu_ps(out + k8 * 8, values_f32x8)
    if count & 7:
        _mm256_storeu_ps(last, floats_of_8(
            layout, packed + (count >> 3) * block_bytes(layout), &levels))
        memcpy(out + (count & ~<Py_ssize_t>7), last, (count & 7) * sizeof(float))


cdef inline void dequantize_chunk(const Weights *w, Py_ssize_t tile, Py_ssize_t begin,
                                  Py_ssize_t end, float *out, Py_ssize_t out_stride,
                                  int layout, bint streamed) noexcept nogil:
    # Groups [begin, end) of a tile; at most ARRAY_CHUNK / 32 of them.
    cdef __m256 scales_f32x8[16][4]
    cdef __m256 zeros_f32x8[16][4]
    cdef __m256 offsets_f32x8[16][4]
    cdef int32_t zero = common_zero(w)
    cdef TileScales t
    cdef RowLevels levels
    cdef Py_ssize_t group, row, i
    cdef const uint8_t *packed
    cdef float of_codes[16]
    float_levels(w, of_codes)
    for i in range(16):
        of_codes[i] += <float>zero
    for group in range(begin, end):
        load_tile_scales(w, zero, tile, group, &t)
        for i in range(4):
            scales_f32x8[group - begin][i] = t.scales_f32x8[i]
            zeros_f32x8[group - begin][i] = _mm256_cvtepi32_ps(t.zeros_i32x8[i])
            if t.has_offsets:
                offsets_f32x8[group - begin][i] = t.offsets_f32x8[i]
    for row in range(min(<Py_ssize_t>32, w.out_features - tile * 32)):
        for group in range(begin, end):
            packed = (w.packed
                      + (tile * w.groups + group) * (w.group_size >> 3) * block_bytes(layout)
                      + row_offset(layout, row))
            set_levels(layout, of_codes, (<float *>scales_f32x8[group - begin])[row],
                       (<float *>zeros_f32x8[group - begin])[row], &levels)
            if t.has_offsets:
                move_levels(layout, (<float *>offsets_f32x8[group - begin])[row], &levels)
            dequantize_row(layout, packed,
                           min(w.group_size, w.in_features - group * w.group_size), &levels,
                           streamed, out + (tile * 32 + row) * out_stride + group * w.group_size)


cdef inline void dequantize_tiles(const Weights *w, float *out, Py_ssize_t out_stride,
                                  Py_ssize_t tile_begin, Py_ssize_t tile_end,
                                  int layout) noexcept nogil:
    cdef Py_ssize_t tile, chunk, begin, end
    cdef Py_ssize_t step = ARRAY_CHUNK // w.group_size
    # What no cache holds is written past the caches: memory is then not read before it is written.
    # A single tile is a block that its caller reads at once.
    cdef bint streamed = (
        w.out_features * w.in_features * <Py_ssize_t>sizeof(float) >= STREAMED_BYTES
        and tile_end - tile_begin > 1 and (<size_t>out & 15) == 0 and (out_stride & 3) == 0)
    for tile in range(tile_begin, tile_end):
        for chunk in range((w.groups + step - 1) // step):
            begin = chunk * step
            end = min(begin + step, w.groups)
            if streamed:
                dequantize_chunk(w, tile, begin, end, out, out_stride, layout, True)
            else:
                dequantize_chunk(w, tile, begin, end, out, out_stride, layout, False)
    if streamed:
        _mm_sfence()


cdef inline __m256i set_bits_of_32(const uint8_t *packed, Py_ssize_t stride) noexcept nogil:
    # 32 columns of one row, -1 where the bit is set: four bytes, each spread over eight.
    cdef uint32_t bits = (<uint32_t>packed[0] | <uint32_t>packed[stride] << 8
                          | <uint32_t>packed[2 * stride] << 16
                          | <uint32_t>packed[3 * stride] << 24)
    cdef __m256i bit_u8x32 = _mm256_set1_epi64x(<int64_t>0x8040201008040201)
    cdef __m256i spread_u8x32 = _mm256_shuffle_epi8(
        _mm256_set1_epi32(<int>bits), _mm256_setr_epi64x(
            0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303))
    return _mm256_cmpeq_epi8(_mm256_and_si256(spread_u8x32, bit_u8x32), bit_u8x32)


cdef inline __m256i codes_of_32(int layout, const uint8_t *packed, __m256i first_i8x32,
                                __m256i levels_i8x32) noexcept nogil:
    cdef int32_t dwords[8]
    cdef int i
    cdef __m256i both, set_i8x32
    cdef __m128i packed_u8x16
    if LAYOUTS[layout].row_bytes == 1:
        both = first_i8x32
        for i in range(LAYOUTS[layout].planes):
            # Set bits are -1.
            set_i8x32 = set_bits_of_32(packed + i * 32, block_bytes(layout))
            for _ in range(plane_step(layout, i) >> 1):
                set_i8x32 = _mm256_add_epi8(set_i8x32, set_i8x32)
            both = _mm256_sub_epi8(both, set_i8x32)
        return both
    for i in range(8 if layout == BYTES else 4):
        memcpy(&dwords[i], packed + i * 128, 4)
    if layout == BYTES:
        return _mm256_add_epi8(_mm256_loadu_si256(<const __m256i *>dwords), first_i8x32)
    packed_u8x16 = _mm_setr_epi32(dwords[0], dwords[1], dwords[2], dwords[3])
    # Each dword twice: its low nibbles are 4 columns, its high ones the next 4.
    both = _mm256_permutevar8x32_epi32(_mm256_broadcastsi128_si256(packed_u8x16),
                                       _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3))
    both = _mm256_srlv_epi32(both, _mm256_setr_epi32(0, 4, 0, 4, 0, 4, 0, 4))
    both = _mm256_and_si256(both, _mm256_set1_epi8(15))
    if layout == LEVELS:
        return _mm256_shuffle_epi8(levels_i8x32, both)
    return _mm256_add_epi8(both, first_i8x32)


cdef inline void unpack_tiles(const Weights *w, int8_t *codes, Py_ssize_t codes_stride,
                              Py_ssize_t tile_begin, Py_ssize_t tile_end,
                              int layout) noexcept nogil:
    # Whole codes are signed only where nothing else says where zero lies.
    cdef __m256i first_i8x32 = _mm256_set1_epi8(<char>first_level(w.format, w.zero))
    cdef __m256i levels_i8x32 = _mm256_broadcastsi128_si256(
        _mm_loadu_si128(<const __m128i *>SPECS[w.format].levels))
    cdef Py_ssize_t k8s = w.groups * (w.group_size >> 3)
    cdef Py_ssize_t tile, chunk, begin, end, row, k
    cdef const uint8_t *packed
    cdef int8_t *target
    cdef int8_t last[32]
    for tile in range(tile_begin, tile_end):
        for chunk in range((w.in_features + ARRAY_CHUNK - 1) // ARRAY_CHUNK):
            begin = chunk * ARRAY_CHUNK
            end = min(begin + ARRAY_CHUNK, w.in_features)
            for row in range(min(<Py_ssize_t>32, w.out_features - tile * 32)):
                packed = w.packed + tile * k8s * block_bytes(layout) + row_offset(layout, row)
                target = codes + (tile * 32 + row) * codes_stride
                for k in range(begin, end - 31, 32):
                    _mm256_storeu_si256(<__m256i *>(target + k), codes_of_32(
                        layout, packed + (k >> 3) * block_bytes(layout), first_i8x32, levels_i8x32))
                k = end & ~<Py_ssize_t>31
                if k < end:
                    _mm256_storeu_si256(<__m256i *>last, codes_of_32(
                        layout, packed + (k >> 3) * block_bytes(layout), first_i8x32, levels_i8x32))
                    memcpy(target + k, last, end - k)


cdef struct Coding:
    # How 32 codes of one row are stored.
    __m256i first_i8x32
    uint8_t stored[256]           # the stored code of each level
    __m256i stored_u8x32          # of those up to 15 above the first


cdef inline void set_coding(const Weights *w, Coding *coding) noexcept nogil:
    cdef int first = first_level(w.format, w.zero)
    cdef int i
    cdef uint8_t above[16]
    coding.first_i8x32 = _mm256_set1_epi8(<char>first)
    stored_codes(w.format, w.zero, coding.stored)
    for i in range(16):
        above[i] = coding.stored[<uint8_t>(first + i)]
    coding.stored_u8x32 = _mm256_broadcastsi128_si256(_mm_loadu_si128(<const __m128i *>above))


cdef inline void pack_32(int layout, __m256i codes_i8x32, const Coding *coding,
                         uint8_t *packed) noexcept nogil:
    # 32 columns of one row.
    cdef uint32_t bits
    cdef int64_t qwords[4]
    cdef uint8_t codes[32]
    cdef int i, plane
    if LAYOUTS[layout].row_bytes == 1:
        codes_i8x32 = _mm256_shuffle_epi8(
            coding.stored_u8x32, _mm256_sub_epi8(codes_i8x32, coding.first_i8x32))
        for plane in range(LAYOUTS[layout].planes):
            # The bit of the plane, moved to the top of each byte.
            bits = <uint32_t>_mm256_movemask_epi8(_mm256_slli_epi16(codes_i8x32, 7 - plane))
            for i in range(4):
                packed[i * block_bytes(layout) + plane * 32] = <uint8_t>(bits >> (8 * i))
        return
    if layout == LEVELS:
        _mm256_storeu_si256(<__m256i *>codes, codes_i8x32)
        for i in range(32):
            codes[i] = coding.stored[codes[i]]
        codes_i8x32 = _mm256_loadu_si256(<const __m256i *>codes)
    else:
        codes_i8x32 = _mm256_sub_epi8(codes_i8x32, coding.first_i8x32)
    if layout == BYTES:
        _mm256_storeu_si256(<__m256i *>codes, codes_i8x32)
        for i in range(8):
            memcpy(packed + i * 128, codes + 4 * i, 4)
        return
    # A qword holds 8 columns; moved down by 28 bits, its last four come between its first four.
    _mm256_storeu_si256(<__m256i *>qwords, _mm256_or_si256(
        codes_i8x32, _mm256_srli_epi64(codes_i8x32, 28)))
    for i in range(4):
        memcpy(packed + i * 128, &qwords[i], 4)


cdef inline void pack_tiles(const Weights *w, const int8_t *codes, Py_ssize_t codes_stride,
                            uint8_t *packed, Py_ssize_t tile_begin, Py_ssize_t tile_end,
                            int layout) noexcept nogil:
    cdef Py_ssize_t tile_bytes = w.groups * (w.group_size >> 3) * block_bytes(layout)
    cdef Py_ssize_t tile, chunk, begin, end, row, k
    cdef Coding coding
    # The code that is stored as zero bits, for the columns of the padding.
    cdef int padding = first_level(w.format, w.zero)
    cdef const int8_t *source
    cdef uint8_t *target
    cdef int8_t last[32]
    set_coding(w, &coding)
    for tile in range(tile_begin, tile_end):
        memset(packed + tile * tile_bytes, 0, tile_bytes)
        for chunk in range((w.in_features + ARRAY_CHUNK - 1) // ARRAY_CHUNK):
            begin = chunk * ARRAY_CHUNK
            end = min(begin + ARRAY_CHUNK, w.in_features)
            for row in range(min(<Py_ssize_t>32, w.out_features - tile * 32)):
                source = codes + (tile * 32 + row) * codes_stride
                target = packed + tile * tile_bytes + row_offset(layout, row)
                for k in range(begin, end - 31, 32):
                    pack_32(layout, _mm256_loadu_si256(<const __m256i *>(source + k)),
                            &coding, target + (k >> 3) * block_bytes(layout))
                k = end & ~<Py_ssize_t>31
                if k < end:
                    memset(last, padding, 32)
                    memcpy(last, source + k, end - k)
                    pack_32(layout, _mm256_loadu_si256(<const __m256i *>last), &coding,
                            target + (k >> 3) * block_bytes(layout))


include "../common/array_kernels.pxi"
