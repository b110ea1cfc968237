# Levels that are not one step apart (iq4nl, mxfp4): the largest-magnitude rule, the best scale of
# either sign, the best power of two, and the codes. Bit for bit as binq.reference.levels.

cdef enum:
    GRID_HALF = 256           # the middle of a grid's table: twice the middles are within 255 of 0
    GRID_SIZE = 513
    MOST_LEVELS = 16


ctypedef struct Grid:
    # The levels of a format in ascending order, or these negated.
    int count
    double levels[16]
    double zero               # the level nearest to 0
    double table[513]         # the level of a number x at ceil(2 x): middles are whole halves
    double above              # the first middle above 0 and below it, or 0 where there is none
    double below
    float middles[16]
    uint8_t codes[16]         # how each level is stored
    uint8_t is_level[256]


cdef void set_grid(Grid *grid, int format, bint negated) noexcept nogil:
    cdef uint8_t stored[256]
    cdef double middle
    cdef int level, i
    stored_codes(format, ZERO_NONE, stored)
    memset(grid.is_level, 0, sizeof(grid.is_level))
    for i in range(MOST_LEVELS):
        level = SPECS[format].levels[i]
        grid.is_level[<uint8_t>(-level if negated else level)] = 1
    grid.count = 0
    for level in range(-127, 128):
        if grid.is_level[<uint8_t>level]:
            grid.codes[grid.count] = stored[<uint8_t>level]
            grid.levels[grid.count] = level
            grid.count += 1
    grid.above = 0.0
    grid.below = 0.0
    for i in range(grid.count - 1):
        middle = (grid.levels[i] + grid.levels[i + 1]) * 0.5
        grid.middles[i] = <float>middle
        if middle > 0.0 and grid.above == 0.0:
            grid.above = middle
        if middle < 0.0:
            grid.below = middle
    level = 0
    for i in range(GRID_SIZE):
        while level < grid.count - 1 and i - GRID_HALF > 2.0 * grid.middles[level]:
            level += 1
        grid.table[i] = grid.levels[level]
    grid.zero = grid.table[GRID_HALF]


cdef inline double grid_level(const Grid *grid, double x) noexcept nogil:
    # The level nearest to x, the lower one halfway: that of ceil(2 x).
    cdef double twice = 2.0 * x
    cdef double whole
    twice = twice if twice > -GRID_HALF else -GRID_HALF
    twice = twice if twice < GRID_HALF else GRID_HALF
    whole = (twice + 6755399441055744.0) - 6755399441055744.0
    whole = whole + 1.0 if whole < twice else whole
    return grid.table[<int>whole + GRID_HALF]


cdef double folded_lanes(const double *s) noexcept nogil:
    return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]))


cdef inline doubles levels_of(const Grid *grid, doubles twice) noexcept nogil:
    # grid_level of numbers given twice.
    cdef doubles whole
    twice = minimum(maximum(twice, splat(-GRID_HALF)), splat(GRID_HALF))
    whole = rounded(twice)
    whole = add(whole, blend(greater(twice, whole), splat(1.0), splat(0.0)))
    return lookup(&grid.table[GRID_HALF], whole)


cdef void evaluate_levels(const Best *best, const Grid *grid, Search *search) noexcept nogil:
    # The levels at scale 1 / u, and their A and B in eight running sums. best.n is not padded, but
    # there is room in best.w for a last block of 8, whose rest has no level.
    cdef double last[8]
    cdef doubles a[8]
    cdef doubles b[8]
    cdef doubles x, value
    cdef doubles u = splat(2.0 * search.u)
    cdef Py_ssize_t whole = best.n & ~<Py_ssize_t>7
    cdef Py_ssize_t i, part
    for part in range(PARTS):
        a[part] = splat(0.0)
        b[part] = splat(0.0)
    for i in range(0, whole, 8):
        for part in range(PARTS):
            value = load(best.w + i + part * DOUBLES)
            x = levels_of(grid, mul(u, value))
            a[part] = add(a[part], mul(value, x))
            b[part] = add(b[part], mul(x, x))
    if whole < best.n:
        memset(last, 0, sizeof(last))
        for i in range(best.n - whole):
            last[i] = grid_level(grid, search.u * best.w[whole + i])
        for part in range(PARTS):
            x = load(last + part * DOUBLES)
            a[part] = add(a[part], mul(load(best.w + whole + part * DOUBLES), x))
            b[part] = add(b[part], mul(x, x))
    search.a = folded(a)
    search.b = folded(b)


