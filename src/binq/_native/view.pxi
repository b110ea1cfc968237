# The arrays that Python hands in: typed memoryviews would be half of a module's code and time.

cimport cython
from cpython.buffer cimport (
    PyBUF_C_CONTIGUOUS, PyBUF_FORMAT, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer,
)


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


cdef inline bint is_kind(const Py_buffer *buffer, const char *kind) noexcept:
    # Whether elements are of one of the letters of the struct module, and of 8 bytes where it has
    # two: int64 is a long on one system and a long long on another.
    cdef const char *format = buffer.format
    if format == NULL or format[0] == 0 or format[1] != 0:
        return False
    if kind[1] == 0:
        return format[0] == kind[0]
    return (format[0] == kind[0] or format[0] == kind[1]) and buffer.itemsize == 8


cdef _View view(str name, array, const char *kind, int ndim, bint writable):
    cdef _View held = _View.__new__(_View)
    PyObject_GetBuffer(
        array, &held.buffer,
        PyBUF_FORMAT | PyBUF_C_CONTIGUOUS | (PyBUF_WRITABLE if writable else 0))
    held.held = True
    if held.buffer.ndim != ndim or not is_kind(&held.buffer, kind):
        raise ValueError(
            f"{name} must have {ndim} dimensions of {kind.decode()!r}, got {held.buffer.ndim} "
            f"of {(<bytes>held.buffer.format).decode()!r}"
        )
    return held
