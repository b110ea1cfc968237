"""The one place that knows threads: a small pool that survives fork and sleeps when idle.

A job is a range of items, cut into as many stretches as it has threads and those into pieces. Each
thread goes through a stretch of its own, piece after piece in the order of the items, so that what
it fetched ahead from memory is what it takes next; then it takes pieces of the others' stretches,
so that a thread that the machine slows down takes fewer. One job runs at a time: a caller that
finds the pool busy does its work alone, which is what it would get from two jobs sharing the
cores.
"""

import os

cdef extern from "system_threads.h" nogil:
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
    void binq_condition_wake(binq_condition *c) noexcept
    void binq_condition_wake_all(binq_condition *c) noexcept
    int binq_thread_start(void (*entry)() noexcept nogil) noexcept
    void binq_after_fork(void (*reset)() noexcept nogil) noexcept
    long long binq_fetch_add(counter *p, long long n) noexcept
    long long binq_load(counter *p) noexcept
    void binq_store(counter *p, long long v) noexcept
    int binq_alone  # of each thread its own
    int binq_swap_if(counter *p, long long *expected, long long v) noexcept
    void binq_pause() noexcept
    void binq_yield() noexcept

cdef extern from "float_mode.h" nogil:
    unsigned int BINQ_STANDARD_FLOATS
    unsigned int binq_float_mode() noexcept
    void binq_set_float_mode(unsigned int mode) noexcept

cdef enum:
    # Times a waiting thread looks before it sleeps: about 20 microseconds, the gap between two
    # products of a model, with a pause in between.
    ROUNDS = 20
    PAUSES = 16

# One job, as its threads copy it.
cdef struct Job:
    Task task
    void *data
    Py_ssize_t items
    Py_ssize_t grain
    long long pieces
    int stretches
    long long number          # counts jobs

# The job's number and the next piece of a stretch to take, in one word: a thread that comes late to
# a job finds either no piece or another number, so that nobody has to wait for it.
cdef struct Ticket:
    counter next
    char apart[56]            # a cache line of its own

cdef binq_mutex gate          # held by the caller whose job runs
cdef binq_mutex lock          # guards the next block
cdef binq_condition wake      # a job came
cdef binq_condition done      # its last piece is done
cdef Job current
cdef int workers = 0          # threads that exist, besides callers
cdef int seats = 0            # workers that may still join the job
cdef int slots = 0            # slots given out in this job

cdef counter limit = 1        # threads a job may have, the caller included
cdef counter number = 0       # current.number, to be looked at without the lock
cdef Ticket tickets[MAX_THREADS]
cdef counter finished = 0     # pieces of the job that are done


cdef inline long long first_piece(const Job *job, int stretch) noexcept nogil:
    return job.pieces * stretch // job.stretches


cdef long long take_pieces(const Job *job, int slot) noexcept nogil:
    # Returns how many pieces of the job this thread did.
    cdef long long at, end
    cdef long long count = 0
    cdef Py_ssize_t begin
    cdef int i, stretch
    for i in range(job.stretches):
        stretch = (slot + i) % job.stretches
        end = first_piece(job, stretch + 1)
        at = binq_load(&tickets[stretch].next)
        while (at >> 32) == job.number and (at & 0x7FFFFFFF) < end:
            if binq_swap_if(&tickets[stretch].next, &at, at + 1):
                begin = (at & 0x7FFFFFFF) * job.grain
                job.task(job.data, begin, min(begin + job.grain, job.items), slot)
                count += 1
                at = binq_load(&tickets[stretch].next)
    return count


cdef void look_until(counter *value, long long wanted, bint equal) noexcept nogil:
    # Looks for a while; gives the core away in between, which the thread waited for may need.
    cdef int _round, _pause
    for _round in range(ROUNDS):
        for _pause in range(PAUSES):
            if (binq_load(value) == wanted) == equal:
                return
            binq_pause()
        binq_yield()


cdef void work() noexcept nogil:
    # The life of a worker: sleep, join a job if it has a seat, take pieces.
    global seats, slots
    cdef Job job
    cdef long long seen = 0, count
    cdef int slot
    binq_set_float_mode(BINQ_STANDARD_FLOATS)
    while True:
        look_until(&number, seen, False)
        binq_mutex_lock(&lock)
        while current.number == seen:
            binq_condition_wait(&wake, &lock)
        job = current
        seen = job.number
        slot = 0
        if seats:
            seats -= 1
            slots += 1
            slot = slots
        binq_mutex_unlock(&lock)
        if not slot:
            continue
        count = take_pieces(&job, slot)
        if count and binq_fetch_add(&finished, count) + count == job.pieces:
            # The lock: the caller may be between its last look and its sleep.
            binq_mutex_lock(&lock)
            binq_condition_wake(&done)
            binq_mutex_unlock(&lock)


