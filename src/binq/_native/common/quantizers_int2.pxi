# int2: the largest-magnitude rule, the best scale of either sign, and the codes.

cdef inline void find_int2(Batch *batch, const QuantizeJob *job) noexcept nogil:
    cdef Best best
    cdef double low[8]
    cdef double high[8]
    cdef Py_ssize_t lane, k
    if has_powers(job):
        find_powers(batch, 1, -2.0, 1.0, job.method == METHOD_ABSMAX)
        return
    find_range(batch, low, high)
    if job.method == METHOD_ABSMAX:
        for lane in range(LANES):
            # The largest weight gets the code -2. A group of zeros has the scale 0, not -0.
            batch.scale[lane] = (high[lane] if high[lane] >= -low[lane] else low[lane]) / -2.0 + 0.0
        return
    best.w = batch.row
    best.n = (batch.n + 7) & ~<Py_ssize_t>7
    best.span = 3.0
    for lane in range(LANES):
        best.gain = 0.0
        best.scale = 0.0
        best.zero_point = 2.0
        if batch.amax[lane] != 0:
            for k in range(best.n):
                batch.row[k] = batch.values[k * LANES + lane]
            search_two(&best, batch.stack, 2, 1, low[lane], high[lane])
            fit_to_storage(&best, job.scale_type)
        # Codes -1..2 are -2..1 with the other sign.
        batch.scale[lane] = -best.scale if best.zero_point == 1.0 else best.scale


cdef inline void pack_int2_codes(const Batch *batch, uint8_t *packed,
                                 Py_ssize_t rows) noexcept nogil:
    # Adding 1.5 * 2^23 to a float32 leaves its rounded value in the low bits.
    cdef uint32_t first[8]
    cdef uint32_t second[8]
    cdef float divisors[8]
    cdef uint32_t code
    cdef float x
    cdef Py_ssize_t k, j, lane, count
    cdef const float *values
    for lane in range(LANES):
        divisors[lane] = batch.rounded_scale[lane]
        if divisors[lane] == 0.0:
            divisors[lane] = 1.0
    for k in range(0, batch.n, 8):
        count = min(8, batch.n - k)
        memset(first, 0, sizeof(first))
        memset(second, 0, sizeof(second))
        for j in range(count):
            values = batch.values + (k + j) * LANES
            for lane in range(LANES):
                x = values[lane] / divisors[lane]
                x = x if x > <float>-2.0 else <float>-2.0
                x = x if x < <float>1.0 else <float>1.0
                code = float_to_bits(x + <float>12582912.0) + 2
                first[lane] |= (code & 1) << j
                second[lane] |= (code >> 1 & 1) << j
        for lane in range(rows):
            packed[(k >> 3) * 64 + lane] = <uint8_t>first[lane]
            packed[(k >> 3) * 64 + 32 + lane] = <uint8_t>second[lane]
