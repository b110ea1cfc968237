# Unpack, dequantize and pack: the unpacked tile [k][32], transposed. Shared by every module
# that has a decode_tile, decode_nibbles and load_floats.

cdef inline void unpack_tiles(const Weights *w, int8_t *codes, Py_ssize_t codes_stride,
                              Py_ssize_t tile_begin, Py_ssize_t tile_end,
                              int layout) noexcept nogil:
    # Whole codes are signed only where nothing else says where zero lies.
    cdef int8_t block[256 * 32]
    cdef int8_t zero_points[32]
    cdef Py_ssize_t tile, group, row, k, rows, count
    for tile in range(tile_begin, tile_end):
        rows = min(32, w.out_features - tile * 32)
        for group in range(w.groups):
            count = min(w.group_size, w.in_features - group * w.group_size)
            if layout == NIBBLES and w.zero == ZERO_CODE:
                memset(zero_points, 0, 32)
                decode_nibbles(
                    w.packed + (tile * w.groups + group) * (w.group_size >> 3) * 128,
                    w.group_size >> 3, NIBBLES, NULL, zero_points, block)
            else:
                decode_tile(w, tile, group, block, layout)
            if layout == BYTES and w.zero != ZERO_NONE:
                for k in range(w.group_size * 32):
                    block[k] = <int8_t>(<uint8_t>block[k] ^ 128)
            for row in range(rows):
                for k in range(count):
                    codes[(tile * 32 + row) * codes_stride + group * w.group_size + k] = (
                        block[k * 32 + row])


cdef inline void dequantize_tiles(const Weights *w, float *out, Py_ssize_t out_stride,
                                  Py_ssize_t tile_begin, Py_ssize_t tile_end,
                                  int layout) noexcept nogil:
    cdef int8_t block[256 * 32]
    cdef float w_scales[32]
    cdef float offsets[32]
    cdef int32_t zeros[32]
    cdef float *row_out
    cdef Py_ssize_t tile, group, row, k, rows, count
    cdef bint has_offsets = w.zero == ZERO_OFFSET
    for tile in range(tile_begin, tile_end):
        rows = min(32, w.out_features - tile * 32)
        for group in range(w.groups):
            count = min(w.group_size, w.in_features - group * w.group_size)
            decode_tile(w, tile, group, block, layout)
            load_zeros_left(w, tile, group, zeros)
            load_floats(w, w.scales, w.scale_type, tile, group, w_scales)
            if has_offsets:
                load_floats(w, w.offsets, w.offset_type, tile, group, offsets)
            for row in range(rows):
                row_out = out + (tile * 32 + row) * out_stride + group * w.group_size
                for k in range(count):
                    row_out[k] = w_scales[row] * <float>(block[k * 32 + row] - zeros[row])
                if has_offsets:
                    for k in range(count):
                        row_out[k] = row_out[k] + offsets[row]


cdef inline void pack_tiles(const Weights *w, const int8_t *codes, Py_ssize_t codes_stride,
                            uint8_t *packed, Py_ssize_t tile_begin, Py_ssize_t tile_end,
                            int layout) noexcept nogil:
    cdef Py_ssize_t k8s = w.groups * (w.group_size >> 3)
    cdef Py_ssize_t size = block_bytes(layout)
    cdef Py_ssize_t tile, row, k, rows
    cdef Py_ssize_t plane
    cdef uint8_t stored[256]
    cdef uint8_t code
    cdef uint8_t *block
    stored_codes(w.format, w.zero, stored)
    for tile in range(tile_begin, tile_end):
        memset(packed + tile * k8s * size, 0, k8s * size)
        rows = min(32, w.out_features - tile * 32)
        for row in range(rows):
            for k in range(w.in_features):
                code = stored[<uint8_t>codes[(tile * 32 + row) * codes_stride + k]]
                block = packed + (tile * k8s + (k >> 3)) * size
                if layout == BYTES:
                    block[(k & 4) * 32 + row * 4 + (k & 3)] = code
                    continue
                if LAYOUTS[layout].row_bytes > 1:
                    block[row * 4 + (k & 3)] |= <uint8_t>(code << (k & 4))
                    continue
                for plane in range(LAYOUTS[layout].planes):
                    block[32 * plane + row] |= <uint8_t>((code >> plane & 1) << (k & 7))


include "array_kernels.pxi"
