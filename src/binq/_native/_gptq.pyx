"""The loops of method "gptq" in which each weight depends on those before it in its row.

Rows are shared among threads and never among two of them: the bits do not depend on their number.
A weight is scale * level + base. Levels ascend; where they are consecutive integers, a level is
found by rounding, else by its neighbours' middles.
"""

from libc.math cimport fabsf

from binq._native._threads cimport parallel_for, thread_limit

include "view.pxi"

cdef enum:
    MOST_LEVELS = 256


cdef struct Job:
    float *x                  # [rows][columns]: weights with feedback, or the gradient
    const float *w            # [rows][columns]: weights, or NULL
    float *error              # [rows][columns]
    float *values             # [rows][columns]: the quantized weights
    unsigned char *index      # [rows][columns]: which level
    const float *matrix       # [columns][columns]
    const float *scales       # [rows][groups]
    const float *bases        # [rows][groups]
    const int *group          # [columns]
    const float *levels
    const float *middles      # between a level and the next
    Py_ssize_t columns
    Py_ssize_t groups
    int count                 # of levels
    bint uniform
    int zero                  # the level nearest to 0
    Py_ssize_t *changed       # [rows]


cdef inline int nearest(const Job *job, float t) noexcept nogil:
    # The level nearest to t.
    cdef float low = job.levels[0]
    cdef float high = job.levels[job.count - 1]
    cdef int i = 0
    if job.uniform:
        t = t if t > low else low
        t = t if t < high else high
        # Adding 1.5 * 2^23 rounds to an integer, halves to even.
        return <int>(((t + <float>12582912.0) - <float>12582912.0) - low)
    while i < job.count - 1 and t > job.middles[i]:
        i += 1
    return i


cdef void feedback_task(void *data, Py_ssize_t begin, Py_ssize_t end, int slot) noexcept nogil:
    # Each weight is rounded together with what the errors before it ask of it.
    cdef Job *job = <Job *>data
    cdef Py_ssize_t row, j, k
    cdef Py_ssize_t columns = job.columns
    cdef float *x
    cdef const float *u
    cdef float scale, base, value, error
    cdef int level
    for row in range(begin, end):
        x = job.x + row * columns
        for j in range(columns):
            scale = job.scales[row * job.groups + job.group[j]]
            base = job.bases[row * job.groups + job.group[j]]
            level = job.zero
            if scale != 0:
                level = nearest(job, (x[j] - base) / scale)
            value = scale * job.levels[level] + base
            error = job.w[row * columns + j] - value
            job.index[row * columns + j] = <unsigned char>level
            job.error[row * columns + j] = error
            # What is left over of this column: the sum of its squares is what is made small.
            x[j] = x[j] - value
            u = job.matrix + j * columns
            for k in range(j + 1, columns):
                x[k] = x[k] + error * u[k]


cdef void descend_task(void *data, Py_ssize_t begin, Py_ssize_t end, int slot) noexcept nogil:
    # Each weight moves to the level that is best while all others stay.
    cdef Job *job = <Job *>data
    cdef Py_ssize_t row, j, k
    cdef Py_ssize_t columns = job.columns
    cdef float *x
    cdef float *q
    cdef const float *h
    cdef float scale, base, value, step
    cdef int level
    for row in range(begin, end):
        x = job.x + row * columns
        q = job.values + row * columns
        job.changed[row] = 0
        for j in range(columns):
            scale = job.scales[row * job.groups + job.group[j]]
            base = job.bases[row * job.groups + job.group[j]]
            h = job.matrix + j * columns
            if scale == 0 or h[j] <= 0:
                continue
            level = nearest(job, (q[j] + x[j] / h[j] - base) / scale)
            if level == job.index[row * columns + j]:
                continue
            value = scale * job.levels[level] + base
            step = value - q[j]
            job.index[row * columns + j] = <unsigned char>level
            job.changed[row] += 1
            q[j] = value
            for k in range(columns):
                x[k] = x[k] - step * h[k]


