# One layer of a decoder as one call. Between two of its products there is no Python, so that the
# pool's threads are still awake when the next one comes.

cdef enum:
    QUERY, KEY, VALUE, ATTENDED, GATE, UP, DOWN, MATRICES

cdef struct LayerShape:
    Py_ssize_t hidden
    Py_ssize_t inner
    Py_ssize_t queries        # heads * size
    Py_ssize_t keys           # kv_heads * size
    float eps

cdef struct LayerRows:
    # What the rows of x become on their way, each `rows` times as many floats as its name says.
    float *hidden             # or attended, whichever has more
    float *query
    float *rotated_query
    float *key
    float *rotated_key
    float *value
    float *gate
    float *up
    float *inner


cdef void add_rows(float *y, const float *x, Py_ssize_t rows, Py_ssize_t size,
                   Py_ssize_t stride) noexcept nogil:
    # Adds the rows of x, which lie `stride` apart: 0 adds one row to all.
    cdef Py_ssize_t row, i
    for row in range(rows):
        for i in range(size):
            y[row * size + i] = y[row * size + i] + x[row * stride + i]


cdef void norm_rows(const float *x, const float *weight, Py_ssize_t rows, Py_ssize_t size,
                    float eps, float *out) noexcept nogil:
    cdef Layer layer
    layer.x = x
    layer.weight = weight
    layer.size = size
    layer.eps = eps
    layer.out = out
    run_layer(norm_task, &layer, rows, rows * size)


cdef void rotate_rows(const float *x, const float *cos, const float *sin, Py_ssize_t rows,
                    Py_ssize_t heads, Py_ssize_t size, float *out) noexcept nogil:
    cdef Layer layer
    layer.x = x
    layer.weight = cos
    layer.sin = sin
    layer.heads = heads
    layer.size = size
    layer.out = out
    run_layer(rope_task, &layer, rows, rows * heads * size)


