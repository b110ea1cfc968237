"""The exact search for the best scale where the error of each input has an importance of its own.

Bit for bit as binq.reference.search.ScaleSearch, which says what is computed and why it is right.
The arithmetic is the same on every instruction set. Two ranges of codes are searched by turns.
"""

from libc.math cimport fabs
from libc.stdlib cimport free, malloc

from binq._native._threads cimport parallel_for, thread_limit
from binq._native.formats cimport SCALE_BFLOAT16, SCALE_SPECS, SCALE_TYPES  # no-cython-lint
from binq._native.formats cimport SCALE_FLOAT32  # no-cython-lint

cdef extern from "common/lanes.h" nogil:
    enum:
        DOUBLES "BINQ_DOUBLES"
        PARTS "BINQ_PARTS"
    ctypedef struct doubles "binq_doubles":
        pass
    doubles load "binq_load"(const double *p)
    void store "binq_store"(double *p, doubles a)
    doubles splat "binq_splat"(double x)
    doubles add "binq_add"(doubles a, doubles b)
    doubles mul "binq_mul"(doubles a, doubles b)
    doubles minimum "binq_min"(doubles a, doubles b)
    doubles maximum "binq_max"(doubles a, doubles b)
    doubles rounded "binq_round"(doubles a)
    doubles greater "binq_greater"(doubles a, doubles b)
    doubles blend "binq_blend"(doubles mask, doubles a, doubles b)
    doubles lookup "binq_lookup"(const double *table, doubles at)

include "view.pxi"

cdef enum:
    DEPTH = 512               # of the intervals that wait, in one of the two searches
    TABLE_HALF = 256          # the middle of a table of levels
    TABLE_SIZE = 513


ctypedef struct Interval:
    # Its ends u = 1 / scale (u1 < 0: infinity), and the lines A, B of the codes there.
    double u0
    double a0
    double b0
    double u1
    double a1
    double b1
    int depth


ctypedef struct Group:
    # Padded with zeros to a multiple of 8; w is 0 where the importance is.
    double *w
    double *importance
    double *products          # importance * w
    double *codes
    Py_ssize_t n
    double gain
    double scale
    int low


ctypedef struct Search:
    int low
    int high
    const double *table       # NULL, or the level of a number x at ceil(2 x), from -256 on
    Interval at
    Interval *stack
    Interval *top
    bint is_open
    double u
    double a
    double b


ctypedef struct Job:
    const float *w
    const float *importance
    double *scales
    short *lows
    const double *tables      # one or two of levels, or NULL: ranges of codes one step apart
    int count
    const int *ranges         # lowest code of each range, in pairs that are searched by turns
    Py_ssize_t pairs          # 0: one, next to the zero point of the largest-magnitude rule
    int span                  # highest code less lowest
    int scale_type            # what scales will be stored as, or -1: they stay as they are found
    Py_ssize_t columns
    Py_ssize_t group
    Py_ssize_t groups
    char *scratch
    Py_ssize_t scratch_bytes


cdef inline double folded(const double *s) noexcept nogil:
    return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]))


cdef void line_of(const Group *group, double *a, double *b) noexcept nogil:
    # A and B of group.codes, each in eight running sums.
    cdef double sums[8]
    cdef double squares[8]
    cdef doubles code, sum_a, sum_b
    cdef Py_ssize_t i, part
    for part in range(PARTS):
        sum_a = splat(0.0)
        sum_b = splat(0.0)
        for i in range(part * DOUBLES, group.n, 8):
            code = load(group.codes + i)
            sum_a = add(sum_a, mul(load(group.products + i), code))
            sum_b = add(sum_b, mul(load(group.importance + i), mul(code, code)))
        store(sums + part * DOUBLES, sum_a)
        store(squares + part * DOUBLES, sum_b)
    a[0] = folded(sums)
    b[0] = folded(squares)


cdef inline double level_at(const double *table, double x) noexcept nogil:
    # The level nearest to x, the lower one halfway between two: middles are whole halves.
    cdef double twice = 2.0 * x
    cdef double whole
    twice = twice if twice > -TABLE_HALF else -TABLE_HALF
    twice = twice if twice < TABLE_HALF else TABLE_HALF
    whole = (twice + 6755399441055744.0) - 6755399441055744.0
    whole = whole + 1.0 if whole < twice else whole
    return table[<int>whole + TABLE_HALF]


