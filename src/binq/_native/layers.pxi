# What lies between the products of a transformer: rows shared among threads where they are many.

cdef struct Layer:
    const KernelTable *table
    const float *x
    const float *weight       # or cosines, or up
    const float *sin
    Py_ssize_t size
    Py_ssize_t heads
    float eps
    float *out

cdef struct Attending:
    const KernelTable *table
    AttentionJob job
    char *scratch
    Py_ssize_t scratch_bytes

cdef enum:
    ELEMENT = 64              # the cost of a number, in the unit of a product's
    GATES_AT_ONCE = 1024


cdef void norm_task(void *job, Py_ssize_t begin, Py_ssize_t end, int slot) noexcept nogil:
    cdef Layer *layer = <Layer *>job
    layer.table.rms_norm(layer.x, layer.weight, layer.size, layer.eps, layer.out, begin, end)


cdef void rope_task(void *job, Py_ssize_t begin, Py_ssize_t end, int slot) noexcept nogil:
    cdef Layer *layer = <Layer *>job
    layer.table.rope(layer.x, layer.weight, layer.sin, layer.heads, layer.size, layer.out, begin,
                     end)


cdef void gate_task(void *job, Py_ssize_t begin, Py_ssize_t end, int slot) noexcept nogil:
    cdef Layer *layer = <Layer *>job
    layer.table.silu_mul(layer.x, layer.weight, layer.out, begin * GATES_AT_ONCE,
                     min(end * GATES_AT_ONCE, layer.size))


cdef void softmax_task(void *job, Py_ssize_t begin, Py_ssize_t end, int slot) noexcept nogil:
    cdef Layer *layer = <Layer *>job
    layer.table.softmax(layer.x, layer.size, layer.out, begin, end)


cdef void attention_task(void *job, Py_ssize_t begin, Py_ssize_t end, int slot) noexcept nogil:
    cdef Attending *a = <Attending *>job
    a.table.attention(&a.job, a.scratch + slot * a.scratch_bytes, begin, end)


cdef void run_layer(Task task, Layer *layer, Py_ssize_t items, Py_ssize_t numbers) noexcept nogil:
    cdef int threads = threads_for(<double>numbers * ELEMENT)
    layer.table = kernels
    parallel_for(task, layer, items, grain_for(items, threads), threads)


cdef int check_same(_View x, _View out) except -1:
    if out.nbytes() != x.nbytes():
        raise ValueError(f"out must have {x.nbytes()} bytes, got {out.nbytes()}")
    return 0


def rms_norm(x, weight, float eps, out):
    """Writes the rows of x, scaled to a root mean square of 1 and by weight, to ``out``."""
    cdef _View x_view = view("x", x, b"f", 2, False)
    cdef _View weight_view = view("weight", weight, b"f", 1, False)
    cdef _View out_view = view("out", out, b"f", 2, True)
    cdef Py_ssize_t rows = x_view.size(0)
    cdef Layer layer
    check_same(x_view, out_view)
    check_size("weight", weight_view, x_view.size(1) * 4)
    if x_view.nbytes() == 0:
        return
    layer.x = <const float *>x_view.buffer.buf
    layer.weight = <const float *>weight_view.buffer.buf
    layer.out = <float *>out_view.buffer.buf
    layer.size = x_view.size(1)
    layer.eps = eps
    with nogil:
        run_layer(norm_task, &layer, rows, rows * layer.size)


