# The ranges that quantizers_bounds.pxi leaves, gone through code by code, and when what is found is
# the result of the whole search for certain.
#
# Between two u every weight whose code moves does so at (code + 1/2) / |w|: in that order A grows
# by |w| and B by 2 code + 1, and A^2 / B is known of all codes that are nearest under any u there.
#
# binq.reference.search rounds its sums, so that it is not enough that codes q are the best of all:
# the others must be worse by more than it rounds. With m = 2^-28, G = A^2 / B of q, and at most 512
# weights, it keeps q for certain if
#   (1) A^2 / B of all other codes that are nearest under some scale, and of q itself under another
#       zero point, is at most (1 - m) G.
# For take an interval of the search in which the best u lies, while q is at neither end. Its chord
# over u^2 is a parabola in 1 / u, at least G at its top and at most (1 - m) G at both ends, which
# are therefore 2^-14 and more of themselves away from the top. Rounding changes it there by less
# than 9 e / 2^-13 of itself, where e = (n / 8 + 8) 2^-52 is that of A: less than m, so the interval
# is kept. It is cut where the lines of its ends meet. That lies between them by more than is
# rounded: either line is m G u^2 below g where q is, so at least that below at the other end, and
# rounding is 4 e of a line whose A is at most 15 n that of q. The search comes to an end, so it
# meets q, and nothing that it meets before or after takes its place.
#
# (1) holds if m is what G exceeds
#   - the bound of all ranges that were dropped,
#   - A^2 / B of all other codes in those that were not, and if
#   - B of q is below 2^13 (2 c - 1), where c is the least magnitude of the codes of weights but 0
#     and at least 1, and q holds the codes at the ends of the range that other zero points lack.
# For A^2 / B of codes r is what their line over u^2 is at u = B / A, at most g / u^2 there: as much
# as other codes have, or the bound, unless codes q are nearest there and r elsewhere, beyond an end
# v of where q is. Let 2 K be the difference of their B, at least 2 c - 1. All codes that differ
# move beyond v, so A of r has at most K / v more, or at least K / v less. B / A of r lies on this
# side of v: with that, r has at most 1 - (K / (B + K))^2 of G, and that is at most 1 - m.

# Of weights above 0 alone, zero points 0 and 1 are searched: codes r of any other z are at most
# 15 - z, so that their line too is below g of zero point 0. Let q have a code 15. Where q is
# nearest, 15 instead of 13 or less takes at least 2 off the error over scale^2: the line of r is 2
# and more below that of q, which over u^2 is more than m G while B of q is below 2^26. Where others
# are, r has as little as these. So (1) holds if q is of zero point 0 and has a code 15. Likewise
# below 0.

cdef enum:
    MOST_PASSES = 31            # groups left to the search, after others that bounds did not decide
    MOST_FLIPS = 192


ctypedef struct Pieces:
    # The best A^2 / B of the codes met and the second best.
    double gain
    double second
    double a
    double b
    int zero


cdef inline void keep_piece(Pieces *pieces, double a, double b, int zero) noexcept nogil:
    cdef double gain = a * a / b if b > 0.0 else 0.0
    if gain > pieces.gain:
        pieces.second = pieces.gain
        pieces.gain = gain
        pieces.a = a
        pieces.b = b
        pieces.zero = zero
    elif gain > pieces.second:
        pieces.second = gain


cdef bint sweep(const Bounds *bounds, Pieces *pieces, double first, double last,
                int zero) noexcept nogil:
    # All codes from one u to another. Returns whether there was room for all that move.
    cdef float codes[512]
    cdef float moved[512]
    cdef int moving[512]
    cdef double at[192]
    cdef double rise_a[192]
    cdef double rise_b[192]
    cdef doubles sums[8]
    cdef doubles squares[8]
    cdef doubles code
    cdef const float *limits = bounds.limits + zero * bounds.n
    # As far out as float32 may take a code for another.
    cdef floats u0 = splat_float(<float>(first * (1.0 - 2.384185791015625e-7)))
    cdef floats u1 = splat_float(<float>(last * (1.0 + 2.384185791015625e-7)))
    cdef floats w, limit, q, other
    cdef unsigned int bits
    cdef double a, b, weight, u, level
    cdef int count = 0
    cdef int flips = 0
    cdef int i, j, part
    i = 0
    while i < bounds.n:
        w = load_floats_at(bounds.magnitudes + i)
        limit = load_floats_at(limits + i)
        q = round_floats(min_floats(mul_floats(u0, w), limit))
        other = round_floats(min_floats(mul_floats(u1, w), limit))
        store_floats(codes + i, q)
        bits = differing(q, other)
        if bits:
            store_floats(moved + i, other)
        while bits:
            moving[count] = i + lowest_bit(bits)
            count += 1
            bits &= bits - 1
        i += FLOATS
    for part in range(PARTS):
        sums[part] = splat(0.0)
        squares[part] = splat(0.0)
    for i in range(0, <int>bounds.n, 8):
        for part in range(PARTS):
            code = widen(codes + i + part * DOUBLES)
            sums[part] = add(sums[part],
                             mul(widen(bounds.magnitudes + i + part * DOUBLES), code))
            squares[part] = add(squares[part], mul(code, code))
    a = folded(sums)
    b = folded(squares)
    for i in range(count):
        weight = bounds.magnitudes[moving[i]]
        level = codes[moving[i]]
        while level < moved[moving[i]]:
            if flips == MOST_FLIPS:
                return False
            u = (level + 0.5) / weight
            j = flips
            while j > 0 and at[j - 1] > u:
                at[j] = at[j - 1]
                rise_a[j] = rise_a[j - 1]
                rise_b[j] = rise_b[j - 1]
                j -= 1
            at[j] = u
            rise_a[j] = weight
            rise_b[j] = 2.0 * level + 1.0
            flips += 1
            level += 1.0
    keep_piece(pieces, a, b, zero)
    for i in range(flips):
        a += rise_a[i]
        b += rise_b[i]
        keep_piece(pieces, a, b, zero)
    return True


