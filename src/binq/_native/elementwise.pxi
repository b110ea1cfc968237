# What is done tile by tile, as tasks that threads share: dequantize, unpack, pack, measure,
# quantize.

cdef struct Elementwise:
    # dequantize, unpack, pack and measure: tile by tile, nothing shared.
    const Weights *w
    const KernelTable *table
    float *floats
    int8_t *codes
    uint8_t *packed
    const char *values
    Py_ssize_t row_stride
    int input_type
    Errors *errors


cdef struct Quantizing:
    const KernelTable *table
    QuantizeJob job
    char *scratch
    Py_ssize_t scratch_bytes
    int status[MAX_THREADS]   # one of each thread of the pool


cdef void dequantize_task(void *job, Py_ssize_t begin, Py_ssize_t end, int slot) noexcept nogil:
    cdef Elementwise *e = <Elementwise *>job
    e.table.dequantize(e.w, e.floats, e.w.in_features, begin, end)


cdef void unpack_task(void *job, Py_ssize_t begin, Py_ssize_t end, int slot) noexcept nogil:
    cdef Elementwise *e = <Elementwise *>job
    e.table.unpack(e.w, e.codes, e.w.in_features, begin, end)


cdef void pack_task(void *job, Py_ssize_t begin, Py_ssize_t end, int slot) noexcept nogil:
    cdef Elementwise *e = <Elementwise *>job
    e.table.pack(e.w, e.codes, e.w.in_features, e.packed, begin, end)


cdef void measure_task(void *job, Py_ssize_t begin, Py_ssize_t end, int slot) noexcept nogil:
    cdef Elementwise *e = <Elementwise *>job
    e.table.measure(e.w, e.values, e.row_stride, e.input_type, e.errors, begin, end)


cdef void quantize_task(void *job, Py_ssize_t begin, Py_ssize_t end, int slot) noexcept nogil:
    cdef Quantizing *q = <Quantizing *>job
    q.status[slot] |= q.table.quantize(
        &q.job, q.scratch + slot * q.scratch_bytes, begin, end)


cdef void run_elementwise(Task task, Elementwise *e) noexcept nogil:
    cdef Py_ssize_t tiles = e.w.tiles
    cdef int threads = threads_for(<double>tiles * TILE_ROWS * e.w.in_features * SLOW)
    e.table = kernels
    parallel_for(task, e, tiles, grain_for(tiles, threads), threads)
