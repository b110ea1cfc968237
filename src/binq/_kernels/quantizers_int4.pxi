# int4: the largest-magnitude rules, the exact branch and bound, and the codes.


cdef inline double folded(doubles *sums) noexcept nogil:
    # Eight sums, added in halves.
    cdef double s[4]
    cdef Py_ssize_t part
    for part in range(PARTS // 2):
        store(s + part * DOUBLES, add(sums[part], sums[part + PARTS // 2]))
    return (s[0] + s[2]) + (s[1] + s[3])


cdef inline void line_at(const Search *search, double u, double low, double high,
                         double *a_out, double *b_out) noexcept nogil:
    # The codes of scale 1 / u, and their A and B: eight running sums, added in halves.
    cdef doubles a[8]
    cdef doubles b[8]
    cdef doubles x, value
    cdef doubles us = splat(u)
    cdef doubles lows = splat(low)
    cdef doubles highs = splat(high)
    cdef Py_ssize_t i, part
    for part in range(PARTS):
        a[part] = splat(0.0)
        b[part] = splat(0.0)
    for i in range(0, search.n, 8):
        for part in range(PARTS):
            value = load(search.w + i + part * DOUBLES)
            x = rounded(minimum(maximum(mul(us, value), lows), highs))
            a[part] = add(a[part], mul(value, x))
            b[part] = add(b[part], mul(x, x))
    a_out[0] = folded(a)
    b_out[0] = folded(b)


cdef inline void saturated_line(const Search *search, double low, double high,
                                double *a_out, double *b_out) noexcept nogil:
    # The codes as u goes to infinity.
    cdef doubles a[8]
    cdef doubles b[8]
    cdef doubles x, value
    cdef doubles zero = splat(0.0)
    cdef doubles lows = splat(low)
    cdef doubles highs = splat(high)
    cdef Py_ssize_t i, part
    for part in range(PARTS):
        a[part] = zero
        b[part] = zero
    for i in range(0, search.n, 8):
        for part in range(PARTS):
            value = load(search.w + i + part * DOUBLES)
            x = pick(greater(value, zero), highs, zero)
            x = pick(greater(zero, value), lows, x)
            a[part] = add(a[part], mul(value, x))
            b[part] = add(b[part], mul(x, x))
    a_out[0] = folded(a)
    b_out[0] = folded(b)


cdef inline void keep_best(Search *search, double a, double b, int zero_point) noexcept nogil:
    if a * a > search.gain * b:
        search.gain = a * a / b
        search.scale = a / b
        search.zero_point = zero_point


cdef inline bint may_beat(double gain, double u0, double a0, double b0,
                          double u1, double a1, double b1) noexcept nogil:
    # Whether (chord of g) / u^2, inside the interval, exceeds the best A^2 / B.
    cdef double g = 2.0 * u0 * a0 - b0
    cdef double rise, run, drop
    if u1 < 0.0:
        rise = 2.0 * a1
        run = 1.0
    else:
        rise = (2.0 * u1 * a1 - b1) - g
        run = u1 - u0
    drop = rise * u0 - g * run
    return (drop > 0.0 and u0 * rise < 2.0 * drop and (u1 < 0.0 or 2.0 * drop < u1 * rise)
            and rise * rise > 4.0 * gain * drop * run)


cdef inline void search_zero_point(Search *search, int zero_point, double lowest,
                                   double highest) noexcept nogil:
    cdef double low = -zero_point
    cdef double high = 15 - zero_point
    cdef double largest = 0.0
    # The ends of the interval at hand; u1 < 0 is infinity.
    cdef double u0, a0, b0, u1, a1, b1, u, a, b
    cdef int depth = 0
    cdef Interval *top = search.stack
    if zero_point < 15 and highest > largest:
        largest = highest
    if zero_point > 0 and -lowest > largest:
        largest = -lowest
    if largest <= 0.0:
        return
    u0 = 0.5 / largest
    a0 = 0.0
    b0 = 0.0
    u1 = -1.0
    saturated_line(search, low, high, &a1, &b1)
    keep_best(search, a1, b1, zero_point)
    while True:
        if may_beat(search.gain, u0, a0, b0, u1, a1, b1):
            if depth >= 64:
                u = 2.0 * u0 if u1 < 0.0 else 0.5 * (u0 + u1)
            else:
                u = (b1 - b0) / (2.0 * (a1 - a0)) if a1 != a0 else u0
            if u0 < u and (u1 < 0.0 or u < u1):
                line_at(search, u, low, high, &a, &b)
                keep_best(search, a, b, zero_point)
                depth += 1
                if a == a1 and b == b1:
                    if a != a0 or b != b0:
                        u1 = u
                        continue
                else:
                    if a != a0 or b != b0:
                        top.u0 = u0
                        top.a0 = a0
                        top.b0 = b0
                        top.u1 = u
                        top.a1 = a
                        top.b1 = b
                        top.depth = depth
                        top += 1
                    u0 = u
                    a0 = a
                    b0 = b
                    continue
        if top == search.stack:
            return
        top -= 1
        u0 = top.u0
        a0 = top.a0
        b0 = top.b0
        u1 = top.u1
        a1 = top.a1
        b1 = top.b1
        depth = top.depth


cdef inline void find_int4(Batch *batch, const QuantizeJob *job) noexcept nogil:
    cdef Search search
    cdef double low[8]
    cdef double high[8]
    cdef double value
    cdef Py_ssize_t lane, k, padded
    cdef int step
    if job.symmetric and job.method == METHOD_ABSMAX:
        for lane in range(LANES):
            batch.scale[lane] = <double>float_from_bits(batch.amax[lane]) / 7.0
            batch.zero[lane] = 8.0
        return
    for lane in range(LANES):
        low[lane] = 0.0
        high[lane] = 0.0
    for k in range(batch.n):
        for lane in range(LANES):
            value = batch.values[k * LANES + lane]
            low[lane] = value if value < low[lane] else low[lane]
            high[lane] = value if value > high[lane] else high[lane]
    if job.method == METHOD_ABSMAX:
        for lane in range(LANES):
            batch.scale[lane] = (high[lane] - low[lane]) / 15.0
            if batch.scale[lane] > 0.0:
                value = -low[lane] / batch.scale[lane]
                value = (value + 6755399441055744.0) - 6755399441055744.0
                batch.zero[lane] = value if value < 15.0 else 15.0
        return
    padded = (batch.n + 7) & ~<Py_ssize_t>7
    search.w = batch.row
    search.n = padded
    search.stack = batch.stack
    for lane in range(LANES):
        search.gain = 0.0
        search.scale = 0.0
        search.zero_point = 8 if job.symmetric else 0
        if batch.amax[lane] != 0:
            for k in range(padded):
                batch.row[k] = batch.values[k * LANES + lane]
            if job.symmetric:
                search_zero_point(&search, 8, low[lane], high[lane])
                search_zero_point(&search, 7, low[lane], high[lane])
                if search.zero_point == 7:
                    search.zero_point = 8
                    search.scale = -search.scale
            else:
                # 7, 8, 6, 9, ... 0, 15.
                for step in range(8):
                    search_zero_point(&search, 7 - step, low[lane], high[lane])
                    search_zero_point(&search, 8 + step, low[lane], high[lane])
        batch.scale[lane] = search.scale
        batch.zero[lane] = search.zero_point


cdef inline void pack_int4_codes(const Batch *batch, uint8_t *packed,
                                 Py_ssize_t rows) noexcept nogil:
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
        zeros[lane] = <uint32_t>batch.zero[lane]
        low[lane] = <float>-batch.zero[lane]
        high[lane] = <float>(15.0 - batch.zero[lane])
    for k in range(0, batch.n, 8):
        count = min(8, batch.n - k)
        memset(words, 0, sizeof(words))
        for j in range(count):
            shift = <int>(8 * (j & 3) + (j & 4))
            values = batch.values + (k + j) * LANES
            for lane in range(LANES):
                x = values[lane] / divisors[lane]
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
    cdef uint8_t *stored = (<uint8_t *>job.zero_points
                            + (tile * job.scale_groups + group) * (TILE_ROWS // 2) + (row & 15))
    cdef Py_ssize_t lane
    for lane in range(LANES):
        stored[lane] |= <uint8_t>(<int>batch.zero[lane] << (4 if row >= 16 else 0))