cdef void parallel_for(Task task, void *data, Py_ssize_t items, Py_ssize_t grain,
                       int threads) noexcept nogil:
    # Floats are the standard's in every thread, whatever the caller's thread is set to.
    cdef unsigned int mode = binq_float_mode()
    if mode != BINQ_STANDARD_FLOATS:
        binq_set_float_mode(BINQ_STANDARD_FLOATS)
    share_out(task, data, items, grain, threads)
    if mode != BINQ_STANDARD_FLOATS:
        binq_set_float_mode(mode)


cdef void share_out(Task task, void *data, Py_ssize_t items, Py_ssize_t grain,
                    int threads) noexcept nogil:
    global current, workers, seats, slots
    cdef Job job
    cdef long long count
    cdef int helpers, i, _seat
    grain = max(grain, 1 + (items >> 30))
    job.pieces = (items + grain - 1) // grain
    helpers = <int>min(<long long>min(threads, MAX_THREADS), job.pieces) - 1
    if binq_alone or helpers <= 0 or not binq_mutex_try(&gate):
        task(data, 0, items, 0)
        return
    job.task = task
    job.data = data
    job.items = items
    job.grain = grain
    binq_mutex_lock(&lock)
    while workers < helpers and binq_thread_start(work):
        workers += 1
    helpers = min(helpers, workers)
    job.stretches = helpers + 1
    job.number = (current.number + 1) & 0x7FFFFFFF
    current = job
    slots = 0
    seats = helpers
    binq_store(&finished, 0)
    for i in range(job.stretches):
        binq_store(&tickets[i].next, job.number << 32 | first_piece(&job, i))
    binq_store(&number, job.number)
    binq_mutex_unlock(&lock)
    if helpers == workers:
        binq_condition_wake_all(&wake)
    else:
        for _seat in range(helpers):
            binq_condition_wake(&wake)
    count = take_pieces(&job, 0)
    if binq_fetch_add(&finished, count) + count != job.pieces:
        look_until(&finished, job.pieces, True)
        binq_mutex_lock(&lock)
        while binq_load(&finished) != job.pieces:
            binq_condition_wait(&done, &lock)
        binq_mutex_unlock(&lock)
    binq_mutex_unlock(&gate)


cdef int thread_limit() noexcept nogil:
    return <int>binq_load(&limit)


# Exported to the C level under these names for threadpoolctl.
cdef public int binq_get_num_threads() noexcept nogil:
    return thread_limit()


cdef public void binq_set_num_threads(int threads) noexcept nogil:
    binq_store(&limit, max(1, min(threads, MAX_THREADS)))


cdef void reset() noexcept nogil:
    # Makes the pool as new. In a forked child no worker exists and any lock may have been held.
    global workers, seats
    cdef int i
    binq_mutex_init(&gate)
    binq_mutex_init(&lock)
    binq_condition_init(&wake)
    binq_condition_init(&done)
    workers = 0
    seats = 0
    current.number = 0
    binq_store(&number, 0)
    for i in range(MAX_THREADS):
        binq_store(&tickets[i].next, 0)


def get_num_threads() -> int:
    """Returns how many threads a product may use."""
    return thread_limit()


def set_num_threads(int threads) -> None:
    """Sets how many threads a product may use, 1 to MAX_THREADS."""
    binq_set_num_threads(threads)


def work_alone() -> None:
    """Has the calling thread do its work by itself from now on.

    For threads that share something larger among them: where there are as many as cores, a worker
    in between takes a core from one of them, and the one that waits for it idles.
    """
    global binq_alone
    binq_alone = True


def _initial_threads() -> int:
    """Returns BINQ_NUM_THREADS, or the number of processors this process may use."""
    text = os.environ.get("BINQ_NUM_THREADS", "").strip()
    if text:
        # The length: Python refuses to read thousands of digits, in words of its own.
        if not text.isdecimal() or len(text) > 9 or not 1 <= int(text) <= MAX_THREADS:
            raise ValueError(
                f"BINQ_NUM_THREADS must be a number from 1 to {MAX_THREADS}, got {text!r}")
        return int(text)
    if hasattr(os, "sched_getaffinity"):
        processors = len(os.sched_getaffinity(0))
    else:
        processors = os.cpu_count() or 1
    return min(processors, _granted_processors(), MAX_THREADS)


def _granted_processors(path="/sys/fs/cgroup/cpu.max") -> int:
    """Returns how many processors' time a container grants, rounded up.

    More threads than that would use up the time of a period early and then stand still together.
    """
    try:
        with open(path) as file:
            quota, period = file.read().split()
        return max(1, -(-int(quota) // int(period)))
    except (OSError, ValueError, ZeroDivisionError):  # No such file, or "max": no limit.
        return MAX_THREADS


def _register_with_threadpoolctl() -> None:
    """Lets threadpoolctl.threadpool_limits govern binq, where threadpoolctl is installed."""
    try:
        from threadpoolctl import LibController, register
    except ImportError:
        return

    class BinqController(LibController):
        user_api = "binq"  # no-cython-lint
        internal_api = "binq"  # no-cython-lint
        filename_prefixes = ("_threads",)  # no-cython-lint
        check_symbols = ("binq_get_num_threads", "binq_set_num_threads")  # no-cython-lint

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
binq_after_fork(reset)
_register_with_threadpoolctl()