cdef void look_up(const Group *group, const double *table, double scale) noexcept nogil:
    # The codes level_at(table, scale * w), several at a time.
    cdef doubles u = splat(scale)
    cdef doubles two = splat(2.0)
    cdef doubles one = splat(1.0)
    cdef doubles half = splat(TABLE_HALF)
    cdef doubles least = splat(-TABLE_HALF)
    cdef doubles twice, whole
    cdef Py_ssize_t i = 0
    while i < group.n:
        twice = mul(two, mul(u, load(group.w + i)))
        twice = minimum(maximum(twice, least), half)
        whole = rounded(twice)
        whole = blend(greater(twice, whole), add(whole, one), whole)
        store(group.codes + i, lookup(table, add(whole, half)))
        i += DOUBLES


cdef void evaluate(const Group *group, Search *search) noexcept nogil:
    cdef doubles u = splat(search.u)
    cdef doubles low = splat(search.low)
    cdef doubles high = splat(search.high)
    cdef Py_ssize_t i = 0
    if search.table != NULL:
        look_up(group, search.table, search.u)
        line_of(group, &search.a, &search.b)
        return
    while i < group.n:
        store(group.codes + i,
              rounded(minimum(maximum(mul(u, load(group.w + i)), low), high)))
        i += DOUBLES
    line_of(group, &search.a, &search.b)


cdef void evaluate_saturated(const Group *group, Search *search) noexcept nogil:
    # The codes as u goes to infinity.
    cdef Py_ssize_t i
    for i in range(group.n):
        group.codes[i] = search.high if group.w[i] > 0.0 else (
            search.low if group.w[i] < 0.0 else 0.0)
    line_of(group, &search.a, &search.b)


cdef void keep_best(Group *group, const Search *search) noexcept nogil:
    # Levels that are not one step apart may all be of the wrong sign.
    if search.a > 0.0 and search.a * search.a > group.gain * search.b:
        group.gain = search.a * search.a / search.b
        group.scale = search.a / search.b
        group.low = search.low


cdef bint may_beat(double gain, const Interval *at) noexcept nogil:
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


cdef void next_cut(const Group *group, Search *search) noexcept nogil:
    # Sets u to the next point to evaluate, or is_open to False where there is none.
    cdef Interval *at = &search.at
    cdef double u
    while True:
        if may_beat(group.gain, at):
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
        at[0] = search.top[0]


cdef void take_cut(Group *group, Search *search) noexcept nogil:
    # Uses the line found at u: the left part waits, the right one is next.
    cdef Interval *at = &search.at
    cdef bint left = search.a != at.a0 or search.b != at.b0
    cdef bint right = search.a != at.a1 or search.b != at.b1
    keep_best(group, search)
    at.depth += 1
    if left:
        search.top[0] = at[0]
        search.top.u1 = search.u
        search.top.a1 = search.a
        search.top.b1 = search.b
        search.top += 1
    if right:
        at.u0 = search.u
        at.a0 = search.a
        at.b0 = search.b
    elif search.top == search.stack:
        search.is_open = False
        return
    else:
        search.top -= 1
        at[0] = search.top[0]
    next_cut(group, search)


cdef void start(Group *group, Search *search, int low, int span) noexcept nogil:
    cdef double largest = 0.0
    cdef Py_ssize_t i
    search.table = NULL
    search.low = low
    search.high = low + span
    search.top = search.stack
    search.is_open = False
    for i in range(group.n):
        if search.high > 0 and group.w[i] > largest:
            largest = group.w[i]
        if search.low < 0 and -group.w[i] > largest:
            largest = -group.w[i]
    if largest <= 0.0:
        return
    search.is_open = True
    evaluate_saturated(group, search)
    keep_best(group, search)
    search.at.u0 = 0.5 / largest
    search.at.a0 = 0.0
    search.at.b0 = 0.0
    search.at.u1 = -1.0
    search.at.a1 = search.a
    search.at.b1 = search.b
    search.at.depth = 0
    next_cut(group, search)


cdef void line_of_signs(Group *group, Search *search, double low, double zero,
                        double high) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(group.n):
        group.codes[i] = high if group.w[i] > 0.0 else low if group.w[i] < 0.0 else zero
    line_of(group, &search.a, &search.b)
    keep_best(group, search)


