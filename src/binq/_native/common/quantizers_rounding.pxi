# From the best scale to the one that is stored, as binq.reference.rounding has it: codes without a
# common divisor, and of two numbers of 16 bits around a scale the one with the smaller error.

cdef inline double nearest_code(double w, double scale, double low, double high) noexcept nogil:
    cdef double code = w / scale
    code = code if code > low else low
    code = code if code < high else high
    return (code + 6755399441055744.0) - 6755399441055744.0


cdef int common_divisor(const double *w, Py_ssize_t n, double offset, double scale, double low,
                        double high, double base) noexcept nogil:
    # Of the codes less base; 1 where all of these are 0.
    cdef Py_ssize_t k
    cdef int divisor = 0
    for k in range(n):
        divisor = greatest_divisor(
            <int>fabs(nearest_code(w[k] - offset, scale, low, high) - base), divisor)
        if divisor == 1:
            return 1
    return divisor if divisor else 1


cdef double saved(const Search *search, double scale) noexcept nogil:
    # What codes with these sums take off the sum of squares.
    return 2.0 * scale * search.a - scale * scale * search.b


cdef void fit_to_storage(Best *best, int type) noexcept nogil:
    # Of a search that found a scale above 0; best.w still holds the group.
    cdef Search one, two
    cdef float near, other
    one.low = -best.zero_point
    one.high = best.span - best.zero_point
    two.low = one.low
    two.high = one.high
    best.scale = best.scale * common_divisor(
        best.w, best.n, 0.0, best.scale, one.low, one.high, 0.0)
    if not two_around(best.scale, type, &near, &other):
        return
    one.u = 1.0 / near
    two.u = 1.0 / other
    evaluate_two(best, &one, &two)
    best.scale = other if saved(&two, other) > saved(&one, near) else near