cdef class Levels:
    """The levels of a format, ascending float32."""

    cdef float levels[MOST_LEVELS]
    cdef float middles[MOST_LEVELS]
    cdef int count
    cdef int zero
    cdef bint uniform

    def __init__(self, levels):
        cdef _View levels_view = view("levels", levels, b"f", 1, False)
        cdef const float *given = <const float *>levels_view.buffer.buf
        cdef int i
        if not 2 <= levels_view.size(0) <= MOST_LEVELS:
            raise ValueError(f"there must be 2 to 256 levels, got {levels_view.size(0)}")
        self.count = <int>levels_view.size(0)
        self.zero = 0
        self.uniform = True
        for i in range(self.count):
            self.levels[i] = given[i]
            if fabsf(given[i]) < fabsf(self.levels[self.zero]):
                self.zero = i
            if i:
                self.middles[i - 1] = (given[i - 1] + given[i]) / 2
                self.uniform &= given[i] - given[i - 1] == 1
        self.uniform &= self.levels[0] == <int>self.levels[0]

    cdef int fill(self, Job *job, _View x, _View matrix, _View scales, _View bases, _View group,
                  _View index) except -1:
        # No size that Python let through may become a read or write out of bounds.
        cdef Py_ssize_t rows = x.size(0), columns = x.size(1), groups = scales.size(1)
        cdef Py_ssize_t j
        check_shape(matrix, columns, columns)
        check_shape(scales, rows, groups)
        check_shape(bases, rows, groups)
        check_shape(index, rows, columns)
        if group.size(0) != columns:
            raise ValueError("group must have one number a column")
        job.group = <const int *>group.buffer.buf
        for j in range(columns):
            if not 0 <= job.group[j] < groups:
                raise ValueError(f"group must be from 0 to {groups - 1}, got {job.group[j]}")
        job.x = <float *>x.buffer.buf
        job.matrix = <const float *>matrix.buffer.buf
        job.scales = <const float *>scales.buffer.buf
        job.bases = <const float *>bases.buffer.buf
        job.index = <unsigned char *>index.buffer.buf
        job.columns = columns
        job.groups = groups
        job.levels = self.levels
        job.middles = self.middles
        job.count = self.count
        job.zero = self.zero
        job.uniform = self.uniform
        return 0

    def feed_back(self, x, w, unit, scales, bases, group, index, error):
        """Rounds columns one by one; x becomes what is left over, error is w less its level."""
        cdef Job job
        cdef _View x_view = view("x", x, b"f", 2, True)
        cdef _View w_view = view("w", w, b"f", 2, False)
        cdef _View unit_view = view("unit", unit, b"f", 2, False)
        cdef _View scales_view = view("scales", scales, b"f", 2, False)
        cdef _View bases_view = view("bases", bases, b"f", 2, False)
        cdef _View group_view = view("group", group, b"i", 1, False)
        cdef _View index_view = view("index", index, b"B", 2, True)
        cdef _View error_view = view("error", error, b"f", 2, True)
        self.fill(&job, x_view, unit_view, scales_view, bases_view, group_view, index_view)
        check_shape(w_view, x_view.size(0), x_view.size(1))
        check_shape(error_view, x_view.size(0), x_view.size(1))
        job.w = <const float *>w_view.buffer.buf
        job.error = <float *>error_view.buffer.buf
        run(feedback_task, &job, x_view.size(0))

    def descend(self, gradient, values, hessian, scales, bases, group, index, changed):
        """Moves each weight to its best level; keeps the gradient (w - values) @ hessian true."""
        cdef Job job
        cdef _View gradient_view = view("gradient", gradient, b"f", 2, True)
        cdef _View values_view = view("values", values, b"f", 2, True)
        cdef _View hessian_view = view("hessian", hessian, b"f", 2, False)
        cdef _View scales_view = view("scales", scales, b"f", 2, False)
        cdef _View bases_view = view("bases", bases, b"f", 2, False)
        cdef _View group_view = view("group", group, b"i", 1, False)
        cdef _View index_view = view("index", index, b"B", 2, True)
        cdef _View changed_view = view("changed", changed, b"lq", 1, True)
        self.fill(&job, gradient_view, hessian_view, scales_view, bases_view, group_view,
                  index_view)
        check_shape(values_view, gradient_view.size(0), gradient_view.size(1))
        if changed_view.size(0) != gradient_view.size(0):
            raise ValueError("changed must have one number a row")
        job.values = <float *>values_view.buffer.buf
        job.changed = <Py_ssize_t *>changed_view.buffer.buf
        run(descend_task, &job, gradient_view.size(0))


cdef int check_shape(_View x, Py_ssize_t rows, Py_ssize_t columns) except -1:
    if x.size(0) != rows or x.size(1) != columns:
        raise ValueError("the arrays must have the shapes of one block of columns")
    return 0


cdef void run(void (*task)(void *, Py_ssize_t, Py_ssize_t, int) noexcept nogil, Job *job,
              Py_ssize_t rows) noexcept:
    cdef int threads = thread_limit()
    if rows * job.columns < 1 << 14:
        threads = 1
    with nogil:
        parallel_for(task, job, rows, 16, threads)
