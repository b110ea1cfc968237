# int4: the largest-magnitude rules, the best scale, and the codes.

cdef inline void find_range(const Batch *batch, double *low, double *high) noexcept nogil:
    # The least and the greatest weight of each row, and 0.
    cdef Py_ssize_t lane, k
    cdef double value
    for lane in range(LANES):
        low[lane] = 0.0
        high[lane] = 0.0
    for k in range(batch.n):
        for lane in range(LANES):
            value = batch.values[k * LANES + lane]
            low[lane] = value if value < low[lane] else low[lane]
            high[lane] = value if value > high[lane] else high[lane]


cdef inline void find_int4(Batch *batch, const QuantizeJob *job) noexcept nogil:
    cdef Best best
    cdef double low[8]
    cdef double high[8]
    cdef double value
    cdef Py_ssize_t lane, k, padded
    cdef int step
    if has_powers(job):
        # Without zero points: so it is checked in Python.
        find_powers(batch, 7, -8.0, 7.0, job.method == METHOD_ABSMAX)
        for lane in range(LANES):
            batch.zero[lane] = 8.0
        return
    if job.zero == ZERO_NONE and job.method == METHOD_ABSMAX:
        for lane in range(LANES):
            batch.scale[lane] = <double>float_from_bits(batch.amax[lane]) / 7.0
            batch.zero[lane] = 8.0
        return
    find_range(batch, low, high)
    if job.method == METHOD_ABSMAX:
        for lane in range(LANES):
            batch.scale[lane] = (high[lane] - low[lane]) / 15.0
            if batch.scale[lane] > 0.0:
                value = -low[lane] / batch.scale[lane]
                value = (value + 6755399441055744.0) - 6755399441055744.0
                batch.zero[lane] = value if value < 15.0 else 15.0
        return
    padded = (batch.n + 7) & ~<Py_ssize_t>7
    best.w = batch.row
    best.n = padded
    best.span = 15.0
    for lane in range(LANES):
        best.gain = 0.0
        best.scale = 0.0
        best.zero_point = 8.0 if job.zero == ZERO_NONE else 0.0
        if batch.amax[lane] != 0:
            for k in range(padded):
                batch.row[k] = batch.values[k * LANES + lane]
            if job.zero == ZERO_NONE:
                search_two(&best, batch.stack, 8, 7, low[lane], high[lane])
            else:
                # 7 and 8, 6 and 9, ... 0 and 15.
                for step in range(8):
                    search_two(&best, batch.stack, 7 - step, 8 + step, low[lane], high[lane])
            fit_to_storage(&best, job.scale_type)
            if job.zero == ZERO_NONE and best.zero_point == 7.0:
                best.zero_point = 8.0
                best.scale = -best.scale
        batch.scale[lane] = best.scale
        batch.zero[lane] = best.zero_point


cdef inline void pack_int4_codes(const Batch *batch, uint8_t *packed,
                                 Py_ssize_t rows, bint has_offsets) noexcept nogil:
    # 32 bits of a row are 8 columns: nibble of column j at bit 8 j, of column 4 + j at 8 j + 4.
    # Adding 1.5 * 2^23 to a float32 leaves its rounded value in the low bits.
    cdef uint32_t words[8]
    cdef uint32_t zeros[8]
    cdef float divisors[8]
    cdef float low[8]
    cdef float high[8]
    cdef float x
    cdef Py_ssize_t k, j, lane, count
    cdef int shift
    cdef const float *values
    for lane in range(LANES):
        divisors[lane] = batch.rounded_scale[lane]
        if divisors[lane] == 0.0:
            divisors[lane] = 1.0
        zeros[lane] = 0 if has_offsets else <uint32_t>batch.zero[lane]
        low[lane] = <float>0.0 if has_offsets else <float>-batch.zero[lane]
        high[lane] = <float>15.0 if has_offsets else <float>(15.0 - batch.zero[lane])
    for k in range(0, batch.n, 8):
        count = min(8, batch.n - k)
        memset(words, 0, sizeof(words))
        for j in range(count):
            shift = <int>(8 * (j & 3) + (j & 4))
            values = batch.values + (k + j) * LANES
            for lane in range(LANES):
                x = values[lane]
                if has_offsets:
                    x = x - batch.rounded_zero[lane]
                x = x / divisors[lane]
                x = x if x > low[lane] else low[lane]
                x = x if x < high[lane] else high[lane]
                x = x + <float>12582912.0
                words[lane] |= ((float_to_bits(x) + zeros[lane]) & 15) << shift
        for lane in range(rows):
            store_word(packed + (k >> 3) * 128 + lane * 4, words[lane])


cdef inline void store_word(uint8_t *target, uint32_t word) noexcept nogil:
    # Little-endian on any machine.
    target[0] = <uint8_t>word
    target[1] = <uint8_t>(word >> 8)
    target[2] = <uint8_t>(word >> 16)
    target[3] = <uint8_t>(word >> 24)


cdef inline void store_zero_points(const Batch *batch, const QuantizeJob *job, Py_ssize_t tile,
                                   Py_ssize_t group, Py_ssize_t row) noexcept nogil:
    # Rows 0 to 15 of a tile are low nibbles, rows 16 to 31 high ones.
    cdef uint8_t *stored = (job.zero_points
                            + (tile * job.scale_groups + group) * (TILE_ROWS // 2) + (row & 15))
    cdef Py_ssize_t lane
    for lane in range(LANES):
        stored[lane] |= <uint8_t>(<int>batch.zero[lane] << (4 if row >= 16 else 0))
