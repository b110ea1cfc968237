# Dequantize, unpack and pack, a row of a tile at a time: reads and writes of the large side are
# sequential, and the packed bytes of 32 rows x ARRAY_CHUNK columns stay in L1 while their rows
# pass. Eight columns of one row are a byte (binary), two bytes (ternary) or a dword (int4), which
# one broadcast brings to all lanes.

cdef enum:
    ARRAY_CHUNK = 512         # columns; whole groups of any size
    STREAMED_BYTES = 16777216


cdef inline Py_ssize_t row_offset(int format, Py_ssize_t row) noexcept nogil:
    return row * SPECS[format].row_bytes


cdef inline __m256 repeat_byte(const uint8_t *byte) noexcept nogil:
    # Bit i of the byte becomes the sign of lane i.
    return _mm256_castsi256_ps(_mm256_sllv_epi32(
        _mm256_set1_epi8(<char>byte[0]), _mm256_setr_epi32(7, 6, 5, 4, 3, 2, 1, 0)))


cdef struct RowLevels:
    # What each code of planes stands for in one row and group, offset and all, or of whole codes:
    # what they are too large by, scale, offset.
    __m256 of_f32x8[4]
    bint has_offset


cdef inline void set_levels(int format, float scale, float zero, RowLevels *levels) noexcept nogil:
    # Each level is rounded as the definition rounds it, a product and then a sum.
    cdef __m256 scale_f32x8 = _mm256_set1_ps(scale)
    cdef int code
    levels.has_offset = False
    if SPECS[format].row_bytes > 1:
        levels.of_f32x8[0] = _mm256_set1_ps(zero)
        levels.of_f32x8[1] = scale_f32x8
        return
    for code in range(2 * SPECS[format].planes):
        levels.of_f32x8[code] = _mm256_mul_ps(
            scale_f32x8, _mm256_set1_ps(<float>SPECS[format].levels[code]))


cdef inline void move_levels(int format, float offset, RowLevels *levels) noexcept nogil:
    cdef __m256 offset_f32x8 = _mm256_set1_ps(offset)
    cdef int code
    if SPECS[format].row_bytes > 1:
        levels.of_f32x8[2] = offset_f32x8
        levels.has_offset = True
        return
    for code in range(2 * SPECS[format].planes):
        levels.of_f32x8[code] = _mm256_add_ps(levels.of_f32x8[code], offset_f32x8)


cdef inline __m256 floats_of_8(int format, const uint8_t *packed,
                               const RowLevels *levels) noexcept nogil:
    cdef __m256 first, second
    cdef int32_t dword
    cdef __m256i codes_i32x8
    if SPECS[format].planes == 2:
        first = repeat_byte(packed)
        second = repeat_byte(packed + 32)
        return _mm256_blendv_ps(
            _mm256_blendv_ps(levels.of_f32x8[0], levels.of_f32x8[1], first),
            _mm256_blendv_ps(levels.of_f32x8[2], levels.of_f32x8[3], first), second)
    if SPECS[format].row_bytes == 1:
        return _mm256_blendv_ps(levels.of_f32x8[0], levels.of_f32x8[1], repeat_byte(packed))
    memcpy(&dword, packed, 4)
    codes_i32x8 = _mm256_and_si256(
        _mm256_srlv_epi32(_mm256_set1_epi32(dword), _mm256_setr_epi32(0, 8, 16, 24, 4, 12, 20, 28)),
        _mm256_set1_epi32(15))
    first = _mm256_mul_ps(
        _mm256_sub_ps(_mm256_cvtepi32_ps(codes_i32x8), levels.of_f32x8[0]), levels.of_f32x8[1])
    return _mm256_add_ps(first, levels.of_f32x8[2]) if levels.has_offset else first


cdef inline void dequantize_row(int format, const uint8_t *packed, Py_ssize_t count,
                                const RowLevels *row_levels, bint streamed,
                                float *out) noexcept nogil:
    cdef RowLevels levels = row_levels[0]
    cdef Py_ssize_t k8
    cdef __m256 values_f32x8
    cdef float last[8]
    for k8 in range(count >> 3):
        values_f32x8 = floats_of_8(format, packed + k8 * block_bytes(format), &levels)
        if streamed:
            _mm_stream_ps(out + k8 * 8, _mm256_castps256_ps128(values_f32x8))
            _mm_stream_ps(out + k8 * 8 + 4, _mm256_extractf128_ps(values_f32x8, 1))
        else:
            _mm256_storeu_ps(out + k8 * 8, values_f32x8)
    if count & 7:
        _mm256_storeu_ps(last, floats_of_8(
            format, packed + (count >> 3) * block_bytes(format), &levels))
        memcpy(out + (count & ~<Py_ssize_t>7), last, (count & 7) * sizeof(float))


