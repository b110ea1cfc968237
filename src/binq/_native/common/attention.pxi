# Attention over a cache, as binq.reference.layers.attention: scores are summed in the order of the
# features, results in that of the positions, so that queries share what they read without a change
# of a bit. Keys lie 16 positions side by side: a score needs no sum across a vector.

cdef extern from "common/lanes.h" nogil:
    void prefetch "binq_prefetch"(const float *p)

cdef enum:
    AHEAD = 4096              # floats; caches are read in the order of memory, from memory


cdef inline void score_rows(const float *q, const float *keys, Py_ssize_t size, float *scores,
                            Py_ssize_t stride, Py_ssize_t count) noexcept nogil:
    # scores[row][16] of `count` queries and the 16 keys of a block.
    cdef floats sums[ATTENTION_ROWS][SIXTEENTHS]
    cdef floats k[SIXTEENTHS]
    cdef floats factor
    cdef Py_ssize_t row, d, j
    for row in range(count):
        for j in range(SIXTEENTHS):
            sums[row][j] = splat_float(0.0)
    for d in range(size):
        for j in range(SIXTEENTHS):
            k[j] = load_floats_at(keys + d * 16 + j * FLOATS)
        prefetch(keys + d * 16 + AHEAD)
        for row in range(count):
            factor = splat_float(q[row * size + d])
            for j in range(SIXTEENTHS):
                sums[row][j] = plus_floats(sums[row][j], times_floats(factor, k[j]))
    for row in range(count):
        for j in range(SIXTEENTHS):
            store_floats(scores + row * stride + j * FLOATS, sums[row][j])


cdef inline void gather_rows(const float *weights, Py_ssize_t stride, const float *values,
                             Py_ssize_t width, Py_ssize_t begin, Py_ssize_t end, float *out,
                             Py_ssize_t count) noexcept nogil:
    # Adds weights[row][t] * values[t] to out[row], for the positions t of a range.
    cdef floats sums[ATTENTION_ROWS][SIXTEENTHS]
    cdef floats v[SIXTEENTHS]
    cdef floats factor
    cdef Py_ssize_t row, first, t, d, j
    # Some positions at a time, whole: memory is read from one end to the other.
    for first in range(begin, end, 16):
        for d in range(0, width, 16):
            for row in range(count):
                for j in range(SIXTEENTHS):
                    sums[row][j] = load_floats_at(out + row * width + d + j * FLOATS)
            for t in range(first, min(first + 16, end)):
                for j in range(SIXTEENTHS):
                    v[j] = load_floats_at(values + t * width + d + j * FLOATS)
                prefetch(values + t * width + d + AHEAD)
                for row in range(count):
                    factor = splat_float(weights[row * stride + t])
                    for j in range(SIXTEENTHS):
                        sums[row][j] = plus_floats(sums[row][j], times_floats(factor, v[j]))
            for row in range(count):
                for j in range(SIXTEENTHS):
                    store_floats(out + row * width + d + j * FLOATS, sums[row][j])


cdef void gather_row(const float *weights, const float *values, Py_ssize_t width, Py_ssize_t begin,
                     Py_ssize_t end, float *out) noexcept nogil:
    if begin < end:
        gather_rows(weights, 0, values, width, begin, end, out, 1)


cdef inline void attend(const AttentionJob *job, Py_ssize_t kv_head, Py_ssize_t first,
                        float *scratch, Py_ssize_t count) noexcept nogil:
    # `count` rows of a key head, from row `first` on.
    cdef Py_ssize_t group = job.heads // job.kv_heads
    cdef Py_ssize_t stride = job.capacity
    cdef const float *keys = job.keys + kv_head * job.capacity * job.size
    cdef const float *values = job.values + kv_head * job.capacity * job.width
    cdef float *scores = scratch
    cdef float *sums = scores + count * stride
    cdef float *q = sums + count * job.width
    cdef float totals[ATTENTION_ROWS]
    cdef Py_ssize_t at[ATTENTION_ROWS]
    cdef Py_ssize_t begin[ATTENTION_ROWS]
    cdef Py_ssize_t end[ATTENTION_ROWS]
    cdef Py_ssize_t row, d, block, token, all_begin, all_end
    for row in range(count):
        token = (first + row) // group
        at[row] = (token * job.heads + kv_head * group + (first + row) % group) * job.size
        end[row] = job.length - job.tokens + token + 1
        begin[row] = max(<Py_ssize_t>0, end[row] - job.window) if job.window else 0
        for d in range(job.size):
            q[row * job.size + d] = job.q[at[row] + d] * job.scale
    for block in range(begin[0] & ~<Py_ssize_t>15, end[count - 1], 16):
        score_rows(q, keys + block * job.size, job.size, scores + block, stride, count)
    for row in range(count):
        totals[row] = exponentials(scores + row * stride + begin[row], end[row] - begin[row],
                                   scores + row * stride + begin[row])
    memset(sums, 0, count * job.width * sizeof(float))
    # Together only where all rows look: 0 times a NaN that one of them must not see is NaN.
    all_begin = begin[count - 1]
    all_end = max(all_begin, end[0])
    for row in range(count):
        gather_row(scores + row * stride, values, job.width, begin[row],
                   min(all_begin, end[row]), sums + row * job.width)
    gather_rows(scores, stride, values, job.width, all_begin, end[0], sums, count)
    for row in range(count):
        gather_row(scores + row * stride, values, job.width, all_end, end[row],
                   sums + row * job.width)
        for d in range(job.size):
            job.out[at[row] + d] = sums[row * job.width + d] / totals[row]


cdef void attention(const AttentionJob *job, void *scratch,
                    Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    cdef Py_ssize_t rows = job.tokens * (job.heads // job.kv_heads)
    cdef Py_ssize_t blocks = (rows + ATTENTION_ROWS - 1) // ATTENTION_ROWS
    cdef Py_ssize_t item, first, left
    for item in range(begin, end):
        first = item % blocks * ATTENTION_ROWS
        left = min(<Py_ssize_t>ATTENTION_ROWS, rows - first)
        if left == 4:
            attend(job, item // blocks, first, <float *>scratch, 4)
        else:
            if left >= 2:
                attend(job, item // blocks, first, <float *>scratch, 2)
            if left & 1:
                attend(job, item // blocks, first + (left & 2), <float *>scratch, 1)


cdef void set_layers(KernelTable *table) noexcept:
    table.rms_norm = rms_norm
    table.rope = rope
    table.silu_mul = silu_mul
    table.softmax = softmax
    table.attention = attention
    table.rotate = rotate