cdef void start_levels(Group *group, Search *search, const double *table,
                       int number) noexcept nogil:
    # From where the first weight leaves the level nearest to 0.
    cdef double highest = 0.0
    cdef double lowest = 0.0
    cdef double u = -1.0
    cdef double zero = table[TABLE_HALF]
    cdef Py_ssize_t i
    cdef int above = TABLE_HALF
    cdef int below = TABLE_HALF - 1
    search.table = table
    search.low = number
    search.top = search.stack
    search.is_open = False
    for i in range(group.n):
        highest = group.w[i] if group.w[i] > highest else highest
        lowest = group.w[i] if group.w[i] < lowest else lowest
    while above < TABLE_SIZE - 1 and table[above + 1] == zero:
        above += 1
    while below >= 0 and table[below] == zero:
        below -= 1
    if highest > 0.0 and above < TABLE_SIZE - 1:
        u = (above - TABLE_HALF) * 0.5 / highest
    if lowest < 0.0 and below >= 0 and (
            u < 0.0 or (below - TABLE_HALF) * 0.5 / lowest < u):
        u = (below - TABLE_HALF) * 0.5 / lowest
    if u < 0.0:
        return
    search.is_open = True
    line_of_signs(group, search, zero, zero, zero)
    search.at.u0 = u
    search.at.a0 = search.a
    search.at.b0 = search.b
    line_of_signs(group, search, table[0], zero, table[TABLE_SIZE - 1])
    search.at.u1 = -1.0
    search.at.a1 = search.a
    search.at.b1 = search.b
    search.at.depth = 0
    next_cut(group, search)


cdef int next_zero_point(const Group *group, int span) noexcept nogil:
    # That below -least / ((greatest - least) / span), one less than span at most.
    cdef double least = 0.0
    cdef double most = 0.0
    cdef Py_ssize_t i
    for i in range(group.n):
        least = group.w[i] if group.w[i] < least else least
        most = group.w[i] if group.w[i] > most else most
    if least == most:
        return 0
    return min(<int>(-least / ((most - least) / span)), span - 1)


cdef void search_group(const Job *job, Group *group, Interval *stack) noexcept nogil:
    cdef Search one, two
    cdef Py_ssize_t pair
    cdef int around[2]
    cdef const int *ranges = job.ranges
    group.gain = 0.0
    group.scale = 0.0
    if job.tables == NULL and job.pairs == 0:
        around[0] = -next_zero_point(group, job.span)
        around[1] = around[0] - 1
        ranges = around
    group.low = 0 if job.tables != NULL else ranges[0]
    for pair in range(max(job.pairs, 1)):
        one.stack = stack
        two.stack = stack + DEPTH
        two.is_open = False
        if job.tables != NULL:
            start_levels(group, &one, job.tables, 0)
            if job.count == 2:
                start_levels(group, &two, job.tables + TABLE_SIZE, 1)
        else:
            start(group, &one, ranges[2 * pair], job.span)
        if job.tables == NULL and ranges[2 * pair + 1] != ranges[2 * pair]:
            start(group, &two, ranges[2 * pair + 1], job.span)
        while one.is_open or two.is_open:
            if one.is_open:
                evaluate(group, &one)
                take_cut(group, &one)
            if two.is_open:
                evaluate(group, &two)
                take_cut(group, &two)


include "search_storage.pxi"


cdef void rows_task(void *data, Py_ssize_t begin, Py_ssize_t end, int slot) noexcept nogil:
    cdef Job *job = <Job *>data
    cdef Py_ssize_t padded = (job.group + 7) & ~<Py_ssize_t>7
    cdef Interval *stack = <Interval *>(job.scratch + slot * job.scratch_bytes)
    cdef Group group
    cdef Py_ssize_t row, number, first, count, i
    cdef const float *w
    cdef bint matters
    group.w = <double *>(stack + 2 * DEPTH)
    group.importance = group.w + padded
    group.products = group.importance + padded
    group.codes = group.products + padded
    for row in range(begin, end):
        w = job.w + row * job.columns
        for number in range(job.groups):
            first = number * job.group
            count = min(job.group, job.columns - first)
            group.n = (count + 7) & ~<Py_ssize_t>7
            matters = False
            for i in range(group.n):
                group.w[i] = w[first + i] if i < count else 0.0
                group.importance[i] = job.importance[first + i] if i < count else 0.0
                matters |= group.importance[i] > 0.0 and group.w[i] != 0.0
            for i in range(group.n):
                if not matters:
                    group.importance[i] = 1.0 if i < count else 0.0
                group.products[i] = group.importance[i] * group.w[i]
                if group.importance[i] == 0.0:
                    group.w[i] = 0.0
            search_group(job, &group, stack)
            if job.scale_type >= 0 and group.scale > 0.0:
                fit_to_storage(job, &group)
            job.scales[row * job.groups + number] = group.scale
            job.lows[row * job.groups + number] = <short>group.low


