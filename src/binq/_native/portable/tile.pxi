# One tile (32 rows) x one kernel group in plain loops: codes to int8 [k][32], scales to float32.
# What every portable product and conversion reads.

cdef inline void decode_tile(const Weights *w, int format, Py_ssize_t tile, Py_ssize_t group,
                             int8_t *codes) noexcept nogil:
    # codes[k * 32 + r]: the signed integer that multiplies the scale.
    cdef int8_t zero_points[32]
    cdef Py_ssize_t k8s = w.group_size >> 3
    cdef Py_ssize_t first = (tile * w.groups + group) * k8s
    if format == FORMAT_BINARY:
        decode_binary(w.packed + first * 32, k8s, codes)
    elif format == FORMAT_TERNARY:
        decode_ternary(w.packed + first * 64, k8s, codes)
    else:
        load_zero_points(w, tile, group, zero_points)
        decode_int4(w.packed + first * 128, k8s, zero_points, codes)


cdef inline void decode_binary(const uint8_t *packed, Py_ssize_t k8s, int8_t *codes) noexcept nogil:
    cdef Py_ssize_t k8, r
    cdef int bit
    for k8 in range(k8s):
        for bit in range(8):
            for r in range(32):
                codes[(k8 * 8 + bit) * 32 + r] = <int8_t>(
                    2 * ((packed[k8 * 32 + r] >> bit) & 1) - 1)


cdef inline void decode_ternary(const uint8_t *packed, Py_ssize_t k8s,
                                int8_t *codes) noexcept nogil:
    cdef Py_ssize_t k8, r
    cdef int bit
    for k8 in range(k8s):
        for bit in range(8):
            for r in range(32):
                codes[(k8 * 8 + bit) * 32 + r] = <int8_t>(
                    ((packed[k8 * 64 + r] >> bit) & 1) + ((packed[k8 * 64 + 32 + r] >> bit) & 1)
                    - 1)


cdef inline void decode_int4(const uint8_t *packed, Py_ssize_t k8s, const int8_t *zero_points,
                             int8_t *codes) noexcept nogil:
    cdef Py_ssize_t k8, r, j
    for k8 in range(k8s):
        for j in range(4):
            for r in range(32):
                codes[(k8 * 8 + j) * 32 + r] = <int8_t>(
                    (packed[k8 * 128 + r * 4 + j] & 15) - zero_points[r])
                codes[(k8 * 8 + 4 + j) * 32 + r] = <int8_t>(
                    (packed[k8 * 128 + r * 4 + j] >> 4) - zero_points[r])


cdef inline Py_ssize_t scale_group(const Weights *w, Py_ssize_t tile,
                                   Py_ssize_t group) noexcept nogil:
    return tile * w.scale_groups + (group if w.scale_groups > 1 else 0)


cdef inline void load_zero_points(const Weights *w, Py_ssize_t tile, Py_ssize_t group,
                                  int8_t *zero_points) noexcept nogil:
    # int4: one value a row; 8 where the format is symmetric.
    cdef const uint8_t *nibbles
    cdef Py_ssize_t r
    if w.zero_points == NULL:
        memset(zero_points, 8, 32)
        return
    nibbles = <const uint8_t *>w.zero_points + scale_group(w, tile, group) * 16
    for r in range(16):
        zero_points[r] = <int8_t>(nibbles[r] & 15)
        zero_points[r + 16] = <int8_t>(nibbles[r] >> 4)


cdef inline void load_floats(const Weights *w, const void *stored, Py_ssize_t tile,
                             Py_ssize_t group, float *values) noexcept nogil:
    # 32 scales or midpoints of one tile and group as float32.
    cdef Py_ssize_t r
    cdef Py_ssize_t start = scale_group(w, tile, group) * 32
    if w.scales_float32:
        memcpy(values, <const float *>stored + start, 32 * sizeof(float))
        return
    for r in range(32):
        values[r] = half_to_float((<const uint16_t *>stored)[start + r])