cdef class DecoderLayer:
    """A layer of a decoder: attention and the gated product after it, each added to its input."""

    cdef LayerShape shape
    cdef AttentionJob job
    cdef int activations
    cdef tuple owners         # of all that the pointers below point to
    cdef const Weights *weights[MATRICES]
    cdef const float *biases[MATRICES]
    cdef const float *norms[4]

    def __init__(self, tuple matrices not None, tuple biases not None, tuple norms not None,
                 Py_ssize_t heads, Py_ssize_t kv_heads, Py_ssize_t size, float eps, float scale,
                 Py_ssize_t window, int activations):
        """Takes query, key, value, attended, gate, up, down; norms of both inputs, query, key."""
        cdef list owners = []
        cdef PackedMatrix matrix
        cdef Py_ssize_t sizes[MATRICES][2]
        cdef LayerShape shape
        cdef _View held
        cdef int i
        if self.owners is not None:
            raise RuntimeError("a DecoderLayer does not change")
        if (len(matrices), len(biases), len(norms)) != (MATRICES, MATRICES, 4):
            raise ValueError(f"a layer must have {MATRICES} matrices and biases and 4 norms")
        free(new_items(0, activations))
        for part in matrices:
            if not isinstance(part, PackedMatrix):
                raise TypeError(f"matrices must be PackedMatrix, got {type(part).__name__}")
        if heads < 1 or kv_heads < 1 or heads % kv_heads or size < 2 or size % 2 or window < 0:
            raise ValueError(
                f"{heads} heads of an even size must be a multiple of {kv_heads}, got {size}")
        shape.queries = heads * size
        shape.keys = kv_heads * size
        shape.hidden = (<PackedMatrix>matrices[QUERY]).weights.in_features
        shape.inner = (<PackedMatrix>matrices[GATE]).weights.out_features
        shape.eps = eps
        for i in range(MATRICES):
            sizes[i][0] = shape.hidden
            sizes[i][1] = shape.hidden
        sizes[QUERY][0] = sizes[ATTENDED][1] = shape.queries
        sizes[KEY][0] = sizes[VALUE][0] = shape.keys
        sizes[GATE][0] = sizes[UP][0] = sizes[DOWN][1] = shape.inner
        for i in range(MATRICES):
            matrix = matrices[i]
            matrix.check_shape(sizes[i][0], sizes[i][1])
            self.weights[i] = &matrix.weights
            self.biases[i] = NULL
            if biases[i] is not None:
                held = view("bias", biases[i], b"f", 1, False)
                check_size("bias", held, sizes[i][0] * 4)
                self.biases[i] = <const float *>held.buffer.buf
                owners.append(held)
        for i in range(4):
            self.norms[i] = NULL
            if norms[i] is not None:
                held = view("norm", norms[i], b"f", 1, False)
                check_size("norm", held, (shape.hidden if i < 2 else size) * 4)
                self.norms[i] = <const float *>held.buffer.buf
                owners.append(held)
            elif i < 2 or norms[2] is not norms[3]:
                raise ValueError("norms must be there, those of queries and keys both or neither")
        if shape.hidden < 1 or shape.inner < 1:
            raise ValueError(f"hidden and inner must be 1 or more, got {sizes[GATE]}")
        self.shape = shape
        self.job.heads = heads
        self.job.kv_heads = kv_heads
        self.job.size = size
        self.job.scale = scale
        self.job.window = window
        self.activations = activations
        self.owners = (matrices, *owners)

    def run(self, x, cos, sin, keys, values, Py_ssize_t start):
        """Adds to the rows of x what the layer makes of them.

        Their keys and values are stored from position ``start`` of the cache on.
        """
        cdef _View x_view = view("x", x, b"f", 2, True)
        cdef _View cos_view = view("cos", cos, b"f", 2, False)
        cdef _View sin_view = view("sin", sin, b"f", 2, False)
        cdef _View keys_view = view("keys", keys, b"f", 4, True)
        cdef _View values_view = view("values", values, b"f", 3, True)
        cdef Py_ssize_t rows = x_view.size(0)
        cdef AttentionJob job = self.job
        cdef bint enough
        set_cache(&job, keys_view, values_view, job.kv_heads, job.size)
        if x_view.size(1) != self.shape.hidden:
            raise ValueError(f"x must have {self.shape.hidden} columns, got {x_view.size(1)}")
        check_size("cos", cos_view, rows * job.size * 2)
        check_size("sin", sin_view, rows * job.size * 2)
        if start < 0 or start > job.capacity - rows:
            raise ValueError(f"the cache must hold {rows} positions from {start} on")
        if rows == 0:
            return
        job.tokens = rows
        job.length = start + rows
        with nogil:
            enough = self.work(
                <float *>x_view.buffer.buf, <const float *>cos_view.buffer.buf,
                <const float *>sin_view.buffer.buf, <float *>keys_view.buffer.buf,
                <float *>values_view.buffer.buf, start, &job)
        check_enough(enough)

    cdef bint work(self, float *x, const float *cos, const float *sin, float *keys, float *values,
                   Py_ssize_t start, AttentionJob *job) noexcept nogil:
        # Returns false where memory ran out.
        cdef const LayerShape *s = &self.shape
        cdef Py_ssize_t rows = job.tokens
        cdef Py_ssize_t wide = max(s.hidden, s.queries)
        cdef Py_ssize_t total = wide + 2 * s.queries + 3 * s.keys + 3 * s.inner
        cdef LayerRows r
        cdef bint enough
        # 9 arrays, each of which begins a cache line.
        r.hidden = <float *>allocate((rows * total + 9 * 16) * <Py_ssize_t>sizeof(float))
        if r.hidden == NULL:
            return False
        r.query = after(r.hidden, rows * wide)
        r.rotated_query = after(r.query, rows * s.queries)
        r.key = after(r.rotated_query, rows * s.queries)
        r.rotated_key = after(r.key, rows * s.keys)
        r.value = after(r.rotated_key, rows * s.keys)
        r.gate = after(r.value, rows * s.keys)
        r.up = after(r.gate, rows * s.inner)
        r.inner = after(r.up, rows * s.inner)
        enough = (self.attend(x, cos, sin, keys, values, start, job, &r)
                  and self.feed_forward(x, rows, &r))
        release(r.hidden)
        return enough

    cdef bint attend(self, float *x, const float *cos, const float *sin, float *keys,
                     float *values, Py_ssize_t start, AttentionJob *job,
                     LayerRows *r) noexcept nogil:
        cdef const LayerShape *s = &self.shape
        cdef Py_ssize_t rows = job.tokens
        cdef float *outs[3]
        norm_rows(x, self.norms[0], rows, s.hidden, s.eps, r.hidden)
        outs[:] = [r.query, r.key, r.value]
        if not self.multiply(QUERY, r.hidden, rows, outs, 3):
            return False
        if self.norms[2] != NULL:
            norm_rows(r.query, self.norms[2], rows * job.heads, job.size, s.eps, r.rotated_query)
            norm_rows(r.key, self.norms[3], rows * job.kv_heads, job.size, s.eps, r.rotated_key)
            r.query, r.rotated_query = r.rotated_query, r.query
            r.key, r.rotated_key = r.rotated_key, r.key
        rotate_rows(r.query, cos, sin, rows, job.heads, job.size, r.rotated_query)
        rotate_rows(r.key, cos, sin, rows, job.kv_heads, job.size, r.rotated_key)
        store_positions(r.rotated_key, r.value, rows, job, keys, values, start)
        job.q = r.rotated_query
        job.out = r.query
        if not run_attention(job):
            return False
        outs[0] = r.hidden
        if not self.multiply(ATTENDED, r.query, rows, outs, 1):
            return False
        add_rows(x, r.hidden, rows, s.hidden, s.hidden)
        return True

    cdef bint feed_forward(self, float *x, Py_ssize_t rows, LayerRows *r) noexcept nogil:
        cdef const LayerShape *s = &self.shape
        cdef Layer layer
        cdef float *outs[2]
        norm_rows(x, self.norms[1], rows, s.hidden, s.eps, r.hidden)
        outs[:] = [r.gate, r.up]
        if not self.multiply(GATE, r.hidden, rows, outs, 2):
            return False
        layer.x = r.gate
        layer.weight = r.up
        layer.out = r.inner
        layer.size = rows * s.inner
        run_layer(gate_task, &layer, (layer.size + GATES_AT_ONCE - 1) // GATES_AT_ONCE, layer.size)
        outs[0] = r.hidden
        if not self.multiply(DOWN, r.inner, rows, outs, 1):
            return False
        add_rows(x, r.hidden, rows, s.hidden, s.hidden)
        return True

    cdef bint multiply(self, int first, const float *x, Py_ssize_t rows, float **outs,
                       int count) noexcept nogil:
        # Writes the products of x with some matrices, as one job; adds their biases.
        cdef Item items[3]
        cdef const Weights *w
        cdef int i
        for i in range(count):
            items[i].w = self.weights[first + i]
            items[i].x = x
            items[i].rows = rows
            items[i].out = outs[i]
        if not run_items(kernels, items, count, self.activations):
            return False
        for i in range(count):
            w = self.weights[first + i]
            if self.biases[first + i] != NULL:
                add_rows(outs[i], self.biases[first + i], rows, w.out_features, 0)
        return True


cdef inline float *after(float *start, Py_ssize_t floats) noexcept nogil:
    return start + aligned(floats * <Py_ssize_t>sizeof(float)) // <Py_ssize_t>sizeof(float)
