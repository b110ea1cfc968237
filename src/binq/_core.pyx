"""The native door of binq: chooses the kernels of this CPU and runs them on packed weights.

binq's Python modules have checked what a user could get wrong; what is checked here once more, in
a few nanoseconds, is that no size leads out of a buffer. Every loop over rows of weights is cut
into tiles of 32 rows and shared among the threads of binq._native._threads.
"""

import os
from importlib import import_module
from importlib.util import find_spec

from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.stdint cimport int8_t, int64_t, uint8_t, uintptr_t
from libc.stdlib cimport free, malloc

from binq._native.table cimport *
from binq._native._threads cimport Task, parallel_for, thread_limit

from binq._native._threads import get_num_threads, set_num_threads

from binq._native.isas import ISAS, MACHINES

cdef extern from "cpu.h" nogil:
    const char *binq_machine() noexcept
    int binq_cpu_features() noexcept

_FORMATS = {"binary": FORMAT_BINARY, "ternary": FORMAT_TERNARY, "int4": FORMAT_INT4}
ACTIVATIONS = {
    "float32": ACTIVATIONS_FLOAT32,
    "int16": ACTIVATIONS_INT16,
    "int8": ACTIVATIONS_INT8,
}
METHODS = {"mse": METHOD_MSE, "absmax": METHOD_ABSMAX, "absmean": METHOD_ABSMEAN}
INPUT_TYPES = {
    "float32": INPUT_FLOAT32,
    "float16": INPUT_FLOAT16,
    "bfloat16": INPUT_BFLOAT16,
    "float64": INPUT_FLOAT64,
}

cdef enum:
    # The rows of x prepared at a time: bounds memory for any batch, and every tile reads them all,
    # fast only from cache. Twice the speed for long rows of floats.
    BLOCK_BYTES = 1 << 22
    MIN_BLOCK_ROWS = 32       # below, reading and unpacking the weights again costs more
    MAX_BLOCK_ROWS = 512
    LEAST_TILES = 8           # of a piece whose tables are made anew for it: they cost two tiles' work
    ALIGNMENT = 64
    # The unit of cost is an integer product of a vectorised kernel: some 10 picoseconds.
    PARALLEL_COST = 1 << 21   # from here on, another thread brings more than its waking costs
    SLOW = 8                  # a product of floats or of plain loops, an element written

# The C names of the contract stand in the way of Python names of the same spelling.
globals().update(FORMATS=_FORMATS, STATUS_NONFINITE=STATUS_NONFINITE, STATUS_SCALE_RANGE=STATUS_SCALE_RANGE,
                 PARALLEL_COST=PARALLEL_COST)

# The table of the kernel set in use: static data of its module, which is never unloaded. Every call
# reads the pointer once, so that use_isa may run at any time.
cdef const KernelTable *kernels = NULL
cdef bint plain_loops = False


def cpu_features() -> dict[str, bool]:
    """Returns which instruction sets the CPU and the operating system offer."""
    machine = MACHINES.get(binq_machine().decode())
    names = machine.features if machine else ()
    return {name: bool(binq_cpu_features() >> bit & 1) for bit, name in enumerate(names)}


def _runnable() -> dict[str, object]:
    """Returns the rows of the kernel sets that are built and that this CPU can run, best first."""
    features = cpu_features()
    return {
        row.name: row
        for row in ISAS
        if all(features.get(name) for name in row.features) and find_spec(row.module) is not None
    }


def available_isas() -> tuple[str, ...]:
    """Returns the kernel sets that are built and that this CPU can run, best first."""
    return tuple(_runnable())


def isa() -> str:
    """Returns the name of the kernel set in use."""
    return kernels.name.decode()


def use_isa(name: str) -> None:
    """Switches every later call to the named kernel set."""
    global kernels, plain_loops
    cdef const KernelTable *table
    rows = _runnable()
    if name not in rows:
        raise ValueError(f"BINQ_ISA must be one of {', '.join(rows)} on this machine, got {name!r}")
    capsule = import_module(rows[name].module).table
    table = <const KernelTable *>PyCapsule_GetPointer(capsule, "binq.KernelTable")
    if table.version != TABLE_VERSION:
        raise ImportError(f"{rows[name].module} was compiled for another version of binq")
    kernels = table
    plain_loops = name == "portable"


cdef void *allocate(Py_ssize_t nbytes) noexcept nogil:
    # malloc, aligned to 64 bytes; the block's own address lies just before it.
    cdef void *block = malloc(nbytes + ALIGNMENT + sizeof(void *))
    cdef uintptr_t start
    if block == NULL:
        return NULL
    start = (<uintptr_t>block + sizeof(void *) + ALIGNMENT - 1) & ~<uintptr_t>(ALIGNMENT - 1)
    (<void **>(start - sizeof(void *)))[0] = block
    return <void *>start


