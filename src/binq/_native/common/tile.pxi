# One tile (32 rows) x one kernel group, unpacked to int8 [k][32], for machines that multiply that:
# the portable loops and NEON, each with its own decode_planes, decode_nibbles and decode_bytes.
# Codes of 8 bits come less 128, so that they fit; what zero_points say is left to who reads them.

cdef inline Py_ssize_t scale_group(const Weights *w, Py_ssize_t tile,
                                   Py_ssize_t group) noexcept nogil:
    return tile * w.scale_groups + (group if w.scale_groups > 1 else 0)


cdef inline void load_zero_points(const Weights *w, Py_ssize_t tile, Py_ssize_t group,
                                  int8_t *zero_points) noexcept nogil:
    # What the stored codes of each row are too large by.
    cdef const uint8_t *nibbles
    cdef Py_ssize_t r
    if w.zero != ZERO_CODE:
        memset(zero_points, -first_level(w.format, w.zero), 32)
        return
    nibbles = w.zero_points + scale_group(w, tile, group) * 16
    for r in range(16):
        zero_points[r] = <int8_t>(nibbles[r] & 15)
        zero_points[r + 16] = <int8_t>(nibbles[r] >> 4)


cdef inline void load_byte_zeros(const Weights *w, Py_ssize_t tile, Py_ssize_t group,
                                 int32_t *zeros) noexcept nogil:
    # What the codes that decode_tile made of each row are too large by: of bytes only.
    cdef Py_ssize_t r
    cdef int32_t zero = 0
    if SPECS[w.format].layout == BYTES:
        zero = -first_level(w.format, w.zero) - 128
    for r in range(32):
        zeros[r] = zero
    if SPECS[w.format].layout == BYTES and w.zero == ZERO_CODE:
        for r in range(32):
            zeros[r] += w.zero_points[scale_group(w, tile, group) * 32 + r]


cdef inline void decode_tile(const Weights *w, Py_ssize_t tile, Py_ssize_t group, int8_t *codes,
                             int layout) noexcept nogil:
    # codes[k * 32 + r]: the signed integer that multiplies the scale, of bytes less 128.
    cdef int8_t zero_points[32]
    cdef Py_ssize_t k8s = w.group_size >> 3
    cdef const uint8_t *packed = w.packed + (tile * w.groups + group) * k8s * block_bytes(layout)
    if LAYOUTS[layout].row_bytes == 1:
        decode_planes(packed, k8s, first_level(w.format, w.zero), codes, layout)
    elif layout == BYTES:
        decode_bytes(packed, 2 * k8s, codes)
    else:
        load_zero_points(w, tile, group, zero_points)
        decode_nibbles(packed, k8s, layout, SPECS[w.format].levels, zero_points, codes)


cdef void decode_group(const Weights *w, Py_ssize_t tile, Py_ssize_t group,
                       int8_t *codes) noexcept nogil:
    # decode_tile with a loop of its own for each layout.
    by_layout(SPECS[w.format].layout, decode_tile, w, tile, group, codes)