def best_scales(w, importance, Py_ssize_t group_size, ranges, int span, int scale_type, scales,
                lows):
    """Writes the best scale of each group, and the lowest code of the range that it belongs to.

    scale_type: scales become those that this type (scale_types.h) holds; -1: they stay.
    No ranges: the two of each group whose zero points are next to that of the largest-magnitude
    rule.
    """
    cdef _View ranges_view = view("ranges", ranges, b"i", 1, False)
    cdef Job job
    if ranges_view.size(0) % 2:
        raise ValueError(f"ranges must be pairs, got {ranges_view.size(0)} numbers")
    job.tables = NULL
    job.ranges = <const int *>ranges_view.buffer.buf
    job.pairs = ranges_view.size(0) // 2
    job.span = span
    run(&job, w, importance, group_size, scale_type, scales, lows)


def best_level_scales(w, importance, Py_ssize_t group_size, tables, int scale_type, scales,
                      numbers):
    """Writes the best scale of each group, and the number of the table that it belongs to."""
    cdef _View tables_view = view("tables", tables, b"d", 2, False)
    cdef Job job
    if tables_view.size(1) != TABLE_SIZE or tables_view.size(0) not in (1, 2):
        raise ValueError(f"tables must be one or two of {TABLE_SIZE} levels")
    job.tables = <const double *>tables_view.buffer.buf
    job.count = <int>tables_view.size(0)
    job.ranges = NULL
    job.pairs = 1
    job.span = 0
    run(&job, w, importance, group_size, scale_type, scales, numbers)


cdef run(Job *job, w, importance, Py_ssize_t group_size, int scale_type, scales, lows):
    cdef _View w_view = view("w", w, b"f", 2, False)
    cdef _View importance_view = view("importance", importance, b"f", 1, False)
    cdef _View scales_view = view("scales", scales, b"d", 2, True)
    cdef _View lows_view = view("lows", lows, b"h", 2, True)
    cdef Py_ssize_t rows = w_view.size(0)
    cdef int threads = thread_limit()
    if w_view.nbytes() == 0:
        return
    if not -1 <= scale_type < SCALE_TYPES:
        raise ValueError(f"scale_type must be from -1 to {SCALE_TYPES - 1}, got {scale_type}")
    job.scale_type = scale_type
    job.columns = w_view.size(1)
    job.group = min(group_size, job.columns) if group_size else job.columns
    if job.group <= 0:
        raise ValueError(f"group_size must not be negative, got {group_size}")
    job.groups = (job.columns + job.group - 1) // job.group
    if (importance_view.size(0) != job.columns
            or scales_view.size(0) != rows or scales_view.size(1) != job.groups
            or lows_view.size(0) != rows or lows_view.size(1) != job.groups):
        raise ValueError("importance, scales and lows must have the shapes of the groups")
    job.w = <const float *>w_view.buffer.buf
    job.importance = <const float *>importance_view.buffer.buf
    job.scales = <double *>scales_view.buffer.buf
    job.lows = <short *>lows_view.buffer.buf
    if rows * job.columns < 1 << 14:
        threads = 1
    job.scratch_bytes = (2 * DEPTH * <Py_ssize_t>sizeof(Interval)
                         + 4 * ((job.group + 7) & ~<Py_ssize_t>7) * <Py_ssize_t>sizeof(double)
                         + 63) & ~<Py_ssize_t>63
    with nogil:
        job.scratch = <char *>malloc(threads * job.scratch_bytes)
        if job.scratch != NULL:
            parallel_for(rows_task, job, rows, 8, threads)
        free(job.scratch)
    if job.scratch == NULL:
        raise MemoryError("not enough memory to search for scales")