cdef inline void dequantize_chunk(const Weights *w, Py_ssize_t tile, Py_ssize_t begin,
                                  Py_ssize_t end, float *out, Py_ssize_t out_stride,
                                  int format, bint streamed) noexcept nogil:
    # Groups [begin, end) of a tile; at most ARRAY_CHUNK / 32 of them.
    cdef __m256 scales_f32x8[16][4]
    cdef __m256 zeros_f32x8[16][4]
    cdef __m256 offsets_f32x8[16][4]
    cdef TileScales t
    cdef RowLevels levels
    cdef Py_ssize_t group, row, i
    cdef const uint8_t *packed
    for group in range(begin, end):
        load_tile_scales(w, format, tile, group, &t)
        for i in range(4):
            scales_f32x8[group - begin][i] = t.scales_f32x8[i]
            zeros_f32x8[group - begin][i] = _mm256_cvtepi32_ps(t.zeros_i32x8[i])
            if t.has_offsets:
                offsets_f32x8[group - begin][i] = t.offsets_f32x8[i]
    for row in range(min(<Py_ssize_t>32, w.out_features - tile * 32)):
        for group in range(begin, end):
            packed = (w.packed
                      + (tile * w.groups + group) * (w.group_size >> 3) * block_bytes(format)
                      + row_offset(format, row))
            set_levels(format, (<float *>scales_f32x8[group - begin])[row],
                       (<float *>zeros_f32x8[group - begin])[row], &levels)
            if t.has_offsets:
                move_levels(format, (<float *>offsets_f32x8[group - begin])[row], &levels)
            dequantize_row(format, packed,
                           min(w.group_size, w.in_features - group * w.group_size), &levels,
                           streamed, out + (tile * 32 + row) * out_stride + group * w.group_size)


cdef inline void dequantize_tiles(const Weights *w, float *out, Py_ssize_t out_stride,
                                  Py_ssize_t tile_begin, Py_ssize_t tile_end,
                                  int format) noexcept nogil:
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
                dequantize_chunk(w, tile, begin, end, out, out_stride, format, True)
            else:
                dequantize_chunk(w, tile, begin, end, out, out_stride, format, False)
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


cdef inline __m256i codes_of_32(int format, const uint8_t *packed,
                                __m256i offset_i8x32) noexcept nogil:
    cdef int32_t dwords[4]
    cdef int i
    cdef __m256i both, low, high
    cdef __m128i packed_u8x16
    if format == FORMAT_BINARY:
        # 1 - 2 * unset = 1 + 2 * ~set
        both = set_bits_of_32(packed, 32)
        return _mm256_sub_epi8(_mm256_sub_epi8(_mm256_set1_epi8(-1), both), both)
    if format == FORMAT_TERNARY:
        return _mm256_sub_epi8(
            _mm256_sub_epi8(_mm256_set1_epi8(-1), set_bits_of_32(packed, 64)),
            set_bits_of_32(packed + 32, 64))
    if format == FORMAT_INT2:
        # -2 + first + 2 * second; set bits are -1.
        both = set_bits_of_32(packed + 32, 64)
        return _mm256_sub_epi8(
            _mm256_sub_epi8(_mm256_set1_epi8(-2), set_bits_of_32(packed, 64)),
            _mm256_add_epi8(both, both))
    for i in range(4):
        memcpy(&dwords[i], packed + i * 128, 4)
    packed_u8x16 = _mm_setr_epi32(dwords[0], dwords[1], dwords[2], dwords[3])
    # Each dword twice: its low nibbles are 4 columns, its high ones the next 4.
    both = _mm256_permutevar8x32_epi32(_mm256_broadcastsi128_si256(packed_u8x16),
                                       _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3))
    both = _mm256_srlv_epi32(both, _mm256_setr_epi32(0, 4, 0, 4, 0, 4, 0, 4))
    return _mm256_sub_epi8(_mm256_and_si256(both, _mm256_set1_epi8(15)), offset_i8x32)


