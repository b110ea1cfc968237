# One tile (32 rows) x one kernel group in plain loops: codes to int8 [k][32], scales to float32.
# What every portable product and conversion reads.

cdef inline void decode_planes(const uint8_t *packed, Py_ssize_t k8s, int first, int8_t *codes,
                               int layout) noexcept nogil:
    # A level is that of no bits, and what each plane's bit adds.
    cdef Py_ssize_t planes = LAYOUTS[layout].planes
    cdef Py_ssize_t k8, r
    cdef int bit, level
    cdef const uint8_t *block
    for k8 in range(k8s):
        block = packed + k8 * planes * 32
        for bit in range(8):
            for r in range(32):
                level = first + plane_step(layout, 0) * ((block[r] >> bit) & 1)
                if planes >= 2:
                    level += plane_step(layout, 1) * ((block[32 + r] >> bit) & 1)
                if planes == 3:
                    level += plane_step(layout, 2) * ((block[64 + r] >> bit) & 1)
                codes[(k8 * 8 + bit) * 32 + r] = <int8_t>level


cdef inline void decode_nibbles(const uint8_t *packed, Py_ssize_t k8s, int layout,
                                const int8_t *levels, const int8_t *zero_points,
                                int8_t *codes) noexcept nogil:
    cdef Py_ssize_t k8, r, j
    cdef uint8_t byte
    for k8 in range(k8s):
        for j in range(4):
            for r in range(32):
                byte = packed[k8 * 128 + r * 4 + j]
                if layout == LEVELS:
                    codes[(k8 * 8 + j) * 32 + r] = levels[byte & 15]
                    codes[(k8 * 8 + 4 + j) * 32 + r] = levels[byte >> 4]
                else:
                    codes[(k8 * 8 + j) * 32 + r] = <int8_t>((byte & 15) - zero_points[r])
                    codes[(k8 * 8 + 4 + j) * 32 + r] = <int8_t>((byte >> 4) - zero_points[r])


cdef inline void decode_bytes(const uint8_t *packed, Py_ssize_t k4s, int8_t *codes) noexcept nogil:
    cdef Py_ssize_t k4, r, j
    for k4 in range(k4s):
        for j in range(4):
            for r in range(32):
                codes[(k4 * 4 + j) * 32 + r] = <int8_t>(packed[k4 * 128 + r * 4 + j] ^ 128)


cdef inline void load_floats(const Weights *w, const void *stored, int type,
                             Py_ssize_t tile, Py_ssize_t group, float *values) noexcept nogil:
    # 32 scales or offsets of one tile and group as float32.
    cdef Py_ssize_t r
    cdef Py_ssize_t start = scale_group(w, tile, group) * 32
    for r in range(32):
        values[r] = stored_float(stored, start + r, type)
