# Unpack, dequantize and pack. Codes come as quads (quads.pxi), four rows of four k a vector, which
# are transposed to 16 k of a row.

cdef inline void transpose_quads(const int8_t *quads, int8x16_t *rows_s8x16) noexcept nogil:
    # 16 k of 4 rows.
    cdef int32x4_t first_s32x4 = vreinterpretq_s32_s8(vld1q_s8(quads))
    cdef int32x4_t second_s32x4 = vreinterpretq_s32_s8(vld1q_s8(quads + 128))
    cdef int32x4_t third_s32x4 = vreinterpretq_s32_s8(vld1q_s8(quads + 256))
    cdef int32x4_t fourth_s32x4 = vreinterpretq_s32_s8(vld1q_s8(quads + 384))
    cdef int64x2_t even_s64x2 = vreinterpretq_s64_s32(vtrn1q_s32(first_s32x4, second_s32x4))
    cdef int64x2_t odd_s64x2 = vreinterpretq_s64_s32(vtrn2q_s32(first_s32x4, second_s32x4))
    cdef int64x2_t last_even_s64x2 = vreinterpretq_s64_s32(vtrn1q_s32(third_s32x4, fourth_s32x4))
    cdef int64x2_t last_odd_s64x2 = vreinterpretq_s64_s32(vtrn2q_s32(third_s32x4, fourth_s32x4))
    rows_s8x16[0] = vreinterpretq_s8_s64(vtrn1q_s64(even_s64x2, last_even_s64x2))
    rows_s8x16[1] = vreinterpretq_s8_s64(vtrn1q_s64(odd_s64x2, last_odd_s64x2))
    rows_s8x16[2] = vreinterpretq_s8_s64(vtrn2q_s64(even_s64x2, last_even_s64x2))
    rows_s8x16[3] = vreinterpretq_s8_s64(vtrn2q_s64(odd_s64x2, last_odd_s64x2))


cdef inline void store_row(int8x16_t row_s8x16, int32_t zero, float scale, const float *offset,
                           float *out) noexcept nogil:
    # 16 weights of a row; the product and the sum are rounded by themselves.
    cdef int16x8_t halves_s16x8[2]
    cdef int32x4_t quarters_s32x4[4]
    cdef float32x4_t weights_f32x4
    cdef int i
    halves_s16x8[0] = vmovl_s8(vget_low_s8(row_s8x16))
    halves_s16x8[1] = vmovl_s8(vget_high_s8(row_s8x16))
    for i in range(2):
        quarters_s32x4[2 * i] = vmovl_s16(vget_low_s16(halves_s16x8[i]))
        quarters_s32x4[2 * i + 1] = vmovl_s16(vget_high_s16(halves_s16x8[i]))
    for i in range(4):
        weights_f32x4 = vmulq_n_f32(
            vcvtq_f32_s32(vsubq_s32(quarters_s32x4[i], vdupq_n_s32(zero))), scale)
        if offset != NULL:
            weights_f32x4 = vaddq_f32(weights_f32x4, vdupq_n_f32(offset[0]))
        vst1q_f32(out + 4 * i, weights_f32x4)


cdef void unpack(const Weights *w, int8_t *codes, Py_ssize_t codes_stride,
                 Py_ssize_t tile_begin, Py_ssize_t tile_end) noexcept nogil:
    # Whole codes are signed only where nothing else says where zero lies.
    cdef int8_t block[256 * 32]
    cdef int8_t zero_points[32]
    cdef int8x16_t rows_s8x16[4]
    cdef int8_t padded[16]
    cdef int8_t *target
    cdef Py_ssize_t tile, group, k, rows, count
    cdef int i, r
    memset(zero_points, 0, 32)
    for tile in range(tile_begin, tile_end):
        rows = min(<Py_ssize_t>32, w.out_features - tile * 32)
        for group in range(w.groups):
            count = min(w.group_size, w.in_features - group * w.group_size)
            if SPECS[w.format].layout == NIBBLES and w.zero == ZERO_CODE:
                quads_of_nibbles(w.packed + (tile * w.groups + group) * w.group_size * 16,
                                 w.group_size >> 3, zero_points, block, False)
            else:
                decode_quads(w, tile, group, block)
            if SPECS[w.format].layout == BYTES and w.zero != ZERO_NONE:
                for k in range(w.group_size * 32):
                    block[k] = <int8_t>(<uint8_t>block[k] ^ 128)
            for i in range(8):
                for k in range(0, count, 16):
                    transpose_quads(block + k * 32 + i * 16, rows_s8x16)
                    for r in range(min(<Py_ssize_t>4, rows - 4 * i)):
                        target = (codes + (tile * 32 + 4 * i + r) * codes_stride
                                  + group * w.group_size + k)
                        if k + 16 <= count:
                            vst1q_s8(target, rows_s8x16[r])
                        else:
                            vst1q_s8(padded, rows_s8x16[r])
                            memcpy(target, padded, count - k)


