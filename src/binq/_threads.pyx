"""The one place that knows threads: a small pool that survives fork and sleeps when idle.

A job is a range of items; its threads take pieces from a shared counter, so a thread that the
machine slows down takes fewer. One job runs at a time: a caller that finds the pool busy does its
work alone, which is what it would get from two jobs sharing the cores.
"""

import os

cdef extern from "_system_threads.h" nogil:
    ctypedef struct binq_mutex:
        pass
    ctypedef struct binq_condition:
        pass
    ctypedef long long counter "volatile long long"
    void binq_mutex_init(binq_mutex *m) noexcept
    void binq_mutex_lock(binq_mutex *m) noexcept
    int binq_mutex_try(binq_mutex *m) noexcept
    void binq_mutex_unlock(binq_mutex *m) noexcept
    void binq_condition_init(binq_condition *c) noexcept
    void binq_condition_wait(binq_condition *c, binq_mutex *m) noexcept
    void binq_condition_wake_all(binq_condition *c) noexcept
    int binq_thread_start(void (*entry)(void *) noexcept nogil, void *argument) noexcept
    long long binq_fetch_add(counter *p, long long n) noexcept
    long long binq_load(counter *p) noexcept
    void binq_store(counter *p, long long v) noexcept
    void binq_pause() noexcept

cdef enum:
    MAX_THREADS = 256
    SPINS = 2000              # about 20 microseconds: the gap between two products of a model

cdef binq_mutex gate          # held by the caller whose job runs
cdef binq_mutex lock          # guards all of the fields below
cdef binq_condition wake      # a job came
cdef binq_condition done      # the last worker left the job
cdef int workers = 0          # threads that exist, besides callers
cdef int limit = 1            # threads a job may have, the caller included
cdef counter generation = 0   # counts jobs
cdef counter active = 0       # workers inside the job
cdef int seats = 0            # workers that may still join the job
cdef int slots = 0            # slots given out in this job
cdef Task job_task = NULL
cdef void *job_data = NULL
cdef Py_ssize_t job_items = 0
cdef Py_ssize_t job_grain = 1
cdef counter job_next = 0


cdef void take_pieces(int slot) noexcept nogil:
    cdef Py_ssize_t begin, end
    while True:
        begin = binq_fetch_add(&job_next, job_grain)
        if begin >= job_items:
            return
        end = begin + job_grain
        job_task(job_data, begin, end if end < job_items else job_items, slot)


cdef void work(void *unused) noexcept nogil:
    # The life of a worker: sleep, join a job if it has a seat, take pieces, leave.
    global seats, slots
    cdef long long seen = 0
    cdef int slot, spin
    while True:
        spin = 0
        while spin < SPINS and binq_load(&generation) == seen:
            binq_pause()
            spin += 1
        binq_mutex_lock(&lock)
        while binq_load(&generation) == seen:
            binq_condition_wait(&wake, &lock)
        seen = binq_load(&generation)
        if seats == 0:
            binq_mutex_unlock(&lock)
            continue
        seats -= 1
        slots += 1
        slot = slots
        binq_fetch_add(&active, 1)
        binq_mutex_unlock(&lock)
        take_pieces(slot)
        binq_mutex_lock(&lock)
        if binq_fetch_add(&active, -1) == 1:
            binq_condition_wake_all(&done)
        binq_mutex_unlock(&lock)


cdef void parallel_for(Task task, void *job, Py_ssize_t items, Py_ssize_t grain,
                       int threads) noexcept nogil:
    global workers, seats, slots, job_task, job_data, job_items, job_grain
    cdef int spin = 0
    if threads > MAX_THREADS:
        threads = MAX_THREADS
    if threads > (items + grain - 1) // grain:
        threads = <int>((items + grain - 1) // grain)
    if threads <= 1 or not binq_mutex_try(&gate):
        task(job, 0, items, 0)
        return
    binq_mutex_lock(&lock)
    while workers < threads - 1 and binq_thread_start(work, NULL):
        workers += 1
    job_task = task
    job_data = job
    job_items = items
    job_grain = grain
    binq_store(&job_next, 0)
    slots = 0
    seats = threads - 1
    binq_fetch_add(&generation, 1)
    binq_condition_wake_all(&wake)
    binq_mutex_unlock(&lock)
    take_pieces(0)
    while spin < SPINS and binq_load(&active):
        binq_pause()
        spin += 1
    binq_mutex_lock(&lock)
    seats = 0                 # who wakes too late finds no seat
    while binq_load(&active):
        binq_condition_wait(&done, &lock)
    binq_mutex_unlock(&lock)
    binq_mutex_unlock(&gate)


cdef int thread_limit() noexcept nogil:
    return limit


# Exported to the C level under these names for threadpoolctl.
cdef public int binq_get_num_threads() noexcept nogil:
    return limit


cdef public void binq_set_num_threads(int threads) noexcept nogil:
    global limit
    limit = 1 if threads < 1 else MAX_THREADS if threads > MAX_THREADS else threads


cdef void reset() noexcept:
    # Makes the pool as new. In a forked child no worker exists and any lock may have been held.
    global workers, seats
    binq_mutex_init(&gate)
    binq_mutex_init(&lock)
    binq_condition_init(&wake)
    binq_condition_init(&done)
    workers = 0
    seats = 0
    binq_store(&active, 0)


def get_num_threads() -> int:
    """Returns how many threads a product may use."""
    return limit


def set_num_threads(int threads) -> None:
    """Sets how many threads a product may use, 1 to 256."""
    binq_set_num_threads(threads)


def _reset_after_fork() -> None:
    reset()


def _initial_threads() -> int:
    """Returns BINQ_NUM_THREADS, or the number of processors this process may run on."""
    text = os.environ.get("BINQ_NUM_THREADS", "").strip()
    if text:
        if not text.isdecimal() or not 1 <= int(text) <= MAX_THREADS:
            raise ValueError(f"BINQ_NUM_THREADS must be a number from 1 to 256, got {text!r}")
        return int(text)
    if hasattr(os, "sched_getaffinity"):
        return min(len(os.sched_getaffinity(0)), MAX_THREADS)
    return min(os.cpu_count() or 1, MAX_THREADS)


def _register_with_threadpoolctl() -> None:
    """Lets threadpoolctl.threadpool_limits govern binq, where threadpoolctl is installed."""
    try:
        from threadpoolctl import LibController, register
    except ImportError:
        return

    class BinqController(LibController):
        user_api = "binq"
        internal_api = "binq"
        filename_prefixes = ("_threads",)
        check_symbols = ("binq_get_num_threads", "binq_set_num_threads")

        def get_num_threads(self):
            return self.dynlib.binq_get_num_threads()

        def set_num_threads(self, num_threads):
            self.dynlib.binq_set_num_threads(num_threads)

        def get_version(self):
            from binq._version import __version__

            return __version__

    register(BinqController)


reset()
set_num_threads(_initial_threads())
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)
_register_with_threadpoolctl()