cdef void release(void *start) noexcept nogil:
    if start != NULL:
        free((<void **>(<uintptr_t>start - sizeof(void *)))[0])


cdef inline Py_ssize_t aligned(Py_ssize_t nbytes) noexcept nogil:
    return (nbytes + ALIGNMENT - 1) & ~<Py_ssize_t>(ALIGNMENT - 1)


cdef inline int threads_for(double cost) noexcept nogil:
    return thread_limit() if cost >= PARALLEL_COST else 1


cdef inline Py_ssize_t grain_for(Py_ssize_t items, int threads) noexcept nogil:
    # Pieces small enough that a slowed thread holds nobody up, large enough to stay cheap.
    return max(1, items // (8 * threads))


cdef void set_geometry(Weights *w, Py_ssize_t out_features, Py_ssize_t in_features,
                       Py_ssize_t group_size) noexcept nogil:
    # group_size 0 is one scale a row; the kernels then work in groups of 128.
    w.out_features = out_features
    w.in_features = in_features
    w.tiles = (out_features + TILE_ROWS - 1) // TILE_ROWS
    w.group_size = group_size if group_size else 128
    w.groups = (in_features + w.group_size - 1) // w.group_size
    w.scale_groups = w.groups if group_size else 1


cdef const void *address(const uint8_t[::1] buffer) noexcept:
    if buffer is None or buffer.shape[0] == 0:
        return NULL
    return &buffer[0]


cdef int check_size(name, const uint8_t[::1] buffer, Py_ssize_t nbytes) except -1:
    if buffer.shape[0] != nbytes:
        raise ValueError(f"{name} must have {nbytes} bytes, got {buffer.shape[0]}")
    return 0


cdef int check_packed(int format, const Weights *w, const uint8_t[::1] packed) except -1:
    if format < 0 or format >= FORMATS:
        raise ValueError(f"format must be one of {sorted(_FORMATS.values())}, got {format}")
    if w.group_size not in (32, 64, 128, 256):
        raise ValueError(f"group_size must be 0, 32, 64, 128 or 256, got {w.group_size}")
    check_size("packed", packed, w.tiles * w.groups * w.group_size * (4 << format))
    return 0


cdef int check_buffers(int format, const Weights *w, const uint8_t[::1] packed,
                       const uint8_t[::1] scales, const uint8_t[::1] zero_points) except -1:
    # No size that Python let through may become a read or write out of bounds.
    cdef Py_ssize_t scale_bytes = 4 if w.scales_float32 else 2
    cdef Py_ssize_t scale_blocks = w.tiles * w.scale_groups
    check_packed(format, w, packed)
    check_size("scales", scales, scale_blocks * TILE_ROWS * scale_bytes)
    if zero_points is not None:
        check_size("zero_points", zero_points,
                   scale_blocks * (16 if format == FORMAT_INT4 else TILE_ROWS * scale_bytes))
    return 0


cdef int check_values(const uint8_t[::1] values, int input_type, Py_ssize_t row_stride,
                      const Weights *w) except -1:
    cdef Py_ssize_t size = 8 if input_type == INPUT_FLOAT64 else 4 if input_type == INPUT_FLOAT32 else 2
    if w.out_features and (row_stride < 0 or values.shape[0] < (
            (w.out_features - 1) * row_stride + w.in_features * size)):
        raise ValueError(f"values must hold {w.out_features} rows, got {values.shape[0]} bytes")
    return 0


include "_native/product.pxi"


cdef struct Elementwise:
    # dequantize, unpack, pack, quantize and measure: tile by tile, nothing shared.
    const Weights *w
    DequantizeKernel dequantize
    UnpackKernel unpack
    PackKernel pack
    QuantizeKernel quantize
    MeasureKernel measure
    const QuantizeJob *job
    Errors *errors
    float *floats
    int8_t *codes
    uint8_t *packed
    char *scratch
    Py_ssize_t scratch_bytes
    int status[256]           # one of each thread of the pool


cdef void dequantize_task(void *job, Py_ssize_t begin, Py_ssize_t end, int slot) noexcept nogil:
    cdef Elementwise *e = <Elementwise *>job
    e.dequantize(e.w, e.floats, e.w.in_features, begin, end)


cdef void unpack_task(void *job, Py_ssize_t begin, Py_ssize_t end, int slot) noexcept nogil:
    cdef Elementwise *e = <Elementwise *>job
    e.unpack(e.w, e.codes, e.w.in_features, begin, end)


cdef void pack_task(void *job, Py_ssize_t begin, Py_ssize_t end, int slot) noexcept nogil:
    cdef Elementwise *e = <Elementwise *>job
    e.pack(e.w, e.codes, e.w.in_features, e.packed, begin, end)


cdef void quantize_task(void *job, Py_ssize_t begin, Py_ssize_t end, int slot) noexcept nogil:
    cdef Elementwise *e = <Elementwise *>job
    e.status[slot] |= e.quantize(e.job, e.scratch + slot * e.scratch_bytes, begin, end)


cdef void measure_task(void *job, Py_ssize_t begin, Py_ssize_t end, int slot) noexcept nogil:
    cdef Elementwise *e = <Elementwise *>job
    e.measure(e.w, e.job.values, e.job.row_stride, e.job.input_type, e.errors, begin, end)


cdef class PackedMatrix:
    """One packed matrix, ready for the kernels; keeps the buffers it was made of alive."""

    cdef Weights weights
    cdef int format
    cdef object owners

    def __init__(self, int format, const uint8_t[::1] packed, const uint8_t[::1] scales,
                 const uint8_t[::1] zero_points, Py_ssize_t out_features, Py_ssize_t in_features,
                 Py_ssize_t group_size, bint scales_float32):
        self.format = format
        self.owners = (packed, scales, zero_points)
        set_geometry(&self.weights, out_features, in_features, group_size)
        self.weights.scales_float32 = scales_float32
        check_buffers(format, &self.weights, packed, scales, zero_points)
        self.weights.packed = <const uint8_t *>address(packed)
        self.weights.scales = address(scales)
        self.weights.zero_points = address(zero_points)

    cdef int check_shape(self, Py_ssize_t rows, Py_ssize_t columns) except -1:
        if rows != self.weights.out_features or columns != self.weights.in_features:
            raise ValueError(
                f"the output must have shape {(self.weights.out_features, self.weights.in_features)}, "
                f"got {(rows, columns)}"
            )
        return 0

    def multiply(self, const float[:, ::1] x not None, float[:, ::1] out not None,
                 int activations):
        """Writes ``x @ dequantize(w).T`` to ``out``."""
        cdef Product p
        cdef const KernelTable *table = kernels
        cdef const MatmulKernel *tiers
        cdef Py_ssize_t begin, rows = x.shape[0]
        cdef int enough = 1
        cdef double cost
        if (x.shape[1] != self.weights.in_features or out.shape[0] != rows
                or out.shape[1] != self.weights.out_features):
            raise ValueError("x and out must have the shapes of the product")
        if activations < 0 or activations >= ACTIVATION_MODES:
            raise ValueError(f"activations must be one of {list(ACTIVATIONS.values())}, got {activations}")
        if rows == 0 or self.weights.out_features == 0:
            return
        if self.weights.in_features == 0:
            out[:, :] = 0.0
            return
        p.w = &self.weights
        tiers = &table.matmul[self.format][activations][0]
        p.dequantize = table.dequantize[self.format]
        cost = SLOW if activations == ACTIVATIONS_FLOAT32 or plain_loops else 1.0
        p.threads = threads_for(cost * rows * p.w.out_features * p.w.in_features)
        with nogil:
            begin = 0
            while begin < rows and enough:
                p.kernel = fastest(tiers, rows - begin)
                p.rows = block_rows(p.kernel, tiers, p.w, rows - begin)
                p.x = &x[begin, 0]
                p.out = &out[begin, 0]
                enough = run_product(&p)
                begin += p.rows
        if not enough:
            raise MemoryError("not enough memory to prepare the rows of x")

    def dequantize(self, float[:, ::1] out not None):
        """Writes the weights as float32 to ``out``."""
        cdef Elementwise e
        self.check_shape(out.shape[0], out.shape[1])
        if out.shape[0] == 0 or out.shape[1] == 0:
            return
        e.w = &self.weights
        e.dequantize = kernels.dequantize[self.format]
        e.floats = &out[0, 0]
        with nogil:
            run_elementwise(dequantize_task, &e, self.weights.tiles, self.weights.in_features)

    def unpack(self, int8_t[:, ::1] codes not None):
        """Writes the codes to ``codes``."""
        cdef Elementwise e
        self.check_shape(codes.shape[0], codes.shape[1])
        if codes.shape[0] == 0 or codes.shape[1] == 0:
            return
        e.w = &self.weights
        e.unpack = kernels.unpack[self.format]
        e.codes = &codes[0, 0]
        with nogil:
            run_elementwise(unpack_task, &e, self.weights.tiles, self.weights.in_features)

    def measure(self, const uint8_t[::1] values not None, int input_type, Py_ssize_t row_stride,
                double[:, ::1] errors not None):
        """Writes signal, noise, worst, clipped and zero scales of each tile to ``errors``."""
        cdef Elementwise e
        cdef QuantizeJob job
        if errors.shape[0] != self.weights.tiles or errors.shape[1] != 5:
            raise ValueError(
                f"errors must have shape ({self.weights.tiles}, 5), got "
                f"({errors.shape[0]}, {errors.shape[1]})"
            )
        check_values(values, input_type, row_stride, &self.weights)
        if self.weights.out_features == 0 or self.weights.in_features == 0:
            return
        job.values = <const char *>address(values)
        job.row_stride = row_stride
        job.input_type = input_type
        e.w = &self.weights
        e.job = &job
        e.measure = kernels.measure[self.format]
        e.errors = <Errors *>&errors[0, 0]
        with nogil:
            run_elementwise(measure_task, &e, self.weights.tiles, self.weights.in_features)


cdef void run_elementwise(Task task, Elementwise *e, Py_ssize_t tiles,
                          Py_ssize_t in_features) noexcept nogil:
    cdef int threads = threads_for(<double>tiles * TILE_ROWS * in_features * SLOW)
    parallel_for(task, e, tiles, grain_for(tiles, threads), threads)


include "_native/batch.pxi"


def pack(int format, const int8_t[:, ::1] codes not None, uint8_t[::1] packed not None,
         Py_ssize_t group_size, bint symmetric):
    """Writes the packed form of ``codes`` to ``packed``."""
    cdef Elementwise e
    cdef Weights w
    cdef uint8_t asymmetric = 0
    if codes.shape[0] == 0 or codes.shape[1] == 0:
        return
    set_geometry(&w, codes.shape[0], codes.shape[1], group_size)
    check_packed(format, &w, packed)
    # Kernels ask only whether there are zero points, which tells what a nibble means.
    w.zero_points = NULL if symmetric else &asymmetric
    e.w = &w
    e.pack = kernels.pack[format]
    e.codes = <int8_t *>&codes[0, 0]
    e.packed = &packed[0]
    with nogil:
        run_elementwise(pack_task, &e, w.tiles, w.in_features)


def quantize(int format, int method, bint symmetric, const uint8_t[::1] values not None,
             int input_type, Py_ssize_t row_stride, Py_ssize_t out_features,
             Py_ssize_t in_features, Py_ssize_t group_size, bint scales_float32,
             uint8_t[::1] packed not None, uint8_t[::1] scales not None,
             uint8_t[::1] zero_points):
    """Writes packed codes, scales and zero points of float rows; returns the status bits."""
    cdef Elementwise e
    cdef QuantizeJob job
    cdef Weights w
    cdef const KernelTable *table = kernels
    cdef int i, threads, status = 0
    if out_features == 0 or in_features == 0:
        return 0
    set_geometry(&w, out_features, in_features, group_size)
    w.scales_float32 = scales_float32
    check_buffers(format, &w, packed, scales, zero_points)
    check_values(values, input_type, row_stride, &w)
    job.values = <const char *>address(values)
    job.row_stride = row_stride
    job.input_type = input_type
    job.method = method
    job.symmetric = symmetric
    job.scales_float32 = scales_float32
    job.out_features = out_features
    job.in_features = in_features
    job.tiles = w.tiles
    job.groups = w.groups
    job.group_size = w.group_size
    job.scale_groups = w.scale_groups
    job.packed = &packed[0]
    job.scales = &scales[0]
    job.zero_points = NULL if zero_points is None else &zero_points[0]
    e.job = &job
    e.quantize = table.quantize[format]
    for i in range(256):
        e.status[i] = 0
    with nogil:
        threads = threads_for(<double>out_features * in_features * 64)
        e.scratch_bytes = aligned(table.quantize_scratch_bytes(&job, format))
        e.scratch = <char *>allocate(threads * e.scratch_bytes)
        if e.scratch != NULL:
            parallel_for(quantize_task, &e, w.tiles, 1, threads)
        release(e.scratch)
    if e.scratch == NULL:
        raise MemoryError("not enough memory to quantize")
    for i in range(256):
        status |= e.status[i]
    return status


def _choose() -> None:
    """Takes the kernels that BINQ_ISA names, else the best that this CPU runs."""
    use_isa(os.environ.get("BINQ_ISA", "").strip() or available_isas()[0])


_choose()
