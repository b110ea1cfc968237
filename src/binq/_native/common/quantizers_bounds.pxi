# Scales that cannot be the best, dropped by sums in float32: most of the exact search of levels one
# step apart. What is left is a few short ranges of u = 1 / scale, which quantizers_pieces.pxi goes
# through code by code. binq.reference.search says what A, B and g(u) are.
#
# Every bound here holds in real numbers. Magnitudes are scaled by a power of two until the largest
# lies in [1, 2), and u is a float32. Let q be the codes that rounding u |w| in float32 gives.
#   - B is a whole number below 2^24, and exact. A is a sum of positive terms in eight running sums
#     of n / 8, which are rounded at most n / 8 + 4 times: with e = (n / 8 + 6) 2^-24 it lies
#     between (1 - e) and (1 + e) times what was computed.
#   - u |w| is rounded by at most 2^-24 of itself. So a code may be the other one of two that are as
#     near within that, which takes at most 2 * 2^-24 u |w| off 2 u A - B. Weights that move add up
#     to less than A where all are saturated. Hence g(u) <= 2 u A' - B, with
#     A' = (1 + e) A + 2^-23 (A where all are saturated).
# g is convex: between two points it lies below the chord of what it is at most at both.

cdef enum:
    FIRST = 12                  # cuts of a zero point: of 10, as many as MOST_CUTS at most
    LIKELY = 6                  # zero points that are not searched together with others
    MOST_COLUMNS = 512          # B stays exact, and e small
    MOST_POINTS = 512
    MOST_CUTS = 128
    MOST_ENDS = 127

# Codes are the best for certain if they take 2^-28 more off the error than any others.
cdef double CERTAIN = 3.7252902984619140625e-9
# u where all weights above 2^-121 of the largest are saturated.
cdef double SATURATED = 1.329227995784915872903807060280344576e36
# Of 512 weights no larger than this, codes take at most 2^-31 off the error; of all, the best take
# 1.
cdef double NEGLIGIBLE = 9.5367431640625e-7

# The first points, in units of the u under which all weights just fit: close together where the
# best is, which is at 1.03 to 1.22 in nine of ten groups of 128 normal weights. One below the u
# where the first weight moves does no harm: all codes are 0 there.
cdef double[11] FITS = [1.8, 1.4, 1.26, 1.18, 1.11, 1.04, 0.95, 0.82, 0.64, 0.42, 0.22]


ctypedef struct Point:
    # A point u, what A and g are at most there, and B.
    double u
    double g
    double a
    double b


ctypedef struct Bounds:
    float magnitudes[512]       # |w| * unit
    float limits[8192]          # of each zero point that is searched: the largest code of a weight
    Py_ssize_t n
    double unit
    double e
    double few                  # the rise of B of a range that is gone through code by code
    double gain                 # the best A^2 / B is at least this
    double slack[16]            # of each zero point: what A may be too small by
    int below[16]               # and the largest codes of weights below and above 0
    int above[16]
    bint is_relaxed             # codes are of several zero points: no A^2 / B is a result's
    Point points[512]
    int zero[512]               # of each point
    int following[512]          # the point with the next larger u, or -1
    int count
    float cuts[132]             # points to evaluate, each behind a known one
    int behind[132]
    int number
    int ranges[256]             # by their left ends: those that may hold the best,
    int open
    int ends[128]               # and those of them with few codes
    int end_count


