# The exact search of levels one step apart: binq.reference.search explains it. Two zero points are
# searched by turns, so that their evaluations, each of which waits for the one before, run side by
# side. Its functions are not marked inline: the compiler makes one of them all, but late, which is
# faster.

cdef double folded(doubles *sums) noexcept nogil:
    # Eight sums, added in halves.
    cdef double s[4]
    cdef Py_ssize_t part
    for part in range(PARTS // 2):
        store(s + part * DOUBLES, add(sums[part], sums[part + PARTS // 2]))
    return (s[0] + s[2]) + (s[1] + s[3])


cdef void evaluate(const Best *best, Search *search) noexcept nogil:
    # The codes of scale 1 / u, and their A and B in eight running sums. Weights are float32 and
    # codes small: float64 holds their products exactly.
    cdef doubles a[8]
    cdef doubles b[8]
    cdef doubles x, value
    cdef doubles u = splat(search.u)
    cdef doubles low = splat(search.low)
    cdef doubles high = splat(search.high)
    cdef Py_ssize_t i, part
    for part in range(PARTS):
        a[part] = splat(0.0)
        b[part] = splat(0.0)
    for i in range(0, best.n, 8):
        for part in range(PARTS):
            value = load(best.w + i + part * DOUBLES)
            x = rounded(minimum(maximum(mul(u, value), low), high))
            a[part] = add_product(a[part], value, x)
            b[part] = add_square(b[part], x)
    search.a = folded(a)
    search.b = folded(b)


cdef void evaluate_two(const Best *best, Search *one, Search *two) noexcept nogil:
    cdef doubles a[8]
    cdef doubles b[8]
    cdef doubles c[8]
    cdef doubles d[8]
    cdef doubles x, y, value, sum_a, sum_b, sum_c, sum_d
    cdef doubles u = splat(one.u)
    cdef doubles low = splat(one.low)
    cdef doubles high = splat(one.high)
    cdef doubles v = splat(two.u)
    cdef doubles lower = splat(two.low)
    cdef doubles higher = splat(two.high)
    cdef Py_ssize_t i, part
    # Part by part: the sums of all parts at once would not fit the registers.
    for part in range(PARTS):
        sum_a = splat(0.0)
        sum_b = splat(0.0)
        sum_c = splat(0.0)
        sum_d = splat(0.0)
        for i in range(part * DOUBLES, best.n, 8):
            value = load(best.w + i)
            x = rounded(minimum(maximum(mul(u, value), low), high))
            y = rounded(minimum(maximum(mul(v, value), lower), higher))
            sum_a = add_product(sum_a, value, x)
            sum_b = add_square(sum_b, x)
            sum_c = add_product(sum_c, value, y)
            sum_d = add_square(sum_d, y)
        a[part] = sum_a
        b[part] = sum_b
        c[part] = sum_c
        d[part] = sum_d
    one.a = folded(a)
    one.b = folded(b)
    two.a = folded(c)
    two.b = folded(d)


cdef void evaluate_saturated(const Best *best, Search *search) noexcept nogil:
    # The codes as u goes to infinity.
    cdef doubles a[8]
    cdef doubles b[8]
    cdef doubles x, value
    cdef doubles zero = splat(0.0)
    cdef doubles low = splat(search.low)
    cdef doubles high = splat(search.high)
    cdef Py_ssize_t i, part
    for part in range(PARTS):
        a[part] = zero
        b[part] = zero
    for i in range(0, best.n, 8):
        for part in range(PARTS):
            value = load(best.w + i + part * DOUBLES)
            x = blend(greater(value, zero), high, zero)
            x = blend(greater(zero, value), low, x)
            a[part] = add(a[part], mul(value, x))
            b[part] = add(b[part], mul(x, x))
    search.a = folded(a)
    search.b = folded(b)


cdef void keep_best(Best *best, const Search *search) noexcept nogil:
    # Levels that are not one step apart may all be of the wrong sign.
    if search.a > 0.0 and search.a * search.a > best.gain * search.b:
        best.gain = search.a * search.a / search.b
        best.scale = search.a / search.b
        best.zero_point = -search.low


cdef bint may_beat(double gain, const Interval *at) noexcept nogil:
    # Whether (chord of g) / u^2, inside the interval, exceeds the best A^2 / B.
    cdef double g = 2.0 * at.u0 * at.a0 - at.b0
    cdef double rise, run, drop
    if at.u1 < 0.0:
        rise = 2.0 * at.a1
        run = 1.0
    else:
        rise = (2.0 * at.u1 * at.a1 - at.b1) - g
        run = at.u1 - at.u0
    drop = rise * at.u0 - g * run
    return (drop > 0.0 and at.u0 * rise < 2.0 * drop
            and (at.u1 < 0.0 or 2.0 * drop < at.u1 * rise)
            and rise * rise > 4.0 * gain * drop * run)


cdef void next_cut(const Best *best, Search *search) noexcept nogil:
    # Sets u to the next point to evaluate, or is_open to False where there is none.
    cdef Interval *at = &search.at
    cdef double u
    while True:
        if may_beat(best.gain, at):
            if at.depth >= 64:
                u = 2.0 * at.u0 if at.u1 < 0.0 else 0.5 * (at.u0 + at.u1)
            else:
                u = (at.b1 - at.b0) / (2.0 * (at.a1 - at.a0)) if at.a1 != at.a0 else at.u0
            if at.u0 < u and (at.u1 < 0.0 or u < at.u1):
                search.u = u
                return
        if search.top == search.stack:
            search.is_open = False
            return
        search.top -= 1
        copy_interval(at, search.top)


cdef void copy_interval(Interval *to, const Interval *source) noexcept nogil:
    # By numbers: a copy of the struct by vectors would wait for the numbers just stored.
    to.u0 = source.u0
    to.a0 = source.a0
    to.b0 = source.b0
    to.u1 = source.u1
    to.a1 = source.a1
    to.b1 = source.b1
    to.depth = source.depth


cdef void take_cut(Best *best, Search *search) noexcept nogil:
    # Uses the line found at u: the left part waits on the stack, the right one is next.
    cdef Interval *at = &search.at
    cdef double u = search.u
    cdef double a = search.a
    cdef double b = search.b
    keep_best(best, search)
    at.depth += 1
    if a == at.a1 and b == at.b1:
        # Nothing is left on the right; on the left, unless its ends have the same line too.
        at.u1 = u
        if a == at.a0 and b == at.b0:
            at.u1 = at.u0
    else:
        if a != at.a0 or b != at.b0:
            copy_interval(search.top, at)
            search.top.u1 = u
            search.top.a1 = a
            search.top.b1 = b
            search.top += 1
        at.u0 = u
        at.a0 = a
        at.b0 = b
    next_cut(best, search)


cdef void start(Best *best, Search *search, int zero_point, double lowest,
                double highest) noexcept nogil:
    cdef double largest = 0.0
    search.low = -zero_point
    search.high = best.span - zero_point
    search.top = search.stack
    search.is_open = False
    if zero_point < best.span and highest > largest:
        largest = highest
    if zero_point > 0 and -lowest > largest:
        largest = -lowest
    if largest <= 0.0:
        return
    search.is_open = True
    evaluate_saturated(best, search)
    keep_best(best, search)
    search.at.u0 = 0.5 / largest
    search.at.a0 = 0.0
    search.at.b0 = 0.0
    search.at.u1 = -1.0  # infinity
    search.at.a1 = search.a
    search.at.b1 = search.b
    search.at.depth = 0
    next_cut(best, search)


cdef void search_two(Best *best, Interval *stack, int zero_point, int other,
                     double lowest, double highest) noexcept nogil:
    cdef Search one, two
    one.stack = stack
    two.stack = stack + SEARCH_DEPTH
    two.is_open = False
    start(best, &one, zero_point, lowest, highest)
    if other != zero_point:
        start(best, &two, other, lowest, highest)
    while one.is_open and two.is_open:
        evaluate_two(best, &one, &two)
        take_cut(best, &one)
        take_cut(best, &two)
    while one.is_open:
        evaluate(best, &one)
        take_cut(best, &one)
    while two.is_open:
        evaluate(best, &two)
        take_cut(best, &two)


cdef void search_all(Best *best, Interval *stack, bint symmetric, double lowest,
                     double highest) noexcept nogil:
    # Of symmetric codes both ranges. Else all zero points, the likely ones first: of 16 codes 7 and
    # 8, 6 and 9, ... 0 and 15. Of 256 codes one range, or the two zero points next to that of the
    # largest-magnitude rule.
    cdef int span = <int>best.span
    cdef int half = (span + 1) >> 1
    cdef bint many = span >= MANY
    cdef int one, two, step
    for step in range(1 if symmetric or many else half):
        one = half - 1 - step
        two = half + step
        if symmetric:
            one = half
            two = half if many else half - 1
        elif many:
            one = min(<int>(-lowest / ((highest - lowest) / best.span)), span - 1)
            two = one + 1
        search_two(best, stack, one, two, lowest, highest)
