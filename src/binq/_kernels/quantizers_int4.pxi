# int4: the largest-magnitude rules, the exact branch and bound, and the codes.


cdef inline double folded(const doubles *sums) noexcept nogil:
    cdef double s[8]
    cdef Py_ssize_t part
    for part in range(PARTS):
        store(s + part * DOUBLES, sums[part])
    return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]))


cdef inline void line_at(const Search *search, double u, double low, double high,
                         Cut *cut) noexcept nogil:
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
    cut.u = u
    cut.a = folded(a)
    cut.b = folded(b)


cdef inline void saturated_line(const Search *search, double low, double high,
                                Cut *cut) noexcept nogil:
    # The codes as u goes to infinity, which cut.u stands for as a negative number.
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
    cut.u = -1.0
    cut.a = folded(a)
    cut.b = folded(b)


cdef inline void keep_best(Search *search, const Cut *cut, int zero_point) noexcept nogil:
    cdef double gain
    if cut.b > 0.0:
        gain = cut.a * cut.a / cut.b
        if gain > search.gain:
            search.gain = gain
            search.scale = cut.a / cut.b
            search.zero_point = zero_point


cdef inline double bound_of(const Cut *left, const Cut *right) noexcept nogil:
    # The largest (chord of g) / u^2 inside the interval, or 0 if that is at an end.
    cdef double g = 2.0 * left.u * left.a - left.b
    cdef double slope, drop
    if right.u < 0.0:
        slope = 2.0 * right.a
    else:
        slope = (2.0 * right.u * right.a - right.b - g) / (right.u - left.u)
    drop = slope * left.u - g
    if not (drop > 0.0 and left.u * slope < 2.0 * drop):
        return 0.0
    if right.u >= 0.0 and not 2.0 * drop < right.u * slope:
        return 0.0
    return slope * slope / (4.0 * drop)


cdef inline double meeting_point(const Interval *part) noexcept nogil:
    if part.depth >= 64:
        return 2.0 * part.left.u if part.right.u < 0.0 else 0.5 * (part.left.u + part.right.u)
    if part.right.a == part.left.a:
        return part.left.u
    return (part.right.b - part.left.b) / (2.0 * (part.right.a - part.left.a))


cdef inline void search_zero_point(Search *search, int zero_point, double lowest,
                                   double highest) noexcept nogil:
    cdef double low = -zero_point
    cdef double high = 15 - zero_point
    cdef double largest = 0.0
    cdef Interval part
    cdef Cut cut
    cdef Py_ssize_t top = 0
    if zero_point < 15 and highest > largest:
        largest = highest
    if zero_point > 0 and -lowest > largest:
        largest = -lowest
    if largest <= 0.0:
        return
    part.depth = 0
    part.left.u = 0.5 / largest
    part.left.a = 0.0
    part.left.b = 0.0
    saturated_line(search, low, high, &part.right)
    keep_best(search, &part.right, zero_point)
    search.stack[0] = part
    top = 1
    while top > 0:
        top -= 1
        part = search.stack[top]
        if bound_of(&part.left, &part.right) <= search.gain:
            continue
        cut.u = meeting_point(&part)
        if not part.left.u < cut.u or (part.right.u >= 0.0 and not cut.u < part.right.u):
            continue
        line_at(search, cut.u, low, high, &cut)
        keep_best(search, &cut, zero_point)
        part.depth += 1
        if cut.a != part.left.a or cut.b != part.left.b:
            search.stack[top].left = part.left
            search.stack[top].right = cut
            search.stack[top].depth = part.depth
            top += 1
        if cut.a != part.right.a or cut.b != part.right.b:
            search.stack[top].left = cut
            search.stack[top].right = part.right
            search.stack[top].depth = part.depth
            top += 1


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
