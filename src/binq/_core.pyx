"""The native door of binq: chooses the kernels of this CPU and runs them on packed weights.

binq's Python modules have checked what a user could get wrong; what is checked here once more, in
a few nanoseconds, is that no size leads out of a buffer. Every loop over rows of weights is cut
into tiles of 32 rows and shared among the threads of binq._native._threads.
"""

import os
from importlib import import_module
from importlib.util import find_spec

from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uintptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from binq._native._threads cimport MAX_THREADS, Task, parallel_for, thread_limit
from binq._native.table cimport *

from binq._native._threads import get_num_threads, set_num_threads  # no-cython-lint
from binq._native._threads import work_alone  # no-cython-lint
from binq._native.isas import ISAS as _ISAS, MACHINES as _MACHINES
from binq._native.spec import FormatSpec

cdef extern from "cpu.h" nogil:
    const char *binq_machine() noexcept
    int binq_cpu_features() noexcept

ACTIVATIONS = {
    "float32": ACTIVATIONS_FLOAT32,
    "int16": ACTIVATIONS_INT16,
    "int8": ACTIVATIONS_INT8,
}
METHODS = {"mse": METHOD_MSE, "absmax": METHOD_ABSMAX, "absmean": METHOD_ABSMEAN}
ZEROS = {"none": ZERO_NONE, "code": ZERO_CODE, "offset": ZERO_OFFSET}
INPUT_TYPES = {
    "float32": INPUT_FLOAT32,
    "float16": INPUT_FLOAT16,
    "bfloat16": INPUT_BFLOAT16,
    "float64": INPUT_FLOAT64,
}

_KINDS = ("floats", "columns", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F4", "codes",
          "words")

cdef enum:
    # The rows of x prepared at a time: bounds memory for any batch, and every tile reads them all,
    # fast only from cache. Twice the speed for long rows of floats.
    BLOCK_BYTES = 1 << 22
    MIN_BLOCK_ROWS = 32       # below, reading and unpacking the weights again costs more
    MAX_BLOCK_ROWS = 512
    LEAST_TILES = 8           # of a piece whose tables are made anew: they cost two tiles' work
    # Pieces of a thread's share. Few rows come from memory as fast as it gives: where a piece
    # begins, what was prefetched lies elsewhere.
    FEW_ROWS = 8
    FEW_ROWS_PIECES = 8
    MANY_ROWS_PIECES = 32
    ALIGNMENT = 64
    # The unit of cost is an integer product of a vectorised kernel: some 10 picoseconds.
    PARALLEL_COST = 1 << 21   # from here on, another thread brings more than its waking costs
    SLOW = 8                  # a product of floats or of plain loops, an element written


def _spec(int index):
    """Returns row `index` of the table of formats."""
    cdef const binq_format *row = &SPECS[index]
    cdef const binq_layout *layout = &LAYOUTS[row.layout]
    zeros = {number: name for name, number in ZEROS.items() if number}
    methods = {number: name for name, number in METHODS.items()}
    return FormatSpec(
        number=index,
        name=row.name.decode(),
        bits=layout.bits,
        planes=layout.planes,
        row_bytes=layout.row_bytes,
        even=row.search == SEARCH_EVEN,
        zero_kinds=tuple(zeros[row.zero_kinds[i]] for i in range(2) if row.zero_kinds[i]),
        methods=tuple(methods[row.methods[i]] for i in range(2)),
        largest=row.largest,
        levels=tuple(level_of(index, i) for i in range(1 << layout.bits)),
        group_size=row.group_size or 128,
        scale_dtype=SCALE_SPECS[row.scale_type].name.decode(),
        halves=row.halves != 0,
        activation_levels={
            name: <int>row.activation_levels[mode]
            for name, mode in ACTIVATIONS.items()
            if mode != ACTIVATIONS_FLOAT32
        },
    )


FORMAT_SPECS = tuple(_spec(index) for index in range(FORMATS))
# Of an axis, as in files; and of a matrix, so that no count of bytes overflows.
cdef Py_ssize_t MOST_SIZE = <Py_ssize_t>1 << 48
cdef Py_ssize_t MOST_WEIGHTS = <Py_ssize_t>1 << 58

# The C names of the contract stand in the way of Python names of the same spelling.
globals().update(STATUS_NONFINITE=STATUS_NONFINITE, STATUS_SCALE_RANGE=STATUS_SCALE_RANGE,
                 STORED_KINDS={name: kind for kind, name in enumerate(_KINDS)},
                 # Of stored scales and offsets, by name.
                 SCALE_TYPES={SCALE_SPECS[i].name.decode(): i for i in range(SCALE_TYPES)},
                 PARALLEL_COST=PARALLEL_COST, MAX_THREADS=MAX_THREADS)

