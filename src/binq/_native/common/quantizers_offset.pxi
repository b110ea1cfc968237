# int4 with an offset a group: from the least to the greatest weight, or by turns the nearest codes
# and the best line through them, from three first guesses. Bit for bit as binq.reference.affine.

cdef enum:
    AFFINE_STARTS = 3
    AFFINE_ROUNDS = 8


cdef struct AffineSums:
    # Of 8 rows: sums of codes, their squares, and weights by codes.
    double codes[8]
    double squares[8]
    double products[8]


cdef inline void sum_codes(const Batch *batch, const double *scale, const double *offset,
                           AffineSums *sums) noexcept nogil:
    cdef double products[64]
    cdef double code, value
    cdef Py_ssize_t k, lane
    cdef double *at
    memset(products, 0, sizeof(products))
    memset(sums, 0, sizeof(AffineSums))
    for k in range(batch.n):
        at = products + (k & 7) * LANES
        for lane in range(LANES):
            value = batch.values[k * LANES + lane]
            code = (value - offset[lane]) / scale[lane]
            code = code if code > 0.0 else 0.0
            code = code if code < 15.0 else 15.0
            code = (code + 6755399441055744.0) - 6755399441055744.0
            sums.codes[lane] += code
            sums.squares[lane] += code * code
            at[lane] += value * code
    fold_lanes(products, sums.products)


cdef inline void find_offset_int4(Batch *batch, const QuantizeJob *job) noexcept nogil:
    cdef double low[8]
    cdef double high[8]
    cdef double totals[8]
    cdef double gains[8]
    cdef double scale[8]
    cdef double offset[8]
    cdef bint is_open[8]
    cdef double n = <double>batch.n
    cdef double value
    cdef Py_ssize_t k, lane
    cdef int start, turn
    for lane in range(LANES):
        low[lane] = batch.values[lane]
        high[lane] = batch.values[lane]
    for k in range(batch.n):
        for lane in range(LANES):
            value = batch.values[k * LANES + lane]
            low[lane] = value if value < low[lane] else low[lane]
            high[lane] = value if value > high[lane] else high[lane]
    for lane in range(LANES):
        batch.scale[lane] = (high[lane] - low[lane]) / 15.0
        batch.zero[lane] = low[lane]
        gains[lane] = 0.0
    if job.method == METHOD_ABSMAX:
        return
    for lane in range(LANES):
        totals[lane] = lane_total(batch, lane)
    for start in range(AFFINE_STARTS):
        for lane in range(LANES):
            is_open[lane] = high[lane] > low[lane]
            scale[lane] = (1.0 if start == 0 else 0.85 if start == 1 else 0.7) * (
                (high[lane] - low[lane]) / 15.0)
            offset[lane] = (low[lane] + high[lane]) * 0.5 - 7.5 * scale[lane]
            if not is_open[lane]:
                scale[lane] = 1.0
        for turn in range(AFFINE_ROUNDS):
            if not better_lines(batch, n, totals, scale, offset, is_open, gains):
                break


cdef inline double lane_total(const Batch *batch, Py_ssize_t lane) noexcept nogil:
    # The sum of one row in eight running sums, added in halves.
    cdef double s[8]
    cdef Py_ssize_t k
    memset(s, 0, sizeof(s))
    for k in range(batch.n):
        s[k & 7] += <double>batch.values[k * LANES + lane]
    return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]))


cdef bint better_lines(Batch *batch, double n, const double *totals, double *scale,
                       double *offset, bint *is_open, double *gains) noexcept nogil:
    # One turn: the nearest codes, and the line of least squares through them. Returns whether any
    # row goes on.
    cdef AffineSums sums
    cdef double rise, spread, gain, next_scale, next_offset
    cdef Py_ssize_t lane
    cdef bint any_open = False
    sum_codes(batch, scale, offset, &sums)
    for lane in range(LANES):
        if not is_open[lane]:
            continue
        rise = n * sums.products[lane] - sums.codes[lane] * totals[lane]
        spread = n * sums.squares[lane] - sums.codes[lane] * sums.codes[lane]
        if not (rise > 0.0 and spread > 0.0):
            is_open[lane] = False
            continue
        next_scale = rise / spread
        next_offset = (totals[lane] - next_scale * sums.codes[lane]) / n
        gain = rise * rise / (n * spread)
        if gain > gains[lane]:
            gains[lane] = gain
            batch.scale[lane] = next_scale
            batch.zero[lane] = next_offset
        is_open[lane] = next_scale != scale[lane] or next_offset != offset[lane]
        scale[lane] = next_scale
        offset[lane] = next_offset
        any_open |= is_open[lane]
    return any_open
