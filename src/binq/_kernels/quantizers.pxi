cdef Py_ssize_t quantize_scratch_bytes(const QuantizeJob *job, int format) noexcept nogil: return 0
cdef int quantize_binary(const QuantizeJob *job, void *scratch, Py_ssize_t a, Py_ssize_t b) noexcept nogil: return 0
cdef int quantize_ternary(const QuantizeJob *job, void *scratch, Py_ssize_t a, Py_ssize_t b) noexcept nogil: return 0
cdef int quantize_int4(const QuantizeJob *job, void *scratch, Py_ssize_t a, Py_ssize_t b) noexcept nogil: return 0