# The table of the kernel set in use: static data of its module, which is never unloaded. Every call
# reads the pointer once, so that use_isa may run at any time.
cdef const KernelTable *kernels = NULL
cdef bint plain_loops = False


def cpu_features() -> dict[str, bool]:
    """Returns which instruction sets the CPU and the operating system offer."""
    machine = _MACHINES.get(binq_machine().decode())
    names = machine.features if machine else ()
    return {name: bool(binq_cpu_features() >> bit & 1) for bit, name in enumerate(names)}


def _runnable() -> dict[str, object]:
    """Returns the rows of the kernel sets that are built and that this CPU can run, best first."""
    features = cpu_features()
    return {
        row.name: row
        for row in _ISAS
        if not row.part
        and all(features.get(name) for name in row.features)
        and find_spec(row.module) is not None
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
        raise ValueError(
            f"BINQ_ISA must be one of {', '.join(rows)} on this machine, got {name!r}")
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


include "_native/view.pxi"


cdef int check_size(name, _View buffer, Py_ssize_t nbytes) except -1:
    if buffer.nbytes() != nbytes:
        raise ValueError(f"{name} must have {nbytes} bytes, got {buffer.nbytes()}")
    return 0


cdef int check_packed(const Weights *w, _View packed) except -1:
    if w.out_features < 0 or w.in_features < 0:
        raise ValueError(f"sizes must not be negative, got {(w.out_features, w.in_features)}")
    if w.out_features > MOST_SIZE or w.in_features > MOST_SIZE or (
            <double>w.out_features * w.in_features > MOST_WEIGHTS):
        raise ValueError(f"{w.out_features} rows of {w.in_features} are more than fit in memory")
    if w.format < 0 or w.format >= FORMATS:
        raise ValueError(f"format must be one of {list(range(FORMATS))}, got {w.format}")
    if w.group_size not in (32, 64, 128, 256):
        raise ValueError(f"group_size must be 0, 32, 64, 128 or 256, got {w.group_size}")
    if w.zero and w.zero not in (SPECS[w.format].zero_kinds[0], SPECS[w.format].zero_kinds[1]):
        raise ValueError(f"zero must be one of the format's kinds, got {w.zero}")
    check_size("packed", packed, w.tiles * w.groups * (w.group_size >> 3)
               * block_bytes(SPECS[w.format].layout))
    return 0


cdef int check_buffers(const Weights *w, _View packed, _View scales, _View zeros) except -1:
    # No size that Python let through may become a read or write out of bounds.
    cdef Py_ssize_t rows = w.tiles * w.scale_groups * TILE_ROWS
    check_packed(w, packed)
    if not (0 <= w.scale_type < SCALE_TYPES and 0 <= w.offset_type < SCALE_TYPES):
        raise ValueError(
            f"types of scales must be from 0 to {SCALE_TYPES - 1}, "
            f"got {w.scale_type} and {w.offset_type}"
        )
    check_size("scales", scales, rows * SCALE_SPECS[w.scale_type].bytes)
    if w.zero == ZERO_CODE:
        check_size("zero_points", zeros,
                   rows // TILE_ROWS * zero_bytes(SPECS[w.format].layout))
    elif w.zero == ZERO_OFFSET:
        check_size("offsets", zeros, rows * SCALE_SPECS[w.offset_type].bytes)
    return 0


cdef int set_buffers(Weights *w, _View packed, _View scales, _View zeros) except -1:
    check_buffers(w, packed, scales, zeros)
    w.packed = <const uint8_t *>packed.buffer.buf
    w.scales = scales.buffer.buf
    w.zero_points = <const uint8_t *>zeros.buffer.buf if w.zero == ZERO_CODE else NULL
    w.offsets = zeros.buffer.buf if w.zero == ZERO_OFFSET else NULL
    return 0


cdef int check_values(_View values, int input_type, Py_ssize_t row_stride,
                      const Weights *w) except -1:
    if input_type < 0 or input_type > INPUT_FLOAT64:
        raise ValueError(f"input_type must be one of {INPUT_TYPES}, got {input_type}")
    if row_stride > MOST_WEIGHTS // max(<Py_ssize_t>1, w.out_features):
        raise ValueError(f"row_stride must lead to the next row, got {row_stride}")
    cdef Py_ssize_t size = 8 if input_type == INPUT_FLOAT64 else 4
    if input_type in (INPUT_FLOAT16, INPUT_BFLOAT16):
        size = 2
    if w.out_features and (row_stride < 0 or values.nbytes() < (
            (w.out_features - 1) * row_stride + w.in_features * size)):
        raise ValueError(f"values must hold {w.out_features} rows, got {values.nbytes()} bytes")
    return 0


include "_native/product.pxi"
include "_native/rows.pxi"
include "_native/elementwise.pxi"
include "_native/layers.pxi"
include "_native/rotation.pxi"


cdef class PackedMatrix:
    """One packed matrix, ready for the kernels; keeps the buffers it was made of alive."""

    cdef Weights weights
    cdef _View packed
    cdef _View scales
    cdef _View zeros

    def __init__(self, int format, int zero, packed, scales, zeros, Py_ssize_t out_features,
                 Py_ssize_t in_features, Py_ssize_t group_size, int scale_type,
                 int offset_type):
        cdef Weights w
        cdef _View packed_view = view("packed", packed, b"B", 1, False)
        cdef _View scales_view = view("scales", scales, b"B", 1, False)
        cdef _View zeros_view = view("zeros", zeros, b"B", 1, False) if zero else None
        set_geometry(&w, out_features, in_features, group_size)
        w.format = format
        w.zero = zero
        w.scale_type = scale_type
        w.offset_type = offset_type
        set_buffers(&w, packed_view, scales_view, zeros_view)
        # A product that runs in another thread reads the buffers that it began with.
        if self.packed is not None:
            raise RuntimeError("a PackedMatrix does not change")
        self.packed, self.scales, self.zeros = packed_view, scales_view, zeros_view
        self.weights = w

    cdef int check_shape(self, Py_ssize_t rows, Py_ssize_t columns) except -1:
        if rows != self.weights.out_features or columns != self.weights.in_features:
            raise ValueError(
                "the output must have shape "
                f"{(self.weights.out_features, self.weights.in_features)}, got {(rows, columns)}"
            )
        return 0

    def multiply(self, x, out, int activations):
        """Writes ``x @ dequantize(w).T`` to ``out``."""
        cdef _View x_view = view("x", x, b"f", 2, False)
        cdef _View out_view = view("out", out, b"f", 2, True)
        cdef Product p
        cdef const KernelTable *table = kernels
        cdef const MatmulKernel *tiers
        cdef const float *x_rows = <const float *>x_view.buffer.buf
        cdef float *out_rows = <float *>out_view.buffer.buf
        cdef Py_ssize_t begin, rows = x_view.size(0)
        cdef int enough = 1
        cdef double cost
        p.w = &self.weights
        if (x_view.size(1) != p.w.in_features or out_view.size(0) != rows
                or out_view.size(1) != p.w.out_features):
            raise ValueError("x and out must have the shapes of the product")
        if activations < 0 or activations >= ACTIVATION_MODES:
            raise ValueError(
                f"activations must be one of {list(ACTIVATIONS.values())}, got {activations}")
        if rows == 0 or p.w.out_features == 0:
            return
        if p.w.in_features == 0:
            memset(out_rows, 0, out_view.nbytes())
            return
        tiers = &table.matmul[p.w.format][activations][0]
        p.mode = activations
        p.dequantize = table.dequantize
        cost = SLOW if activations == ACTIVATIONS_FLOAT32 or plain_loops else 1.0
        p.threads = threads_for(cost * rows * p.w.out_features * p.w.in_features)
        with nogil:
            begin = 0
            while begin < rows and enough:
                p.kernel = fastest(tiers, rows - begin)
                p.rows = block_rows(p.kernel, tiers, p.w, rows - begin, activations)
                p.x = x_rows + begin * p.w.in_features
                p.out = out_rows + begin * p.w.out_features
                enough = run_product(&p)
                begin += p.rows
        if not enough:
            raise MemoryError("not enough memory to prepare the rows of x")

    def dequantize(self, out):
        """Writes the weights as float32 to ``out``."""
        cdef _View out_view = view("out", out, b"f", 2, True)
        cdef Elementwise e
        self.check_shape(out_view.size(0), out_view.size(1))
        if out_view.nbytes() == 0:
            return
        e.w = &self.weights
        e.floats = <float *>out_view.buffer.buf
        with nogil:
            run_elementwise(dequantize_task, &e)

    def dequantize_rows(self, rows, out):
        """Writes some rows of the weights as float32 to ``out``."""
        cdef _View rows_view = view("rows", rows, b"lq", 1, False)
        cdef _View out_view = view("out", out, b"f", 2, True)
        cdef const Weights *w = &self.weights
        cdef RowsJob r
        cdef int64_t *order = NULL
        cdef Py_ssize_t blocks
        cdef int threads
        if out_view.size(0) != rows_view.size(0) or out_view.size(1) != w.in_features:
            raise ValueError(
                f"the output must have shape {(rows_view.size(0), w.in_features)}, "
                f"got {(out_view.size(0), out_view.size(1))}"
            )
        if out_view.nbytes() == 0:
            return
        r.w = w
        r.dequantize = kernels.dequantize
        r.rows = <const int64_t *>rows_view.buffer.buf
        r.count = rows_view.size(0)
        r.out = <float *>out_view.buffer.buf
        check_rows(r.rows, r.count, w.out_features)
        r.word = LAYOUTS[SPECS[w.format].layout].row_bytes
        r.scale_word = SCALE_SPECS[w.scale_type].bytes
        r.offset_word = SCALE_SPECS[w.offset_type].bytes
        r.zero_bytes = zero_bytes(SPECS[w.format].layout)
        r.group_bytes = (w.group_size >> 3) * block_bytes(SPECS[w.format].layout)
        r.in_place = kernels.reads_rows_alone
        r.groups_at_once = SCALES_AT_ONCE if r.in_place else TILE_BYTES // r.group_bytes
        r.groups_at_once = max(<Py_ssize_t>1, min(w.groups, r.groups_at_once))
        r.scratch_bytes = aligned(r.groups_at_once * (
            (0 if r.in_place else r.group_bytes)
            + TILE_ROWS * (r.scale_word + r.offset_word) + r.zero_bytes))
        blocks = r.count if r.in_place else (r.count + TILE_ROWS - 1) // TILE_ROWS
        threads = threads_for(<double>r.count * w.in_features * SLOW)
        r.order = NULL
        with nogil:
            r.scratch = <char *>allocate(threads * r.scratch_bytes)
            if r.in_place and r.count >= w.tiles >> 2 and r.count > 1:
                order = <int64_t *>allocate(r.count * sizeof(int64_t))
                if order != NULL and sort_by_tile(r.rows, r.count, w.tiles, order):
                    r.order = order
            if r.scratch != NULL:
                parallel_for(rows_task, &r, blocks, grain_for(blocks, threads), threads)
            release(<void *>order)
            release(r.scratch)
        if r.scratch == NULL:
            raise MemoryError("not enough memory to take rows")

    def unpack(self, codes):
        """Writes the codes to ``codes``."""
        cdef _View codes_view = view("codes", codes, b"b", 2, True)
        cdef Elementwise e
        self.check_shape(codes_view.size(0), codes_view.size(1))
        if codes_view.nbytes() == 0:
            return
        e.w = &self.weights
        e.codes = <int8_t *>codes_view.buffer.buf
        with nogil:
            run_elementwise(unpack_task, &e)

    def measure(self, values, int input_type, Py_ssize_t row_stride, errors):
        """Writes signal, noise, worst, clipped and zero scales of each tile to ``errors``."""
        cdef _View values_view = view("values", values, b"B", 1, False)
        cdef _View errors_view = view("errors", errors, b"d", 2, True)
        cdef Elementwise e
        if errors_view.size(0) != self.weights.tiles or errors_view.size(1) != 5:
            raise ValueError(
                f"errors must have shape ({self.weights.tiles}, 5), got "
                f"({errors_view.size(0)}, {errors_view.size(1)})"
            )
        check_values(values_view, input_type, row_stride, &self.weights)
        if self.weights.out_features == 0 or self.weights.in_features == 0:
            return
        e.w = &self.weights
        e.values = <const char *>values_view.buffer.buf
        e.row_stride = row_stride
        e.input_type = input_type
        e.errors = <Errors *>errors_view.buffer.buf
        with nogil:
            run_elementwise(measure_task, &e)


include "_native/batch.pxi"
include "_native/decoder_layer.pxi"


def pack(int format, int zero, codes, packed, Py_ssize_t group_size):
    """Writes the packed form of ``codes`` to ``packed``."""
    cdef _View codes_view = view("codes", codes, b"b", 2, False)
    cdef _View packed_view = view("packed", packed, b"B", 1, True)
    cdef Elementwise e
    cdef Weights w
    if codes_view.nbytes() == 0:
        return
    set_geometry(&w, codes_view.size(0), codes_view.size(1), group_size)
    w.format = format
    w.zero = zero
    check_packed(&w, packed_view)
    e.w = &w
    e.codes = <int8_t *>codes_view.buffer.buf
    e.packed = <uint8_t *>packed_view.buffer.buf
    with nogil:
        run_elementwise(pack_task, &e)


include "_native/quantizing.pxi"
include "_native/stored.pxi"


def _choose() -> None:
    """Takes the kernels that BINQ_ISA names, else the best that this CPU runs."""
    use_isa(os.environ.get("BINQ_ISA", "").strip() or available_isas()[0])


_choose()