cdef void four_sums(const Bounds *bounds, Py_ssize_t first, float *sums) noexcept nogil:
    # A of four cuts, and B of all four.
    cdef floats totals[64]
    cdef floats w, q, sum_a0, sum_a1, sum_a2, sum_a3, sum_b0, sum_b1, sum_b2, sum_b3
    cdef const int *behind = bounds.behind + first
    cdef const float *limits0 = bounds.limits + bounds.zero[behind[0]] * bounds.n
    cdef const float *limits1 = bounds.limits + bounds.zero[behind[1]] * bounds.n
    cdef const float *limits2 = bounds.limits + bounds.zero[behind[2]] * bounds.n
    cdef const float *limits3 = bounds.limits + bounds.zero[behind[3]] * bounds.n
    cdef floats u0 = splat_float(bounds.cuts[first])
    cdef floats u1 = splat_float(bounds.cuts[first + 1])
    cdef floats u2 = splat_float(bounds.cuts[first + 2])
    cdef floats u3 = splat_float(bounds.cuts[first + 3])
    cdef Py_ssize_t i, part
    for part in range(8 // FLOATS):
        sum_a0 = splat_float(0.0)
        sum_a1 = splat_float(0.0)
        sum_a2 = splat_float(0.0)
        sum_a3 = splat_float(0.0)
        sum_b0 = splat_float(0.0)
        sum_b1 = splat_float(0.0)
        sum_b2 = splat_float(0.0)
        sum_b3 = splat_float(0.0)
        for i in range(part * FLOATS, bounds.n, 8):
            w = load_floats_at(bounds.magnitudes + i)
            q = round_floats(min_floats(mul_floats(u0, w), load_floats_at(limits0 + i)))
            sum_a0 = about_add_product(sum_a0, w, q)
            sum_b0 = about_add_product(sum_b0, q, q)
            q = round_floats(min_floats(mul_floats(u1, w), load_floats_at(limits1 + i)))
            sum_a1 = about_add_product(sum_a1, w, q)
            sum_b1 = about_add_product(sum_b1, q, q)
            q = round_floats(min_floats(mul_floats(u2, w), load_floats_at(limits2 + i)))
            sum_a2 = about_add_product(sum_a2, w, q)
            sum_b2 = about_add_product(sum_b2, q, q)
            q = round_floats(min_floats(mul_floats(u3, w), load_floats_at(limits3 + i)))
            sum_a3 = about_add_product(sum_a3, w, q)
            sum_b3 = about_add_product(sum_b3, q, q)
        totals[part] = sum_a0
        totals[8 // FLOATS + part] = sum_a1
        totals[16 // FLOATS + part] = sum_a2
        totals[24 // FLOATS + part] = sum_a3
        totals[32 // FLOATS + part] = sum_b0
        totals[40 // FLOATS + part] = sum_b1
        totals[48 // FLOATS + part] = sum_b2
        totals[56 // FLOATS + part] = sum_b3
    eight_totals(totals, sums)


cdef inline int may_hold(const Point *left, const Point *right, double gain) noexcept nogil:
    # Whether (chord of g) / u^2 exceeds the gain between two points, or at one of them. Evaluated
    # without jumps.
    cdef double rise = right.g - left.g
    cdef double run = right.u - left.u
    cdef double drop = left.u * right.g - right.u * left.g
    return ((left.g > gain * left.u * left.u) | (right.g > gain * right.u * right.u)
            | ((left.u * rise < 2.0 * drop) & (2.0 * drop < right.u * rise)
               & (rise * rise > 4.0 * gain * drop * run)))


cdef void insert_cuts(Bounds *bounds, bint are_first) noexcept nogil:
    # Evaluates all cuts and puts them behind their points. Opens the ranges beside them that may
    # hold the best, unless they are the FIRST of zero points: these begin where all weights are
    # saturated.
    cdef float sums[264]
    cdef double gain = bounds.gain
    cdef double a, b
    cdef Py_ssize_t i
    cdef int left, right
    cdef Point *point
    for i in range(bounds.number, (bounds.number + 3) & ~<Py_ssize_t>3):
        bounds.cuts[i] = bounds.cuts[0]
        bounds.behind[i] = bounds.behind[0]
    for i in range(0, bounds.number, 4):
        four_sums(bounds, i, sums + 2 * i)
    for i in range(bounds.number):
        a = sums[(i & ~3) + i] * (1.0 - bounds.e)
        b = sums[(i & ~3) + i + 4]
        a = a * a / (b if b > 1.0 else 1.0)  # B is a whole number
        gain = a if a > gain else gain
    if bounds.is_relaxed:
        gain = bounds.gain
    bounds.gain = gain
    gain = gain * (1.0 - 2.0 * CERTAIN)
    bounds.open = 0
    for i in range(bounds.number):
        left = bounds.behind[i]
        right = bounds.following[left]
        point = &bounds.points[bounds.count]
        point.u = bounds.cuts[i]
        point.b = sums[(i & ~3) + i + 4]
        a = sums[(i & ~3) + i] * (1.0 + bounds.e)
        if are_first and i % FIRST == 0:
            bounds.slack[bounds.zero[left]] = a * 1.1920928955078125e-7
        point.a = a + bounds.slack[bounds.zero[left]]
        point.g = 2.0 * point.u * point.a - point.b
        bounds.zero[bounds.count] = bounds.zero[left]
        bounds.following[bounds.count] = right
        bounds.following[left] = bounds.count
        if not are_first:
            bounds.ranges[bounds.open] = left
            bounds.open += may_hold(&bounds.points[left], point, gain)
            bounds.ranges[bounds.open] = bounds.count
            bounds.open += may_hold(point, &bounds.points[right], gain)
        bounds.count += 1


cdef void first_cuts(Bounds *bounds, const int *zeros, int count, double lowest,
                     double highest) noexcept nogil:
    # The first points of some zero points, where the first weight moves, with the cuts behind them:
    # those of FITS, and where all are saturated. There is room for all.
    cdef double largest, fitting
    cdef int i, j, zero, below, above
    cdef Point *point
    bounds.number = 0
    for i in range(count):
        zero = zeros[i]
        below = bounds.below[zero]
        above = bounds.above[zero]
        largest = 0.0
        fitting = 0.0
        if above:
            largest = highest
            fitting = highest / above
        if below and -lowest > largest:
            largest = -lowest
        if below and -lowest > fitting * below:
            fitting = -lowest / below
        if largest < NEGLIGIBLE:
            continue
        point = &bounds.points[bounds.count]
        point.u = 0.5 / largest
        point.a = 0.0
        point.b = 0.0
        point.g = 0.0
        bounds.zero[bounds.count] = zero
        bounds.following[bounds.count] = -1
        # The largest u first: each is put right behind the first point.
        bounds.cuts[bounds.number] = <float>SATURATED
        for j in range(FIRST - 1):
            bounds.cuts[bounds.number + 1 + j] = <float>(FITS[j] / fitting)
        for j in range(FIRST):
            bounds.behind[bounds.number + j] = bounds.count
        bounds.number += FIRST
        bounds.count += 1


cdef void open_ranges(Bounds *bounds, int first) noexcept nogil:
    # Those from point `first` on that may hold the best.
    cdef double gain = bounds.gain * (1.0 - 2.0 * CERTAIN)
    cdef int i, right
    bounds.open = 0
    for i in range(first, bounds.count):
        right = bounds.following[i]
        if right >= 0:
            bounds.ranges[bounds.open] = i
            bounds.open += may_hold(&bounds.points[i], &bounds.points[right], gain)


cdef bint next_cuts(Bounds *bounds) noexcept nogil:
    # Where what is open is cut, but for ranges with few codes, which are ends. Returns whether
    # there is room for all.
    cdef float cut
    cdef int i, is_end
    cdef const Point *left
    cdef const Point *right
    bounds.number = 0
    if bounds.open > MOST_CUTS or bounds.open + bounds.end_count > MOST_ENDS:
        return False
    for i in range(bounds.open):
        left = &bounds.points[bounds.ranges[i]]
        right = &bounds.points[bounds.following[bounds.ranges[i]]]
        cut = <float>((right.b - left.b) / (2.0 * (right.a - left.a)))
        is_end = 1 - ((right.b - left.b > bounds.few) & (left.u < cut) & (cut < right.u))
        bounds.ends[bounds.end_count] = bounds.ranges[i]
        bounds.end_count += is_end
        bounds.cuts[bounds.number] = cut
        bounds.behind[bounds.number] = bounds.ranges[i]
        bounds.number += 1 - is_end
    return bounds.count + bounds.number <= MOST_POINTS


cdef bint cut_zeros(Bounds *bounds, const Best *best, const int *zeros, int count, double lowest,
                    double highest) noexcept nogil:
    # Some zero points from the first points to ends. Returns whether there was room for all.
    cdef int i
    cdef int first = bounds.count
    cdef bint are_first = True
    cdef Py_ssize_t k
    cdef float below, above
    cdef float *limits
    if bounds.count + (FIRST + 1) * count > MOST_POINTS:
        return False
    for i in range(count):
        limits = bounds.limits + zeros[i] * bounds.n
        below = bounds.below[zeros[i]]
        above = bounds.above[zeros[i]]
        for k in range(bounds.n):
            limits[k] = above if best.w[k] > 0.0 else below
    first_cuts(bounds, zeros, count, lowest, highest)
    while bounds.number:
        insert_cuts(bounds, are_first)
        if are_first:
            open_ranges(bounds, first)
        are_first = False
        if not next_cuts(bounds):
            return False
    return True


cdef int relaxed_sides(Bounds *bounds, const int *zeros, int likely, int span,
                       int *sides) noexcept nogil:
    # Zero points below and above the likely ones, each side as one, which has what any of them
    # allows. Returns how many sides there are.
    cdef int first = span
    cdef int last = 0
    cdef int count = 0
    cdef int i
    for i in range(likely):
        first = min(first, zeros[i])
        last = max(last, zeros[i])
    if first > 0:
        sides[0] = first - 1
        bounds.above[first - 1] = span
        count = 1
    if last < span:
        sides[count] = last + 1
        bounds.below[last + 1] = span
        count += 1
    return count


cdef void order_zeros(int *zeros, int span, double position) noexcept nogil:
    # The two on either side of a position first, and so on, as far as there are any on both sides.
    cdef int below = min(<int>position, span - 1)
    cdef int above = below + 1
    cdef int i = 0
    while i <= span:
        if below >= 0:
            zeros[i] = below
            below -= 1
            i += 1
        if above <= span:
            zeros[i] = above
            above += 1
            i += 1


cdef bint drop_scales(Bounds *bounds, const Best *best, bint symmetric, double lowest,
                      double highest) noexcept nogil:
    # Leaves in bounds.ends, in ascending order of zero point and u, the ranges that hold every u
    # with a gain of nearly the best. Returns whether that was possible.
    cdef int zeros[16]
    cdef int[2] sides = [0, 0]
    cdef const int *at
    cdef int span = <int>best.span
    cdef int middle = (span + 1) >> 1
    cdef int exponent = 0
    cdef int searched = 2 if symmetric else span + 1
    cdef int count = 0
    cdef int end_count = 0
    cdef int i, likely, number, stage
    cdef bint is_cut
    cdef Py_ssize_t k
    frexp(max(highest, -lowest), &exponent)
    bounds.unit = ldexp(1.0, 1 - exponent)
    bounds.n = best.n
    bounds.few = 2.0 * best.span
    bounds.e = (best.n // 8 + 6) * 5.9604644775390625e-8
    bounds.gain = 0.0
    bounds.count = 0
    bounds.end_count = 0
    bounds.is_relaxed = False
    for k in range(best.n):
        bounds.magnitudes[k] = <float>fabs(best.w[k] * bounds.unit)
    lowest = lowest * bounds.unit
    highest = highest * bounds.unit
    # Where the largest-magnitude rule would put zero.
    order_zeros(zeros, span, middle - 1 if symmetric else -lowest / (highest - lowest) * span)
    for i in range(span + 1):
        bounds.below[i] = i
        bounds.above[i] = span - i
    if not symmetric and (lowest == 0.0 or highest == 0.0):
        # Of weights of one sign all other zero points only lack codes: quantizers_pieces.pxi.
        zeros[0] = span if highest == 0.0 else 0
        zeros[1] = zeros[0] - 1 if zeros[0] else 1
        searched = 2
        bounds.few = 4.0 * best.span  # here most codes are large
    # The likely ones first: what they find saves work on the others. Zero points that were cut
    # together and of which something is left are cut one by one, from what was known before.
    likely = min(searched, LIKELY)
    for stage in range(4):
        at = zeros
        number = 2
        if stage == 1:
            at = zeros + 2
            number = likely - 2
        elif stage == 2:
            at = sides
            number = relaxed_sides(bounds, zeros, likely, span, sides)
            bounds.is_relaxed = True
        elif stage == 3:
            at = zeros + likely
            number = searched - likely
            bounds.is_relaxed = False
            bounds.count = count
            bounds.end_count = end_count
            for i in range(2):
                bounds.below[sides[i]] = sides[i]
                bounds.above[sides[i]] = span - sides[i]
        is_cut = cut_zeros(bounds, best, at, number, lowest, highest)
        if stage == 2 and (not is_cut or bounds.end_count > end_count):
            continue
        if not is_cut:
            return False
        if stage > 1 or searched == 2 or (stage == 1 and searched == likely):
            break
        count = bounds.count
        end_count = bounds.end_count
    sort_ends(bounds)
    return True


cdef void sort_ends(Bounds *bounds) noexcept nogil:
    # Those that may hold the best, by zero point and u.
    cdef double gain = bounds.gain * (1.0 - 2.0 * CERTAIN)
    cdef int number = 0
    cdef int i, j, end, other
    for i in range(bounds.end_count):
        end = bounds.ends[i]
        if not may_hold(&bounds.points[end], &bounds.points[bounds.following[end]], gain):
            continue
        j = number
        while j > 0:
            other = bounds.ends[j - 1]
            if bounds.zero[other] < bounds.zero[end] or (
                    bounds.zero[other] == bounds.zero[end]
                    and bounds.points[other].u < bounds.points[end].u):
                break
            bounds.ends[j] = other
            j -= 1
        bounds.ends[j] = end
        number += 1
    bounds.end_count = number