cdef double least_code(const Best *best, const Search *search) noexcept nogil:
    # The least magnitude of the codes of weights but 0, and at least 1.
    cdef double least = best.span
    cdef double code
    cdef Py_ssize_t k
    for k in range(best.n):
        code = fabs(whole(clipped(search.u * best.w[k], search.low, search.high)))
        least = code if code < least and best.w[k] != 0.0 else least
    return least if least > 1.0 else 1.0


cdef inline double whole(double x) noexcept nogil:
    return (x + 6755399441055744.0) - 6755399441055744.0


cdef bint search_bounds(Best *best, Bounds *bounds, bint symmetric, double lowest,
                        double highest) noexcept nogil:
    # Sets scale and zero point to what the search of all zero points finds. Returns whether that
    # is certain.
    cdef Pieces pieces
    cdef Search search
    cdef bint high_is_met, low_is_met, is_alone
    cdef int i = 0
    cdef int first, last
    if best.n > MOST_COLUMNS:
        return False
    if not drop_scales(bounds, best, symmetric, lowest, highest):
        return False
    pieces.gain = 0.0
    pieces.second = 0.0
    pieces.a = 0.0
    pieces.b = 0.0
    pieces.zero = 0
    while i < bounds.end_count:
        first = bounds.ends[i]
        while i + 1 < bounds.end_count and bounds.following[bounds.ends[i]] == bounds.ends[i + 1]:
            i += 1
        last = bounds.following[bounds.ends[i]]
        if not sweep(bounds, &pieces, bounds.points[first].u, bounds.points[last].u,
                     bounds.zero[first]):
            return False
        i += 1
    if pieces.a <= 0.0 or pieces.second > pieces.gain * (1.0 - CERTAIN):
        return False
    search.low = -pieces.zero
    search.high = best.span - pieces.zero
    search.u = pieces.b / pieces.a * bounds.unit
    # No other zero point has these codes if both ends of its range are among them; of symmetric
    # weights the one that the other zero point lacks, of those of one sign the farthest.
    high_is_met = whole(clipped(search.u * highest, search.low, search.high)) == search.high
    low_is_met = whole(clipped(search.u * lowest, search.low, search.high)) == search.low
    if symmetric:
        is_alone = low_is_met if -search.low > search.high else high_is_met
    elif lowest == 0.0:
        is_alone = high_is_met and search.low == 0.0
    elif highest == 0.0:
        is_alone = low_is_met and search.high == 0.0
    else:
        is_alone = low_is_met and high_is_met
    if not is_alone:
        return False
    if pieces.b >= 8192.0 and pieces.b >= 8192.0 * (2.0 * least_code(best, &search) - 1.0):
        return False
    evaluate(best, &search)
    if search.b != pieces.b:
        return False
    best.scale = search.a / search.b
    best.zero_point = pieces.zero
    return True


cdef void search_group(Batch *batch, Best *best, bint symmetric, double lowest,
                       double highest) noexcept nogil:
    # By bounds where they decide: of 4 codes the search itself takes as long, of 256 the best are
    # too close together. After groups where they did not, often the next ones are no different.
    if 7.0 <= best.span < MANY:
        if batch.passing:
            batch.passing -= 1
        elif search_bounds(best, <Bounds *>batch.bounds, symmetric, lowest, highest):
            batch.passes = 0
            return
        else:
            batch.passes = min(2 * batch.passes + 1, MOST_PASSES)
            batch.passing = batch.passes
    search_all(best, batch.stack, symmetric, lowest, highest)


# Called by a pointer: in one function with all of find_even it takes GCC 12 a third longer.
ctypedef void (*GroupSearch)(Batch *batch, Best *best, bint symmetric, double lowest,
                             double highest) noexcept nogil
cdef GroupSearch GROUP_SEARCH = search_group
