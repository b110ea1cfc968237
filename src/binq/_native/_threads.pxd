# The pool as other native modules see it.

cdef enum:
    MAX_THREADS = 256

# Does the items [begin, end) of a job. `slot` counts the threads of the job from 0 (the caller), so
# that each can have a scratch buffer of its own. Never raises and never needs the GIL.
ctypedef void (*Task)(void *data, Py_ssize_t begin, Py_ssize_t end, int slot) noexcept nogil

# Runs task over [0, items) in pieces of `grain`, on at most `threads` threads, and returns when all
# of it is done. Whatever happens (a busy pool, no more threads to be had), the work is done: at
# worst by the caller alone.
cdef void parallel_for(Task task, void *data, Py_ssize_t items, Py_ssize_t grain,
                       int threads) noexcept nogil

# The number of threads a product may use now.
cdef int thread_limit() noexcept nogil
