# From the best scale of a group to the one that is stored, as binq.reference.rounding has it: codes
# without a common divisor, and of two numbers of 16 bits around a scale the one with the smaller
# error. The group's weights are 0 where their importance is.

include "common/float16.pxi"
include "common/storing.pxi"


cdef inline double nearest_code(const Search *search, double x) noexcept nogil:
    if search.table != NULL:
        return level_at(search.table, x)
    x = x if x > search.low else search.low
    x = x if x < search.high else search.high
    return (x + 6755399441055744.0) - 6755399441055744.0


cdef int common_divisor(const Group *group, const Search *search) noexcept nogil:
    # Of the codes of all weights that matter; 1 where all of these are 0.
    cdef Py_ssize_t i
    cdef int divisor = 0
    for i in range(group.n):
        if search.table != NULL and group.importance[i] == 0.0:
            continue
        divisor = greatest_divisor(
            <int>fabs(nearest_code(search, group.w[i] / group.scale)), divisor)
        if divisor == 1:
            return 1
    return divisor if divisor else 1


cdef bint divides(const Group *group, const Search *search, int divisor) noexcept nogil:
    # Whether the divided levels of all weights that matter are levels as well.
    cdef Py_ssize_t i
    cdef double code
    for i in range(group.n):
        if group.importance[i] > 0.0:
            code = nearest_code(search, group.w[i] / group.scale) / divisor
            if level_at(search.table, code) != code:
                return False
    return True


cdef double saved(const Group *group, Search *search, double scale) noexcept nogil:
    # What the codes under this scale take off the sum of squares.
    search.u = 1.0 / scale
    evaluate(group, search)
    return 2.0 * scale * search.a - scale * scale * search.b


cdef void fit_to_storage(const Job *job, Group *group) noexcept nogil:
    # Of a search that found a scale above 0.
    cdef Search search
    cdef int divisor
    cdef float near, other
    search.table = NULL
    if job.tables != NULL:
        search.table = job.tables + group.low * TABLE_SIZE
    search.low = group.low
    search.high = group.low + job.span
    divisor = common_divisor(group, &search)
    if divisor > 1 and (search.table == NULL or divides(group, &search, divisor)):
        group.scale = group.scale * divisor
    if not two_around(group.scale, job.scale_type, &near, &other):
        return
    if saved(group, &search, other) > saved(group, &search, near):
        group.scale = other
    else:
        group.scale = near
