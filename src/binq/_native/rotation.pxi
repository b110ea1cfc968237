# Rows of floats in a rotated basis, shared among threads where they are many.

cdef struct Rotating:
    const KernelTable *table
    const float *x
    const float *signs
    Py_ssize_t size
    Py_ssize_t block
    float scale
    int back
    float *out


cdef void rotate_task(void *job, Py_ssize_t begin, Py_ssize_t end, int slot) noexcept nogil:
    cdef Rotating *r = <Rotating *>job
    r.table.rotate(r.x, r.signs, r.size, r.block, r.scale, r.back, r.out, begin, end)


def rotate(x, signs, Py_ssize_t block, float scale, bint back, out):
    """Writes the rows of x in a rotated basis, or ``back`` from it, to ``out``, which may be x."""
    cdef _View x_view = view("x", x, b"f", 2, False)
    cdef _View signs_view = view("signs", signs, b"f", 1, False)
    cdef _View out_view = view("out", out, b"f", 2, True)
    cdef Py_ssize_t rows = x_view.size(0)
    cdef Rotating r
    cdef int threads
    r.size = x_view.size(1)
    check_same(x_view, out_view)
    check_size("signs", signs_view, r.size * 4)
    if block < 1 or block & (block - 1) or r.size % block:
        raise ValueError(f"block must be a power of two that divides {r.size}, got {block}")
    if x_view.nbytes() == 0:
        return
    r.table = kernels
    r.x = <const float *>x_view.buffer.buf
    r.signs = <const float *>signs_view.buffer.buf
    r.out = <float *>out_view.buffer.buf
    r.block = block
    r.scale = scale
    r.back = back
    with nogil:
        threads = threads_for(<double>rows * r.size * ELEMENT)
        parallel_for(rotate_task, &r, rows, grain_for(rows, threads), threads)
