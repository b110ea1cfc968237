# The exact ternary and two-level quantizers: sort each row of a group, then one pass over the
# sorted values. Eight rows are sorted at once by a network, whose exchanges are the same for all.

cdef inline void exchange(float *low, float *high, Py_ssize_t count) noexcept nogil:
    # Elementwise: the smaller of two to `low`, the larger to `high`. count: a multiple of 8.
    cdef Py_ssize_t i = 0
    cdef floats a, b
    while i < count:
        a = load_floats_at(low + i)
        b = load_floats_at(high + i)
        store_floats(low + i, min_floats(a, b))
        store_floats(high + i, max_floats(a, b))
        i += FLOATS


cdef inline void sort_rows(float *values, Py_ssize_t n) noexcept nogil:
    # Ascending along [column][8]. Batcher's merge exchange (Knuth, volume 3, algorithm 5.2.2 M).
    cdef Py_ssize_t top = 1
    cdef Py_ssize_t p, q, r, d, i, stop
    while 2 * top < n:
        top *= 2
    if n < 2:
        return
    p = top
    while p > 0:
        q = top
        r = 0
        d = p
        while True:
            # All i < n - d with (i & p) == r, in runs of p.
            i = r
            while i < n - d:
                stop = min(i + p, n - d)
                exchange(values + i * LANES, values + (i + d) * LANES, (stop - i) * LANES)
                i += 2 * p
            if q == p:
                break
            d = q - p
            q >>= 1
            r = p
        p >>= 1


cdef inline void best_ternary(Batch *batch) noexcept nogil:
    cdef double best_sums[8]
    cdef double best_counts[8]
    cdef doubles sums[8]
    cdef doubles gains[8]
    cdef doubles chosen[8]
    cdef doubles counts[8]
    cdef doubles gain, inverse, count, better
    cdef Py_ssize_t k, part, lane, i
    cdef const float *values
    for i in range(batch.n * LANES):
        batch.sorted[i] = fabsf(batch.values[i])
    sort_rows(batch.sorted, batch.n)
    for part in range(PARTS):
        sums[part] = splat(0.0)
        gains[part] = splat(0.0)
        chosen[part] = splat(0.0)
        counts[part] = splat(1.0)
    for k in range(1, batch.n + 1):
        values = batch.sorted + (batch.n - k) * LANES
        count = splat(<double>k)
        inverse = splat(1.0 / <double>k)
        for part in range(PARTS):
            sums[part] = add(sums[part], widen(values + part * DOUBLES))
            gain = mul(mul(sums[part], sums[part]), inverse)
            better = greater(gain, gains[part])
            gains[part] = blend(better, gain, gains[part])
            chosen[part] = blend(better, sums[part], chosen[part])
            counts[part] = blend(better, count, counts[part])
    for part in range(PARTS):
        store(best_sums + part * DOUBLES, chosen[part])
        store(best_counts + part * DOUBLES, counts[part])
    for lane in range(LANES):
        batch.scale[lane] = best_sums[lane] / best_counts[lane]


cdef inline void best_two_levels(Batch *batch) noexcept nogil:
    cdef double totals[8]
    cdef double best_sums[8]
    cdef double best_counts[8]
    cdef doubles means[8]
    cdef doubles sums[8]
    cdef doubles gains[8]
    cdef doubles chosen[8]
    cdef doubles counts[8]
    cdef doubles gain, inverse, count, better, excess
    cdef double n = <double>batch.n
    cdef double low, high
    cdef Py_ssize_t k, part, lane
    cdef const float *values
    memcpy(batch.sorted, batch.values, batch.n * LANES * sizeof(float))
    sort_rows(batch.sorted, batch.n)
    for part in range(PARTS):
        sums[part] = splat(0.0)
    for k in range(batch.n):
        for part in range(PARTS):
            sums[part] = add(sums[part], widen(batch.sorted + k * LANES + part * DOUBLES))
    for part in range(PARTS):
        store(totals + part * DOUBLES, sums[part])
    for lane in range(LANES):
        batch.zero[lane] = totals[lane] / n
    for part in range(PARTS):
        means[part] = load(batch.zero + part * DOUBLES)
        sums[part] = splat(0.0)
        gains[part] = splat(0.0)
        chosen[part] = splat(0.0)
        counts[part] = splat(0.0)
    for k in range(1, batch.n):
        values = batch.sorted + (k - 1) * LANES
        count = splat(<double>k)
        inverse = splat(1.0 / (<double>k * (n - <double>k)))
        for part in range(PARTS):
            sums[part] = add(sums[part], widen(values + part * DOUBLES))
            excess = sub(sums[part], mul(count, means[part]))
            gain = mul(mul(excess, excess), inverse)
            better = greater(gain, gains[part])
            gains[part] = blend(better, gain, gains[part])
            chosen[part] = blend(better, sums[part], chosen[part])
            counts[part] = blend(better, count, counts[part])
    for part in range(PARTS):
        store(best_sums + part * DOUBLES, chosen[part])
        store(best_counts + part * DOUBLES, counts[part])
    for lane in range(LANES):
        batch.scale[lane] = 0.0
        if best_counts[lane] > 0.0:
            low = best_sums[lane] / best_counts[lane]
            high = (totals[lane] - best_sums[lane]) / (n - best_counts[lane])
            low = clipped(low, -LARGEST_LEVEL, LARGEST_LEVEL)
            high = clipped(high, -LARGEST_LEVEL, LARGEST_LEVEL)
            batch.scale[lane] = (high - low if high > low else 0.0) * 0.5
            batch.zero[lane] = (low + high) * 0.5
