# The exact ternary and two-level quantizers: sort each row of a group, then one pass over the
# sorted values. Eight rows are sorted at once by a network, whose exchanges are the same for all.

cdef extern from *:
    """
    #define BINQ_RESTRICT __restrict
    """
    ctypedef float *restrict_floats "float * BINQ_RESTRICT"


cdef inline void exchange(restrict_floats low, restrict_floats high,
                          Py_ssize_t count) noexcept nogil:
    # Elementwise: the smaller of two to `low`, the larger to `high`.
    cdef Py_ssize_t i
    cdef float a, b
    for i in range(count):
        a = low[i]
        b = high[i]
        low[i] = a if a < b else b
        high[i] = b if a < b else a


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
    cdef double sums[8]
    cdef double gains[8]
    cdef double best_sums[8]
    cdef double counts[8]
    cdef double gain, inverse, total
    cdef Py_ssize_t k, lane, i
    cdef const float *values
    for i in range(batch.n * LANES):
        batch.sorted[i] = fabsf(batch.values[i])
    sort_rows(batch.sorted, batch.n)
    for lane in range(LANES):
        sums[lane] = 0.0
        gains[lane] = 0.0
        best_sums[lane] = 0.0
        counts[lane] = 1.0
    for k in range(1, batch.n + 1):
        values = batch.sorted + (batch.n - k) * LANES
        inverse = 1.0 / <double>k
        for lane in range(LANES):
            total = sums[lane] + <double>values[lane]
            sums[lane] = total
            gain = total * total * inverse
            best_sums[lane] = total if gain > gains[lane] else best_sums[lane]
            counts[lane] = <double>k if gain > gains[lane] else counts[lane]
            gains[lane] = gain if gain > gains[lane] else gains[lane]
    for lane in range(LANES):
        batch.scale[lane] = best_sums[lane] / counts[lane]


cdef inline void best_two_levels(Batch *batch) noexcept nogil:
    cdef double totals[8]
    cdef double means[8]
    cdef double sums[8]
    cdef double gains[8]
    cdef double best_sums[8]
    cdef double counts[8]
    cdef double gain, inverse, total, excess, low, high
    cdef double n = <double>batch.n
    cdef Py_ssize_t k, lane
    cdef const float *values
    memcpy(batch.sorted, batch.values, batch.n * LANES * sizeof(float))
    sort_rows(batch.sorted, batch.n)
    memset(totals, 0, sizeof(totals))
    for k in range(batch.n):
        for lane in range(LANES):
            totals[lane] += <double>batch.sorted[k * LANES + lane]
    for lane in range(LANES):
        means[lane] = totals[lane] / n
        sums[lane] = 0.0
        gains[lane] = 0.0
        best_sums[lane] = 0.0
        counts[lane] = 0.0
    for k in range(1, batch.n):
        values = batch.sorted + (k - 1) * LANES
        inverse = 1.0 / (<double>k * (n - <double>k))
        for lane in range(LANES):
            total = sums[lane] + <double>values[lane]
            sums[lane] = total
            excess = total - <double>k * means[lane]
            gain = excess * excess * inverse
            best_sums[lane] = total if gain > gains[lane] else best_sums[lane]
            counts[lane] = <double>k if gain > gains[lane] else counts[lane]
            gains[lane] = gain if gain > gains[lane] else gains[lane]
    for lane in range(LANES):
        if counts[lane] == 0.0:
            batch.scale[lane] = 0.0
            batch.zero[lane] = means[lane]
            continue
        low = best_sums[lane] / counts[lane]
        high = (totals[lane] - best_sums[lane]) / (n - counts[lane])
        low = clipped(low, -LARGEST_LEVEL, LARGEST_LEVEL)
        high = clipped(high, -LARGEST_LEVEL, LARGEST_LEVEL)
        batch.scale[lane] = (high - low if high > low else 0.0) * 0.5
        batch.zero[lane] = (low + high) * 0.5