def rope(x, cos, sin, out):
    """Writes x ``(tokens, heads, size)``, rotated by angles ``(tokens, size / 2)``, to ``out``."""
    cdef _View x_view = view("x", x, b"f", 3, False)
    cdef _View cos_view = view("cos", cos, b"f", 2, False)
    cdef _View sin_view = view("sin", sin, b"f", 2, False)
    cdef _View out_view = view("out", out, b"f", 3, True)
    cdef Py_ssize_t tokens = x_view.size(0)
    cdef Layer layer
    layer.heads = x_view.size(1)
    layer.size = x_view.size(2)
    check_same(x_view, out_view)
    if layer.size % 2 or cos_view.size(0) != tokens or sin_view.size(0) != tokens or (
            cos_view.size(1) != layer.size // 2 or sin_view.size(1) != layer.size // 2):
        raise ValueError(f"cos and sin must have shape {(tokens, layer.size // 2)}")
    if x_view.nbytes() == 0:
        return
    layer.x = <const float *>x_view.buffer.buf
    layer.weight = <const float *>cos_view.buffer.buf
    layer.sin = <const float *>sin_view.buffer.buf
    layer.out = <float *>out_view.buffer.buf
    with nogil:
        run_layer(rope_task, &layer, tokens, tokens * layer.heads * layer.size)


def silu_mul(gate, up, out):
    """Writes ``gate * sigmoid(gate) * up`` to ``out``."""
    cdef _View gate_view = view("gate", gate, b"f", 1, False)
    cdef _View up_view = view("up", up, b"f", 1, False)
    cdef _View out_view = view("out", out, b"f", 1, True)
    cdef Layer layer
    check_same(gate_view, up_view)
    check_same(gate_view, out_view)
    layer.x = <const float *>gate_view.buffer.buf
    layer.weight = <const float *>up_view.buffer.buf
    layer.out = <float *>out_view.buffer.buf
    layer.size = gate_view.size(0)
    with nogil:
        run_layer(gate_task, &layer, (layer.size + GATES_AT_ONCE - 1) // GATES_AT_ONCE, layer.size)


def softmax(x, out):
    """Writes the softmax of each row of x to ``out``."""
    cdef _View x_view = view("x", x, b"f", 2, False)
    cdef _View out_view = view("out", out, b"f", 2, True)
    cdef Py_ssize_t rows = x_view.size(0)
    cdef Layer layer
    check_same(x_view, out_view)
    if x_view.nbytes() == 0:
        return
    layer.x = <const float *>x_view.buffer.buf
    layer.out = <float *>out_view.buffer.buf
    layer.size = x_view.size(1)
    with nogil:
        run_layer(softmax_task, &layer, rows, rows * layer.size)


cdef void store_positions(const float *key, const float *value, Py_ssize_t tokens,
                          const AttentionJob *job, float *keys, float *values,
                          Py_ssize_t start) noexcept nogil:
    # Keys 16 positions side by side, values whole.
    cdef Py_ssize_t token, head, d, at
    cdef float *to
    for token in range(tokens):
        at = start + token
        for head in range(job.kv_heads):
            to = keys + (head * job.capacity + (at & ~<Py_ssize_t>15)) * job.size + (at & 15)
            for d in range(job.size):
                to[d * 16] = key[d]
            memcpy(values + (head * job.capacity + at) * job.width, value,
                   job.size * sizeof(float))
            key += job.size
            value += job.size


def store_keys(k, v, keys, values, Py_ssize_t start):
    """Writes k and v ``(tokens, kv_heads, size)`` to positions ``start`` on of a cache."""
    cdef _View k_view = view("k", k, b"f", 3, False)
    cdef _View v_view = view("v", v, b"f", 3, False)
    cdef _View keys_view = view("keys", keys, b"f", 4, True)
    cdef _View values_view = view("values", values, b"f", 3, True)
    cdef Py_ssize_t tokens = k_view.size(0)
    cdef AttentionJob job
    set_cache(&job, keys_view, values_view, k_view.size(1), k_view.size(2))
    if v_view.nbytes() != k_view.nbytes() or start < 0 or start > job.capacity - tokens:
        raise ValueError(f"the cache must hold {tokens} positions from {start} on")
    with nogil:
        store_positions(<const float *>k_view.buffer.buf, <const float *>v_view.buffer.buf, tokens,
                        &job, <float *>keys_view.buffer.buf, <float *>values_view.buffer.buf,
                        start)


cdef int set_cache(AttentionJob *job, _View keys, _View values, Py_ssize_t kv_heads,
                   Py_ssize_t size) except -1:
    # Checks that keys and values are a cache of so many heads of that size.
    cdef Py_ssize_t capacity = values.size(1)
    if (keys.size(0) != kv_heads or values.size(0) != kv_heads or capacity % 16
            or keys.size(1) != capacity // 16 or keys.size(2) != size or keys.size(3) != 16
            or values.size(2) != (size + 15) // 16 * 16):
        raise ValueError(f"keys and values must be a cache of {kv_heads} heads of {size}")
    job.kv_heads = kv_heads
    job.size = size
    job.capacity = capacity
    job.width = values.size(2)
    job.keys = <const float *>keys.buffer.buf
    job.values = <const float *>values.buffer.buf
    return 0


cdef bint run_attention(const AttentionJob *job) noexcept nogil:
    # Returns false where memory ran out.
    cdef Attending a
    cdef Py_ssize_t rows = job.tokens * (job.heads // job.kv_heads)
    cdef Py_ssize_t items = job.kv_heads * ((rows + ATTENTION_ROWS - 1) // ATTENTION_ROWS)
    cdef int threads = threads_for(<double>rows * job.kv_heads * job.size * job.length * SLOW)
    a.table = kernels
    a.job = job[0]
    a.scratch_bytes = aligned(
        ATTENTION_ROWS * (job.capacity + job.width + job.size) * <Py_ssize_t>sizeof(float))
    a.scratch = <char *>allocate(threads * a.scratch_bytes)
    if a.scratch == NULL:
        return False
    parallel_for(attention_task, &a, items, 1, threads)
    release(a.scratch)
    return True


def attention(q, keys, values, Py_ssize_t length, Py_ssize_t window, float scale, out):
    """Writes what the queries of the last of ``length`` positions gather to ``out``."""
    cdef _View q_view = view("q", q, b"f", 3, False)
    cdef _View keys_view = view("keys", keys, b"f", 4, False)
    cdef _View values_view = view("values", values, b"f", 3, False)
    cdef _View out_view = view("out", out, b"f", 3, True)
    cdef AttentionJob job
    cdef bint enough
    job.tokens = q_view.size(0)
    job.heads = q_view.size(1)
    check_same(q_view, out_view)
    set_cache(&job, keys_view, values_view, keys_view.size(0), q_view.size(2))
    if job.kv_heads < 1 or job.heads % job.kv_heads:
        raise ValueError(f"{job.heads} heads must be a multiple of {job.kv_heads}")
    if length < job.tokens or length > job.capacity or window < 0:
        raise ValueError(f"length must be from {job.tokens} to {job.capacity}, got {length}")
    if q_view.nbytes() == 0:
        return
    job.q = <const float *>q_view.buffer.buf
    job.out = <float *>out_view.buffer.buf
    job.length = length
    job.window = window
    job.scale = scale
    with nogil:
        enough = run_attention(&job)
    if not enough:
        raise MemoryError("not enough memory for the scores of attention")
