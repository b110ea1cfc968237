"""The loops of method "gptq" in which each weight depends on those before it in its row.

Rows are shared among threads and never among two of them: the bits do not depend on their number.
A weight is scale * level + base. Levels ascend; where they are consecutive integers, a level is
found by rounding, else by its neighbours' middles.
"""

from libc.math cimport fabsf

from binq._native._threads cimport parallel_for, thread_limit

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

    def __init__(self, const float[::1] levels not None):
        cdef int i
        if not 2 <= levels.shape[0] <= MOST_LEVELS:
            raise ValueError(f"there must be 2 to 256 levels, got {levels.shape[0]}")
        self.count = <int>levels.shape[0]
        self.zero = 0
        self.uniform = True
        for i in range(self.count):
            self.levels[i] = levels[i]
            if fabsf(levels[i]) < fabsf(self.levels[self.zero]):
                self.zero = i
            if i:
                self.middles[i - 1] = (levels[i - 1] + levels[i]) / 2
                self.uniform &= levels[i] - levels[i - 1] == 1
        self.uniform &= self.levels[0] == <int>self.levels[0]

    cdef void fill(self, Job *job) noexcept:
        job.levels = self.levels
        job.middles = self.middles
        job.count = self.count
        job.zero = self.zero
        job.uniform = self.uniform

    def feed_back(self, float[:, ::1] x not None, const float[:, ::1] w not None,
                  const float[:, ::1] unit not None, const float[:, ::1] scales not None,
                  const float[:, ::1] bases not None, const int[::1] group not None,
                  unsigned char[:, ::1] index not None, float[:, ::1] error not None):
        """Rounds columns one by one; x becomes what is left over, error is w less its level."""
        cdef Job job
        check(x, unit, scales, bases, group, index)
        check_same(x, w)
        check_same(x, error)
        if x.shape[0] == 0 or x.shape[1] == 0:
            return
        self.fill(&job)
        job.x = &x[0, 0]
        job.w = &w[0, 0]
        job.error = &error[0, 0]
        job.index = &index[0, 0]
        job.matrix = &unit[0, 0]
        job.scales = &scales[0, 0]
        job.bases = &bases[0, 0]
        job.group = &group[0]
        job.columns = x.shape[1]
        job.groups = scales.shape[1]
        run(feedback_task, &job, x.shape[0])

    def descend(self, float[:, ::1] gradient not None, float[:, ::1] values not None,
                const float[:, ::1] hessian not None, const float[:, ::1] scales not None,
                const float[:, ::1] bases not None, const int[::1] group not None,
                unsigned char[:, ::1] index not None, Py_ssize_t[::1] changed not None):
        """Moves each weight to its best level; keeps the gradient (w - values) @ hessian true."""
        cdef Job job
        check(gradient, hessian, scales, bases, group, index)
        check_same(gradient, values)
        if changed.shape[0] != gradient.shape[0]:
            raise ValueError("changed must have one number a row")
        if gradient.shape[0] == 0 or gradient.shape[1] == 0:
            return
        self.fill(&job)
        job.x = &gradient[0, 0]
        job.values = &values[0, 0]
        job.index = &index[0, 0]
        job.matrix = &hessian[0, 0]
        job.scales = &scales[0, 0]
        job.bases = &bases[0, 0]
        job.group = &group[0]
        job.changed = &changed[0]
        job.columns = gradient.shape[1]
        job.groups = scales.shape[1]
        run(descend_task, &job, gradient.shape[0])


cdef int check(const float[:, ::1] x, const float[:, ::1] matrix, const float[:, ::1] scales,
               const float[:, ::1] bases, const int[::1] group,
               const unsigned char[:, ::1] index) except -1:
    # No size that Python let through may become a read or write out of bounds.
    cdef Py_ssize_t columns = x.shape[1]
    cdef Py_ssize_t j
    if (matrix.shape[0] != columns or matrix.shape[1] != columns or group.shape[0] != columns
            or scales.shape[0] != x.shape[0] or bases.shape[0] != x.shape[0]
            or bases.shape[1] != scales.shape[1] or index.shape[0] != x.shape[0]
            or index.shape[1] != columns):
        raise ValueError("the arrays must have the shapes of one block of columns")
    for j in range(columns):
        if not 0 <= group[j] < scales.shape[1]:
            raise ValueError(f"group must be from 0 to {scales.shape[1] - 1}, got {group[j]}")
    return 0


cdef int check_same(const float[:, ::1] x, const float[:, ::1] y) except -1:
    if x.shape[0] != y.shape[0] or x.shape[1] != y.shape[1]:
        raise ValueError("the arrays must have the shapes of one block of columns")
    return 0


cdef void run(void (*task)(void *, Py_ssize_t, Py_ssize_t, int) noexcept nogil, Job *job,
              Py_ssize_t rows) noexcept:
    cdef int threads = thread_limit()
    if rows * job.columns < 1 << 14:
        threads = 1
    with nogil:
        parallel_for(task, job, rows, 16, threads)