cdef void dequantize(const Weights *w, float *out, Py_ssize_t out_stride,
                     Py_ssize_t tile_begin, Py_ssize_t tile_end) noexcept nogil:
    cdef int8_t block[256 * 32]
    cdef float w_scales[32]
    cdef float offsets[32]
    cdef int8x16_t rows_s8x16[4]
    cdef int32_t zeros[32]
    cdef float padded[16]
    cdef float *target
    cdef const float *offset
    cdef Py_ssize_t tile, group, k, row, rows, count
    cdef int i, r
    cdef bint has_offsets = w.zero == ZERO_OFFSET
    for tile in range(tile_begin, tile_end):
        rows = min(<Py_ssize_t>32, w.out_features - tile * 32)
        for group in range(w.groups):
            count = min(w.group_size, w.in_features - group * w.group_size)
            decode_quads(w, tile, group, block)
            load_zeros_left(w, tile, group, zeros)
            load_floats(w, w.scales, w.scale_type, tile, group, w_scales)
            if has_offsets:
                load_floats(w, w.offsets, w.offset_type, tile, group, offsets)
            for i in range(8):
                for k in range(0, count, 16):
                    transpose_quads(block + k * 32 + i * 16, rows_s8x16)
                    for r in range(min(<Py_ssize_t>4, rows - 4 * i)):
                        row = 4 * i + r
                        offset = offsets + row if has_offsets else NULL
                        target = out + (tile * 32 + row) * out_stride + group * w.group_size + k
                        if k + 16 <= count:
                            store_row(rows_s8x16[r], zeros[row], w_scales[row], offset, target)
                        else:
                            store_row(rows_s8x16[r], zeros[row], w_scales[row], offset, padded)
                            memcpy(target, padded, (count - k) * sizeof(float))


cdef inline void store_stored(const uint8_t *stored, uint8_t *packed, Py_ssize_t row,
                              int layout) noexcept nogil:
    # 16 stored codes of a row to the two blocks of 8 k that hold them.
    cdef uint8x16_t stored_u8x16 = vld1q_u8(stored)
    cdef uint8x16_t bits_u8x16
    cdef Py_ssize_t size = block_bytes(layout)
    cdef int plane
    if LAYOUTS[layout].row_bytes == 1:
        for plane in range(LAYOUTS[layout].planes):
            bits_u8x16 = vandq_u8(
                vtstq_u8(stored_u8x16, vdupq_n_u8(<uint8_t>(1 << plane))),
                vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201)))
            packed[plane * 32 + row] = vaddv_u8(vget_low_u8(bits_u8x16))
            packed[size + plane * 32 + row] = vaddv_u8(vget_high_u8(bits_u8x16))
        return
    if layout == BYTES:
        for plane in range(4):
            memcpy(packed + plane * 128 + row * 4, stored + 4 * plane, 4)
        return
    # k .. k + 3 in low nibbles, k + 4 .. k + 7 in high ones.
    bits_u8x16 = vreinterpretq_u8_u32(vuzp2q_u32(
        vreinterpretq_u32_u8(stored_u8x16), vreinterpretq_u32_u8(stored_u8x16)))
    stored_u8x16 = vreinterpretq_u8_u32(vuzp1q_u32(
        vreinterpretq_u32_u8(stored_u8x16), vreinterpretq_u32_u8(stored_u8x16)))
    stored_u8x16 = vorrq_u8(stored_u8x16, vshlq_n_u8(bits_u8x16, 4))
    store_word(packed + row * 4, vgetq_lane_u32(vreinterpretq_u32_u8(stored_u8x16), 0))
    store_word(packed + size + row * 4, vgetq_lane_u32(vreinterpretq_u32_u8(stored_u8x16), 1))


cdef inline void pack_tiles(const Weights *w, const int8_t *codes, Py_ssize_t codes_stride,
                            uint8_t *packed, Py_ssize_t tile_begin, Py_ssize_t tile_end,
                            int layout) noexcept nogil:
    cdef Py_ssize_t k8s = w.groups * (w.group_size >> 3)
    cdef Py_ssize_t size = block_bytes(layout)
    cdef Py_ssize_t tile, row, k, rows
    cdef const int8_t *source
    cdef uint8_t numbers[256]
    cdef uint8_t stored[16]
    cdef int j, count
    stored_codes(w.format, w.zero, numbers)
    for tile in range(tile_begin, tile_end):
        memset(packed + tile * k8s * size, 0, k8s * size)
        rows = min(<Py_ssize_t>32, w.out_features - tile * 32)
        for row in range(rows):
            source = codes + (tile * 32 + row) * codes_stride
            for k in range(0, w.in_features, 16):
                count = <int>min(<Py_ssize_t>16, w.in_features - k)
                if count < 16:
                    memset(stored, 0, 16)
                for j in range(count):
                    stored[j] = numbers[<uint8_t>source[k + j]]
                store_stored(stored, packed + (tile * k8s + (k >> 3)) * size, row, layout)


cdef void pack(const Weights *w, const int8_t *codes, Py_ssize_t codes_stride, uint8_t *packed,
               Py_ssize_t tile_begin, Py_ssize_t tile_end) noexcept nogil:
    # A loop of its own for each layout.
    by_layout(SPECS[w.format].layout, pack_tiles, w, codes, codes_stride, packed, tile_begin,
              tile_end)
