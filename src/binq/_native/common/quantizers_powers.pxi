# Scales that are powers of two: that of the largest magnitude, and the best of all. Bit for bit as
# binq.reference.powers, which explains it.

cdef inline bint has_powers(const QuantizeJob *job) noexcept nogil:
    return SCALE_SPECS[job.scale_type].bias != 0


cdef inline double power_of_largest(double amax, int level) noexcept nogil:
    # The OCP microscaling rule: 2^(floor(log2 amax) - floor(log2 level)).
    cdef int exponent = 0
    cdef int level_exponent = 0
    frexp(amax, &exponent)
    frexp(<double>level, &level_exponent)
    return ldexp(1.0, exponent - level_exponent)


cdef double magnitudes(const Best *best) noexcept nogil:
    # Their sum, in eight running sums.
    cdef double s[8]
    cdef Py_ssize_t i
    memset(s, 0, sizeof(s))
    for i in range(best.n):
        s[i & 7] += fabs(best.w[i])
    return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]))


cdef void best_power(Best *best, double amax, double low, double high) noexcept nogil:
    # Of codes low to high. A scale s takes at most 2 s * largest * sum |w| off the sum of squares.
    cdef Search search
    cdef double most = 2.0 * max(-low, high) * magnitudes(best)
    cdef double scale, gain
    cdef int exponent = 0
    frexp(amax, &exponent)
    scale = ldexp(1.0, exponent)
    search.low = low
    search.high = high
    best.gain = 0.0
    best.scale = scale
    while most * scale > best.gain:
        search.u = 1.0 / scale
        evaluate(best, &search)
        gain = saved(&search, scale)
        if gain > best.gain:
            best.gain = gain
            best.scale = scale
        scale = scale * 0.5


cdef inline void find_powers(Batch *batch, int largest, double low, double high,
                             bint absmax) noexcept nogil:
    # Of each row; largest: the level of the largest magnitude, where that decides.
    cdef Best best
    cdef double amax
    cdef Py_ssize_t lane, k
    best.w = batch.row
    best.n = (batch.n + 7) & ~<Py_ssize_t>7
    for lane in range(LANES):
        batch.scale[lane] = 0.0
        if batch.amax[lane] == 0:
            continue
        amax = float_from_bits(batch.amax[lane])
        if absmax:
            batch.scale[lane] = power_of_largest(amax, largest)
            continue
        for k in range(best.n):
            batch.row[k] = batch.values[k * LANES + lane]
        best_power(&best, amax, low, high)
        batch.scale[lane] = best.scale
