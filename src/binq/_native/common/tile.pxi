# One tile (32 rows) x one kernel group, unpacked to int8 [k][32], for machines that multiply that:
# the portable loops and NEON, each with its own decode_planes, decode_nibbles and decode_bytes.
# Codes of 8 bits come less 128, so that they fit. What zero_points say of them, and of bit planes,
# is left to who reads them (load_zeros_left).

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


cdef inline bint has_zeros_left(const Weights *w) noexcept nogil:
    # Whether codes that decode_tile makes are too large by something.
    cdef int layout = SPECS[w.format].layout
    if layout == BYTES:
        return w.zero != ZERO_NONE
    return w.zero == ZERO_CODE and LAYOUTS[layout].row_bytes == 1


cdef inline void load_zeros_left(const Weights *w, Py_ssize_t tile, Py_ssize_t group,
                                 int32_t *zeros) noexcept nogil:
    # What the codes that decode_tile made of each row are too large by.
    cdef int8_t zero_points[32]
    cdef Py_ssize_t r
    cdef int32_t zero = 0
    if not has_zeros_left(w):
        memset(zeros, 0, 32 * sizeof(int32_t))
        return
    if SPECS[w.format].layout != BYTES:
        load_zero_points(w, tile, group, zero_points)
        for r in range(32):
            zeros[r] = zero_points[r]
        return
    for r in range(32):
        if w.zero == ZERO_CODE:
            zero = w.zero_points[scale_group(w, tile, group) * 32 + r]
        zeros[r] = zero - 128


cdef inline void decode_tile(const Weights *w, Py_ssize_t tile, Py_ssize_t group, int8_t *codes,
                             int layout) noexcept nogil:
    # codes[k * 32 + r]: the integer that multiplies the scale, where has_zeros_left does not say
    # that something is left to take off.
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
