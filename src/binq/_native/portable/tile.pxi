# One tile (32 rows) x one kernel group in plain loops: codes to int8 [k][32], scales to float32.
# What every portable product and conversion reads.

cdef inline void decode_planes(const uint8_t *packed, Py_ssize_t k8s, int format,
                               int8_t *codes) noexcept nogil:
    # A level is that of no bits, and what each plane's bit adds.
    cdef Py_ssize_t planes = SPECS[format].planes
    cdef int base = SPECS[format].levels[0]
    cdef int first = SPECS[format].levels[1] - base
    cdef int second = SPECS[format].levels[2] - base
    cdef Py_ssize_t k8, r
    cdef int bit
    cdef const uint8_t *block
    for k8 in range(k8s):
        block = packed + k8 * planes * 32
        for bit in range(8):
            for r in range(32):
                if planes == 1:
                    codes[(k8 * 8 + bit) * 32 + r] = <int8_t>(
                        first * ((block[r] >> bit) & 1) + base)
                else:
                    codes[(k8 * 8 + bit) * 32 + r] = <int8_t>(
                        first * ((block[r] >> bit) & 1) + second * ((block[32 + r] >> bit) & 1)
                        + base)


cdef inline void decode_nibbles(const uint8_t *packed, Py_ssize_t k8s, int format, bint signed_,
                                const int8_t *zero_points, int8_t *codes) noexcept nogil:
    cdef Py_ssize_t k8, r, j
    cdef uint8_t byte
    for k8 in range(k8s):
        for j in range(4):
            for r in range(32):
                byte = packed[k8 * 128 + r * 4 + j]
                if signed_ and not is_even(format):
                    codes[(k8 * 8 + j) * 32 + r] = SPECS[format].levels[byte & 15]
                    codes[(k8 * 8 + 4 + j) * 32 + r] = SPECS[format].levels[byte >> 4]
                else:
                    codes[(k8 * 8 + j) * 32 + r] = <int8_t>((byte & 15) - zero_points[r])
                    codes[(k8 * 8 + 4 + j) * 32 + r] = <int8_t>((byte >> 4) - zero_points[r])


cdef inline void load_floats(const Weights *w, const void *stored, int type,
                             Py_ssize_t tile, Py_ssize_t group, float *values) noexcept nogil:
    # 32 scales or offsets of one tile and group as float32.
    cdef Py_ssize_t r
    cdef Py_ssize_t start = scale_group(w, tile, group) * 32
    for r in range(32):
        values[r] = stored_float(stored, start + r, type)