cdef void evaluate_ends(const Best *best, double low, double zero, double high,
                        Search *search) noexcept nogil:
    # The same of weights that have one of three levels, by their sign.
    cdef double a[8]
    cdef double b[8]
    cdef double x
    cdef Py_ssize_t i
    memset(a, 0, sizeof(a))
    memset(b, 0, sizeof(b))
    for i in range(best.n):
        x = high if best.w[i] > 0.0 else low if best.w[i] < 0.0 else zero
        a[i & 7] += best.w[i] * x
        b[i & 7] += x * x
    search.a = folded_lanes(a)
    search.b = folded_lanes(b)


cdef void start_levels(Best *best, Search *search, const Grid *grid, int number, double lowest,
                       double highest) noexcept nogil:
    # number: what keep_best is to remember as -zero_point.
    cdef double u = -1.0
    search.low = number
    search.top = search.stack
    search.is_open = False
    if highest > 0.0 and grid.above > 0.0:
        u = grid.above / highest
    if lowest < 0.0 and grid.below < 0.0 and (u < 0.0 or grid.below / lowest < u):
        u = grid.below / lowest
    if u < 0.0:
        return
    search.is_open = True
    evaluate_ends(best, grid.zero, grid.zero, grid.zero, search)
    keep_best(best, search)
    search.at.u0 = u
    search.at.a0 = search.a
    search.at.b0 = search.b
    evaluate_ends(best, grid.levels[0], grid.zero, grid.levels[grid.count - 1], search)
    keep_best(best, search)
    search.at.u1 = -1.0  # infinity
    search.at.a1 = search.a
    search.at.b1 = search.b
    search.at.depth = 0
    next_cut(best, search)


cdef void search_levels(Best *best, Interval *stack, const Grid *grids, int count, double lowest,
                        double highest) noexcept nogil:
    # One table of levels or two, by turns.
    cdef Search one, two
    one.stack = stack
    two.stack = stack + SEARCH_DEPTH
    two.is_open = False
    start_levels(best, &one, &grids[0], 0, lowest, highest)
    if count == 2:
        start_levels(best, &two, &grids[1], 1, lowest, highest)
    while one.is_open or two.is_open:
        if one.is_open:
            evaluate_levels(best, &grids[0], &one)
            take_cut(best, &one)
        if two.is_open:
            evaluate_levels(best, &grids[1], &two)
            take_cut(best, &two)