cdef inline void unpack_tiles(const Weights *w, int8_t *codes, Py_ssize_t codes_stride,
                              Py_ssize_t tile_begin, Py_ssize_t tile_end,
                              int format) noexcept nogil:
    # Whole codes are signed only where nothing else says where zero lies.
    cdef __m256i offset_i8x32 = _mm256_set1_epi8(<char>common_zero(w, format))
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
                packed = w.packed + tile * k8s * block_bytes(format) + row_offset(format, row)
                target = codes + (tile * 32 + row) * codes_stride
                for k in range(begin, end - 31, 32):
                    _mm256_storeu_si256(<__m256i *>(target + k), codes_of_32(
                        format, packed + (k >> 3) * block_bytes(format), offset_i8x32))
                k = end & ~<Py_ssize_t>31
                if k < end:
                    _mm256_storeu_si256(<__m256i *>last, codes_of_32(
                        format, packed + (k >> 3) * block_bytes(format), offset_i8x32))
                    memcpy(target + k, last, end - k)


cdef inline void pack_32(int format, __m256i codes_i8x32, __m256i offset_i8x32,
                         uint8_t *packed) noexcept nogil:
    # 32 columns of one row.
    cdef uint32_t first, second
    cdef int64_t qwords[4]
    cdef int i
    if format == FORMAT_INT4:
        # A qword holds 8 columns; moved down by 28 bits, its last four come between its first four.
        codes_i8x32 = _mm256_add_epi8(codes_i8x32, offset_i8x32)
        _mm256_storeu_si256(<__m256i *>qwords, _mm256_or_si256(
            codes_i8x32, _mm256_srli_epi64(codes_i8x32, 28)))
        for i in range(4):
            memcpy(packed + i * 128, &qwords[i], 4)
        return
    if format == FORMAT_INT2:
        # Bits 0 and 1 of the code from 0, moved to the top of each byte.
        codes_i8x32 = _mm256_add_epi8(codes_i8x32, _mm256_set1_epi8(2))
        first = <uint32_t>_mm256_movemask_epi8(_mm256_slli_epi16(codes_i8x32, 7))
        second = <uint32_t>_mm256_movemask_epi8(_mm256_slli_epi16(codes_i8x32, 6))
        for i in range(4):
            packed[i * 64] = <uint8_t>(first >> (8 * i))
            packed[i * 64 + 32] = <uint8_t>(second >> (8 * i))
        return
    second = <uint32_t>_mm256_movemask_epi8(
        _mm256_cmpgt_epi8(codes_i8x32, _mm256_setzero_si256()))
    if format == FORMAT_BINARY:
        for i in range(4):
            packed[i * 32] = <uint8_t>(second >> (8 * i))
        return
    first = ~<uint32_t>_mm256_movemask_epi8(codes_i8x32)
    for i in range(4):
        packed[i * 64] = <uint8_t>(first >> (8 * i))
        packed[i * 64 + 32] = <uint8_t>(second >> (8 * i))


cdef inline void pack_tiles(const Weights *w, const int8_t *codes, Py_ssize_t codes_stride,
                            uint8_t *packed, Py_ssize_t tile_begin, Py_ssize_t tile_end,
                            int format) noexcept nogil:
    cdef Py_ssize_t tile_bytes = w.groups * (w.group_size >> 3) * block_bytes(format)
    cdef Py_ssize_t tile, chunk, begin, end, row, k
    cdef int offset = common_zero(w, format)
    cdef __m256i offset_i8x32 = _mm256_set1_epi8(<char>offset)
    # The code that is stored as zero bits, for the columns of the padding.
    cdef int padding = -offset if SPECS[format].row_bytes > 1 else SPECS[format].levels[0]
    cdef const int8_t *source
    cdef uint8_t *target
    cdef int8_t last[32]
    for tile in range(tile_begin, tile_end):
        memset(packed + tile * tile_bytes, 0, tile_bytes)
        for chunk in range((w.in_features + ARRAY_CHUNK - 1) // ARRAY_CHUNK):
            begin = chunk * ARRAY_CHUNK
            end = min(begin + ARRAY_CHUNK, w.in_features)
            for row in range(min(<Py_ssize_t>32, w.out_features - tile * 32)):
                source = codes + (tile * 32 + row) * codes_stride
                target = packed + tile * tile_bytes + row_offset(format, row)
                for k in range(begin, end - 31, 32):
                    pack_32(format, _mm256_loadu_si256(<const __m256i *>(source + k)),
                            offset_i8x32, target + (k >> 3) * block_bytes(format))
                k = end & ~<Py_ssize_t>31
                if k < end:
                    memset(last, padding, 32)
                    memcpy(last, source + k, end - k)
                    pack_32(format, _mm256_loadu_si256(<const __m256i *>last), offset_i8x32,
                            target + (k >> 3) * block_bytes(format))


include "../common/array_kernels.pxi"
