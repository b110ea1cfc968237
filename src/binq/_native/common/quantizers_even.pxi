# Levels one step apart, 4, 8, 16 or 256 of them: the largest-magnitude rules, the best scale, the
# codes.

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


cdef inline void find_absmax(Batch *batch, const QuantizeJob *job, const double *low,
                             const double *high, double span) noexcept nogil:
    # The largest weight gets the level that the row of the format names.
    cdef double level = SPECS[job.format].absmax
    cdef double value
    cdef Py_ssize_t lane
    for lane in range(LANES):
        if job.zero == ZERO_NONE:
            # Whatever its sign. A group of zeros has the scale 0, not -0.
            value = high[lane] if high[lane] >= -low[lane] else low[lane]
            batch.scale[lane] = value / level + 0.0
        else:
            batch.scale[lane] = (high[lane] - low[lane]) / span
            if batch.scale[lane] > 0.0:
                value = -low[lane] / batch.scale[lane]
                value = (value + 6755399441055744.0) - 6755399441055744.0
                batch.zero[lane] = value if value < span else span


cdef inline void find_even(Batch *batch, const QuantizeJob *job) noexcept nogil:
    # Sets the zero points too: where none are stored, that of the levels.
    cdef Best best
    cdef double low[8]
    cdef double high[8]
    cdef int count = 1 << LAYOUTS[SPECS[job.format].layout].bits
    cdef int middle = -SPECS[job.format].levels[0]
    cdef bint many = SPECS[job.format].layout == BYTES
    cdef double level = SPECS[job.format].absmax
    cdef Py_ssize_t lane, k, padded
    if job.zero == ZERO_OFFSET:
        find_offsets(batch, job, count - 1)
        return
    if job.zero == ZERO_NONE:
        for lane in range(LANES):
            batch.zero[lane] = middle
    if has_powers(job):
        # Without zero points: so it is checked in Python.
        find_powers(batch, count - 1 - middle, -middle, count - 1 - middle,
                    job.method == METHOD_ABSMAX)
        return
    if job.method == METHOD_ABSMAX and job.zero == ZERO_NONE and level > 0:
        for lane in range(LANES):
            batch.scale[lane] = <double>float_from_bits(batch.amax[lane]) / level
        return
    find_range(batch, low, high)
    if job.method == METHOD_ABSMAX:
        find_absmax(batch, job, low, high, count - 1)
        return
    padded = (batch.n + 7) & ~<Py_ssize_t>7
    best.w = batch.row
    best.n = padded
    # Of 256 symmetric levels the lowest is left out: codes of either sign need one search.
    best.span = count - 2 if many and job.zero == ZERO_NONE else count - 1
    for lane in range(LANES):
        best.gain = 0.0
        best.scale = 0.0
        best.zero_point = batch.zero[lane]
        if batch.amax[lane] != 0:
            for k in range(padded):
                batch.row[k] = batch.values[k * LANES + lane]
            GROUP_SEARCH(batch, &best, job.zero == ZERO_NONE, low[lane], high[lane])
            fit_to_storage(&best, job.scale_type)
            if many and job.zero == ZERO_NONE:
                best.zero_point = middle
            elif job.zero == ZERO_NONE and best.zero_point != middle:
                # Codes 1 - middle .. middle are -middle .. middle - 1 with the other sign.
                best.zero_point = middle
                best.scale = -best.scale
        batch.scale[lane] = best.scale
        batch.zero[lane] = best.zero_point


cdef inline void pack_codes(const Batch *batch, uint8_t *packed, Py_ssize_t rows, int layout,
                            bint has_offsets) noexcept nogil:
    # The nearest codes of 8 rows.
    cdef Steps steps
    cdef int bits = LAYOUTS[layout].bits
    cdef int top = (1 << bits) - 1
    cdef Py_ssize_t k, lane
    for lane in range(LANES):
        steps.offsets[lane] = batch.rounded_zero[lane]
        steps.divisors[lane] = batch.rounded_scale[lane]
        if steps.divisors[lane] == 0.0:
            steps.divisors[lane] = 1.0
        steps.zeros[lane] = 0 if has_offsets else <uint32_t>batch.zero[lane]
        steps.low[lane] = <float>0.0 if has_offsets else <float>-batch.zero[lane]
        steps.high[lane] = <float>top if has_offsets else <float>(top - batch.zero[lane])
    for k in range(0, batch.n, 8):
        if rows == LANES and k + 8 <= batch.n:
            pack_square(batch.values + k * LANES, &steps, has_offsets, bits,
                        packed + (k >> 3) * block_bytes(layout))
        else:
            pack_some_rows(batch.values + k * LANES, <int>min(8, batch.n - k), <int>rows, &steps,
                           has_offsets, bits, packed + (k >> 3) * block_bytes(layout))


cdef inline void pack_even(const Batch *batch, const QuantizeJob *job, uint8_t *packed,
                           Py_ssize_t row, Py_ssize_t rows) noexcept nogil:
    # 8 rows of a tile, from `row` on: a loop of its own for each layout.
    cdef int layout = SPECS[job.format].layout
    packed += row * LAYOUTS[layout].row_bytes
    if job.zero == ZERO_OFFSET:
        if layout == NIBBLES:
            pack_codes(batch, packed, rows, NIBBLES, True)
        elif layout == BYTES:
            pack_codes(batch, packed, rows, BYTES, True)
        elif layout == THREE_PLANES:
            pack_codes(batch, packed, rows, THREE_PLANES, True)
        else:
            pack_codes(batch, packed, rows, TWO_PLANES, True)
    elif layout == NIBBLES:
        pack_codes(batch, packed, rows, NIBBLES, False)
    elif layout == BYTES:
        pack_codes(batch, packed, rows, BYTES, False)
    elif layout == THREE_PLANES:
        pack_codes(batch, packed, rows, THREE_PLANES, False)
    else:
        pack_codes(batch, packed, rows, TWO_PLANES, False)


cdef inline void store_word(uint8_t *target, uint32_t word) noexcept nogil:
    # Little-endian on any machine.
    target[0] = <uint8_t>word
    target[1] = <uint8_t>(word >> 8)
    target[2] = <uint8_t>(word >> 16)
    target[3] = <uint8_t>(word >> 24)


cdef inline void store_zero_points(const Batch *batch, const QuantizeJob *job, Py_ssize_t tile,
                                   Py_ssize_t group, Py_ssize_t row) noexcept nogil:
    # Rows 0 to 15 of a tile are low nibbles, rows 16 to 31 high ones; of bytes each its own.
    cdef int layout = SPECS[job.format].layout
    cdef uint8_t *stored = (job.zero_points
                            + (tile * job.scale_groups + group) * zero_bytes(layout))
    cdef Py_ssize_t lane
    if layout == BYTES:
        for lane in range(LANES):
            stored[row + lane] = <uint8_t><int>batch.zero[lane]
        return
    stored += row & 15
    for lane in range(LANES):
        stored[lane] |= <uint8_t>(<int>batch.zero[lane] << (4 if row >= 16 else 0))
