# The arrays that Python hands in: typed memoryviews would be half of the module's code and time.

@cython.final
@cython.freelist(8)
cdef class _View:
    """The memory of a C-contiguous array, held as long as this lives."""

    cdef Py_buffer buffer
    cdef bint held

    def __dealloc__(self):
        if self.held:
            PyBuffer_Release(&self.buffer)

    cdef inline Py_ssize_t nbytes(self) noexcept:
        return self.buffer.len

    cdef inline Py_ssize_t size(self, int axis) noexcept:
        return self.buffer.shape[axis]


cdef _View view(str name, array, bytes kind, int ndim, bint writable):
    # kind: the struct module's letter of the elements; of int64, both that name 8 bytes somewhere.
    cdef _View held = _View.__new__(_View)
    PyObject_GetBuffer(
        array, &held.buffer,
        PyBUF_FORMAT | PyBUF_C_CONTIGUOUS | (PyBUF_WRITABLE if writable else 0))
    held.held = True
    if (held.buffer.ndim != ndim or <bytes>held.buffer.format not in (kind[:1], kind[1:])
            or (len(kind) == 2 and held.buffer.itemsize != 8)):
        raise ValueError(
            f"{name} must have {ndim} dimensions of {kind.decode()!r}, got {held.buffer.ndim} "
            f"of {held.buffer.format.decode()!r}"
        )
    return held
