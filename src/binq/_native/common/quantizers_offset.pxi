# Codes from 0 with an offset a group, what HQQ and llama.cpp's Q4_K search by descent too: from the
# least to the greatest weight, or by turns the nearest codes and the best line through them, from
# four first guesses. Bit for bit as binq.reference.affine.

cdef enum:
    AFFINE_STARTS = 4
    AFFINE_ROUNDS = 8


cdef struct AffineSums:
    # Of 8 rows: sums of codes, their squares, and weights by codes.
    double codes[8]
    double squares[8]
    double products[8]


cdef void sum_codes(const Batch *batch, const double *scale, const double *offset, double top,
                    AffineSums *sums) noexcept nogil:
    # Products in eight running sums; the other sums are whole numbers, exact in any order.
    cdef double products[64]
    cdef doubles value, code, origin, step, codes_sum, squares_sum, products_sum
    cdef doubles least = splat(0.0)
    cdef doubles most = splat(top)
    cdef Py_ssize_t k, part, turn
    for part in range(PARTS):
        origin = load(offset + part * DOUBLES)
        step = load(scale + part * DOUBLES)
        codes_sum = least
        squares_sum = least
        for turn in range(8):
            products_sum = least
            for k in range(turn, batch.n, 8):
                value = widen(batch.values + k * LANES + part * DOUBLES)
                code = div(sub(value, origin), step)
                code = rounded(minimum(maximum(code, least), most))
                codes_sum = add(codes_sum, code)
                squares_sum = add_square(squares_sum, code)
                products_sum = add_product(products_sum, value, code)
            store(products + turn * LANES + part * DOUBLES, products_sum)
        store(sums.codes + part * DOUBLES, codes_sum)
        store(sums.squares + part * DOUBLES, squares_sum)
    fold_lanes(products, sums.products)


cdef inline void find_offsets(Batch *batch, const QuantizeJob *job, double top) noexcept nogil:
    cdef double low[8]
    cdef double high[8]
    cdef double totals[8]
    cdef double gains[8]
    cdef double gaps[8]
    cdef double scale[8]
    cdef double offset[8]
    cdef bint is_open[8]
    cdef double n = <double>batch.n
    cdef double value
    cdef Py_ssize_t k, lane
    cdef int start, turn, divisor
    for lane in range(LANES):
        low[lane] = batch.values[lane]
        high[lane] = batch.values[lane]
    for k in range(batch.n):
        for lane in range(LANES):
            value = batch.values[k * LANES + lane]
            low[lane] = value if value < low[lane] else low[lane]
            high[lane] = value if value > high[lane] else high[lane]
    for lane in range(LANES):
        batch.scale[lane] = (high[lane] - low[lane]) / top
        batch.zero[lane] = low[lane]
        gains[lane] = 0.0
    if job.method == METHOD_ABSMAX:
        return
    for lane in range(LANES):
        totals[lane] = lane_total(batch, lane)
    find_gaps(batch, gaps)
    for start in range(AFFINE_STARTS):
        for lane in range(LANES):
            is_open[lane] = high[lane] > low[lane]
            scale[lane] = (1.0 if start == 1 else 0.85 if start == 2 else 0.7) * (
                (high[lane] - low[lane]) / top)
            offset[lane] = (low[lane] + high[lane]) * 0.5 - 0.5 * top * scale[lane]
            if start == 0:
                is_open[lane] = is_open[lane] and high[lane] - low[lane] <= (top + 0.5) * gaps[lane]
                scale[lane] = gaps[lane]
                offset[lane] = low[lane]
            if not is_open[lane]:
                scale[lane] = 1.0
        for turn in range(AFFINE_ROUNDS):
            if not better_lines(batch, n, top, totals, scale, offset, is_open, gains):
                break
    for lane in range(LANES):
        if high[lane] > low[lane]:
            for k in range(batch.n):
                batch.row[k] = batch.values[k * LANES + lane]
            value = nearest_code(low[lane] - batch.zero[lane], batch.scale[lane], 0.0, top)
            divisor = common_divisor(batch.row, batch.n, batch.zero[lane], batch.scale[lane],
                                     0.0, top, value)
            if divisor > 1:
                batch.zero[lane] += batch.scale[lane] * value
                batch.scale[lane] *= divisor


cdef inline void find_gaps(Batch *batch, double *gaps) noexcept nogil:
    # The smallest gap between two different weights of each row.
    cdef double gap
    cdef Py_ssize_t k, lane
    memcpy(batch.sorted, batch.values, batch.n * LANES * sizeof(float))
    sort_rows(batch.sorted, batch.n)
    for lane in range(LANES):
        gaps[lane] = 1e300
    for k in range(1, batch.n):
        for lane in range(LANES):
            gap = <double>batch.sorted[k * LANES + lane] - <double>batch.sorted[
                (k - 1) * LANES + lane]
            gaps[lane] = gap if 0.0 < gap < gaps[lane] else gaps[lane]


cdef inline double lane_total(const Batch *batch, Py_ssize_t lane) noexcept nogil:
    # The sum of one row in eight running sums, added in halves.
    cdef double s[8]
    cdef Py_ssize_t k
    memset(s, 0, sizeof(s))
    for k in range(batch.n):
        s[k & 7] += <double>batch.values[k * LANES + lane]
    return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]))


cdef bint better_lines(Batch *batch, double n, double top, const double *totals, double *scale,
                       double *offset, bint *is_open, double *gains) noexcept nogil:
    # One turn: the nearest codes, and the line of least squares through them. Returns whether any
    # row goes on.
    cdef AffineSums sums
    cdef double rise, spread, gain, next_scale, next_offset
    cdef Py_ssize_t lane
    cdef bint any_open = False
    sum_codes(batch, scale, offset, top, &sums)
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