cdef void fit_levels_to_storage(Best *best, const Grid *grid, int type) noexcept nogil:
    # As fit_to_storage, with a divisor only where the divided levels are levels as well.
    cdef Search one, two
    cdef float near, other
    cdef int divisor = 0
    cdef int level
    cdef Py_ssize_t i
    for i in range(best.n):
        divisor = greatest_divisor(<int>fabs(grid_level(grid, best.w[i] / best.scale)), divisor)
        if divisor == 1:
            break
    for i in range(best.n):
        if divisor <= 1:
            break
        level = <int>grid_level(grid, best.w[i] / best.scale)
        if not grid.is_level[<uint8_t>(level // divisor)]:
            divisor = 1
    if divisor > 1:
        best.scale = best.scale * divisor
    if not two_around(best.scale, type, &near, &other):
        return
    one.u = 1.0 / near
    two.u = 1.0 / other
    evaluate_levels(best, grid, &one)
    evaluate_levels(best, grid, &two)
    best.scale = other if saved(&two, other) > saved(&one, near) else near


cdef inline void find_levels(Batch *batch, const QuantizeJob *job, Grid *grids) noexcept nogil:
    cdef Best best
    cdef double low[8]
    cdef double high[8]
    cdef Py_ssize_t lane, k
    cdef int level = SPECS[job.format].absmax
    cdef int count = 1
    find_range(batch, low, high)
    for k in range(grids[0].count):
        if grids[0].levels[k] != -grids[0].levels[grids[0].count - 1 - k]:
            count = 2
    best.w = batch.row
    best.n = batch.n
    for lane in range(LANES):
        batch.scale[lane] = 0.0
        if batch.amax[lane] == 0:
            continue
        if job.method == METHOD_ABSMAX:
            if has_powers(job):
                batch.scale[lane] = power_of_largest(max(-low[lane], high[lane]), abs(level))
            elif level > 0:
                batch.scale[lane] = max(-low[lane], high[lane]) / level
            else:
                batch.scale[lane] = (high[lane] if high[lane] >= -low[lane] else low[lane]) / level
            continue
        for k in range((batch.n + 7) & ~<Py_ssize_t>7):
            batch.row[k] = batch.values[k * LANES + lane]
        best.gain = 0.0
        best.scale = 0.0
        best.zero_point = 0.0
        if has_powers(job):
            best_power_of_levels(&best, &grids[0], max(-low[lane], high[lane]))
            batch.scale[lane] = best.scale
            continue
        search_levels(&best, batch.stack, grids, count, low[lane], high[lane])
        if best.scale <= 0.0:
            continue
        k = 0 if best.zero_point == 0.0 else 1
        fit_levels_to_storage(&best, &grids[k], job.scale_type)
        batch.scale[lane] = -best.scale if k else best.scale


cdef void best_power_of_levels(Best *best, const Grid *grid, double amax) noexcept nogil:
    # As best_power.
    cdef Search search
    cdef double most = 2.0 * max(-grid.levels[0], grid.levels[grid.count - 1]) * magnitudes(best)
    cdef double scale, gain
    cdef int exponent = 0
    frexp(amax, &exponent)
    scale = ldexp(1.0, exponent)
    best.scale = scale
    while most * scale > best.gain:
        search.u = 1.0 / scale
        evaluate_levels(best, grid, &search)
        gain = saved(&search, scale)
        if gain > best.gain:
            best.gain = gain
            best.scale = scale
        scale = scale * 0.5


cdef inline void pack_levels(const Batch *batch, const Grid *grid, uint8_t *packed,
                             Py_ssize_t rows) noexcept nogil:
    # 32 bits of a row are 8 columns: nibble of column j at bit 8 j, of column 4 + j at 8 j + 4.
    cdef uint32_t words[8]
    cdef uint32_t places[8]
    cdef float x[8]
    cdef float divisors[8]
    cdef Py_ssize_t k, j, lane, count
    cdef int shift, i
    for lane in range(LANES):
        divisors[lane] = batch.rounded_scale[lane]
        if divisors[lane] == 0.0:
            divisors[lane] = 1.0
    for k in range(0, batch.n, 8):
        count = min(8, batch.n - k)
        memset(words, 0, sizeof(words))
        for j in range(count):
            shift = <int>(8 * (j & 3) + (j & 4))
            memset(places, 0, sizeof(places))
            for lane in range(LANES):
                x[lane] = batch.values[(k + j) * LANES + lane] / divisors[lane]
            for i in range(grid.count - 1):
                for lane in range(LANES):
                    places[lane] += x[lane] > grid.middles[i]
            for lane in range(LANES):
                words[lane] |= <uint32_t>grid.codes[places[lane]] << shift
        for lane in range(rows):
            store_word(packed + (k >> 3) * 128 + lane * 4, words[lane])
