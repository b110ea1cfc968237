# Quantizing rows of floats: the job that fills packed weights.

cdef int set_job(QuantizeJob *job, const Weights *w, int method) except -1:
    # The job that fills w, but for the values.
    if method not in METHODS.values():
        raise ValueError(f"method must be one of {METHODS}, got {method}")
    job.method = method
    job.format = w.format
    job.zero = w.zero
    job.scale_type = w.scale_type
    job.offset_type = w.offset_type
    job.out_features = w.out_features
    job.in_features = w.in_features
    job.groups = w.groups
    job.group_size = w.group_size
    job.scale_groups = w.scale_groups
    aim_job(job, w)
    return 0


cdef inline void aim_job(QuantizeJob *job, const Weights *w) noexcept nogil:
    # Sets which rows are written, and where.
    job.out_features = w.out_features
    job.tiles = w.tiles
    job.packed = <uint8_t *>w.packed
    job.scales = <void *>w.scales
    job.zero_points = <uint8_t *>w.zero_points
    job.offsets = <void *>w.offsets


def quantize(int format, int zero, int method, values, int input_type, Py_ssize_t row_stride,
             Py_ssize_t out_features, Py_ssize_t in_features, Py_ssize_t group_size,
             int scale_type, int offset_type, packed, scales, zeros):
    """Writes packed codes, scales and zeros of float rows; returns the status bits."""
    cdef _View values_view = view("values", values, b"B", 1, False)
    cdef _View packed_view = view("packed", packed, b"B", 1, True)
    cdef _View scales_view = view("scales", scales, b"B", 1, True)
    cdef _View zeros_view = view("zeros", zeros, b"B", 1, True) if zero else None
    cdef Quantizing q
    cdef QuantizeJob *job = &q.job
    cdef Weights w
    cdef int i, threads, status = 0
    if out_features == 0 or in_features == 0:
        return 0
    set_geometry(&w, out_features, in_features, group_size)
    w.format = format
    w.zero = zero
    w.scale_type = scale_type
    w.offset_type = offset_type
    set_buffers(&w, packed_view, scales_view, zeros_view)
    check_values(values_view, input_type, row_stride, &w)
    set_job(job, &w, method)
    job.values = <const char *>values_view.buffer.buf
    job.row_stride = row_stride
    job.input_type = input_type
    q.table = kernels
    memset(q.status, 0, sizeof(q.status))
    with nogil:
        threads = threads_for(<double>out_features * in_features * 64)
        q.scratch_bytes = aligned(q.table.quantize_scratch_bytes(job))
        q.scratch = <char *>allocate(threads * q.scratch_bytes)
        if q.scratch != NULL:
            parallel_for(quantize_task, &q, w.tiles, 1, threads)
        release(q.scratch)
    if q.scratch == NULL:
        raise MemoryError("not enough memory to quantize")
    for i in range(MAX_THREADS):
        status |= q.status[i]
    return status
