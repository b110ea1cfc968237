# Rows of weights as a file stores them: made into floats, quantized or packed, and measured, tile
# by tile while the cache holds them. No matrix of floats is ever whole.

cdef struct Converting:
    const KernelTable *table
    const Stored *stored
    Weights w                 # what is filled or measured
    QuantizeJob job
    Errors *errors
    char *out                 # of rows that are only decoded
    int low                   # of codes that are only packed
    int high
    bint centred
    Py_ssize_t row_stride     # of rows in scratch, bytes
    Py_ssize_t codes_at       # in the scratch of a thread: codes, then what quantize needs
    Py_ssize_t work_at
    Py_ssize_t scratch_bytes
    char *scratch
    int status[MAX_THREADS]


cdef inline Py_ssize_t float_bytes(int input_type) noexcept nogil:
    if input_type == INPUT_FLOAT64:
        return 8
    return 4 if input_type == INPUT_FLOAT32 else 2


cdef inline Weights one_tile(const Weights *w, Py_ssize_t tile) noexcept nogil:
    # A tile as a matrix of its own.
    cdef Weights piece = w[0]
    cdef Py_ssize_t groups = tile * w.scale_groups
    cdef Py_ssize_t scales = groups * TILE_ROWS
    piece.packed = w.packed + (
        tile * w.groups * (w.group_size >> 3) * block_bytes(SPECS[w.format].layout))
    if w.scales != NULL:
        piece.scales = <const char *>w.scales + scales * SCALE_SPECS[w.scale_type].bytes
    if w.zero_points != NULL:
        piece.zero_points = w.zero_points + groups * zero_bytes(SPECS[w.format].layout)
    if w.offsets != NULL:
        piece.offsets = <const char *>w.offsets + scales * SCALE_SPECS[w.offset_type].bytes
    piece.out_features = min(<Py_ssize_t>TILE_ROWS, w.out_features - tile * TILE_ROWS)
    piece.tiles = 1
    return piece


cdef inline const char *decoded_tile(const Converting *c, const Weights *piece, Py_ssize_t tile,
                                     int slot, Py_ssize_t *row_stride) noexcept nogil:
    # The floats of a tile: where they lie already, else in the scratch of the thread.
    cdef const Stored *s = c.stored
    cdef char *scratch = c.scratch + slot * c.scratch_bytes
    if s.kind == STORED_FLOATS:
        row_stride[0] = s.stride
        return s.data + tile * TILE_ROWS * s.stride
    row_stride[0] = c.row_stride
    c.table.decode(s, tile * TILE_ROWS, piece.out_features, scratch, c.row_stride,
                   scratch + c.codes_at)
    return scratch


cdef void convert_task(void *data, Py_ssize_t begin, Py_ssize_t end, int slot) noexcept nogil:
    cdef Converting *c = <Converting *>data
    cdef QuantizeJob job = c.job
    cdef Weights piece
    cdef Py_ssize_t tile
    for tile in range(begin, end):
        piece = one_tile(&c.w, tile)
        aim_job(&job, &piece)
        job.values = decoded_tile(c, &piece, tile, slot, &job.row_stride)
        c.status[slot] |= c.table.quantize(
            &job, c.scratch + slot * c.scratch_bytes + c.work_at, 0, 1)
        if c.status[slot]:
            return
        c.table.measure(&piece, job.values, job.row_stride, job.input_type, c.errors + tile, 0, 1)


cdef void measure_stored_task(void *data, Py_ssize_t begin, Py_ssize_t end,
                              int slot) noexcept nogil:
    cdef Converting *c = <Converting *>data
    cdef Weights piece
    cdef const char *values
    cdef Py_ssize_t tile, row_stride
    for tile in range(begin, end):
        piece = one_tile(&c.w, tile)
        values = decoded_tile(c, &piece, tile, slot, &row_stride)
        c.table.measure(&piece, values, row_stride, c.job.input_type, c.errors + tile, 0, 1)


cdef void pack_stored_task(void *data, Py_ssize_t begin, Py_ssize_t end, int slot) noexcept nogil:
    cdef Converting *c = <Converting *>data
    cdef char *scratch = c.scratch + slot * c.scratch_bytes
    cdef Weights piece
    cdef Py_ssize_t tile
    for tile in range(begin, end):
        piece = one_tile(&c.w, tile)
        c.status[slot] |= c.table.whole_codes(
            c.stored, tile * TILE_ROWS, piece.out_features, c.low, c.high, c.centred,
            <int8_t *>scratch, scratch + c.codes_at)
        if c.status[slot]:
            return
        c.table.pack(&piece, <const int8_t *>scratch, piece.in_features, <uint8_t *>piece.packed,
                     0, 1)


cdef void decode_task(void *data, Py_ssize_t begin, Py_ssize_t end, int slot) noexcept nogil:
    cdef Converting *c = <Converting *>data
    cdef Py_ssize_t tile, row
    for tile in range(begin, end):
        row = tile * TILE_ROWS
        c.table.decode(c.stored, row, min(<Py_ssize_t>TILE_ROWS, c.stored.rows - row),
                       c.out + row * c.row_stride, c.row_stride,
                       c.scratch + slot * c.scratch_bytes + c.codes_at)


cdef class StoredRows:
    """Rows of one matrix as a file stores them; keeps the buffers they were made of alive."""

    cdef Stored stored
    cdef _View data
    cdef _View scales
    cdef _View zeros
    cdef _View order
    cdef readonly int input_type

    def __init__(self, int kind, data, Py_ssize_t stride, Py_ssize_t rows, Py_ssize_t columns,
                 int input_type, scales, zeros, order, Py_ssize_t group, int bits,
                 bint is_signed):
        cdef Stored *s = &self.stored
        cdef Py_ssize_t line, lines = rows
        cdef _View data_view = view("data", data, b"B", 1, False)
        if self.data is not None:
            raise RuntimeError("StoredRows do not change")
        if not (0 <= kind < STORED_KINDS and 0 <= input_type <= INPUT_FLOAT64):
            raise ValueError(f"kind and input_type must be known, got {kind} and {input_type}")
        if not (0 < rows <= MOST_SIZE and 0 < columns <= MOST_SIZE
                and <double>rows * columns < MOST_WEIGHTS):
            raise ValueError(f"rows and columns must be some, got {rows} and {columns}")
        if bits not in (2, 4, 8) or group <= 0:
            raise ValueError(f"bits must be 2, 4 or 8 and group some, got {bits} and {group}")
        line = columns * float_bytes(input_type)
        if kind == STORED_COLUMNS:
            lines, line = columns, rows * float_bytes(input_type)
        elif kind == STORED_WORDS:
            if columns * bits % 32:
                raise ValueError(f"columns must be whole words, got {columns} of {bits} bits")
            lines, line = columns * bits // 32, rows * 4
        elif kind == STORED_FLOAT4:
            if columns % 2 or group % 2:
                raise ValueError(f"columns must be whole bytes, got {columns} in {group}")
            line = columns // 2
        elif kind != STORED_FLOATS:
            line = columns
        if stride < line or stride > MOST_WEIGHTS // lines or (
                data_view.nbytes() < (lines - 1) * stride + line):
            raise ValueError(f"data must hold {lines} times {line} bytes, {stride} apart, "
                             f"got {data_view.nbytes()}")
        s.kind, s.input_type, s.bits, s.is_signed = kind, input_type, bits, is_signed
        s.data, s.stride = <const char *>data_view.buffer.buf, stride
        s.rows, s.columns, s.group = rows, columns, group
        s.groups = (columns + group - 1) // group
        s.scales, s.zeros, s.order = NULL, NULL, NULL
        if kind > STORED_COLUMNS:
            s.input_type = INPUT_FLOAT32
            self.scales = view("scales", scales, b"f", 2, False)
            check_size("scales", self.scales, rows * s.groups * 4)
            s.scales = <const float *>self.scales.buffer.buf
        if zeros is not None:
            self.zeros = view("zeros", zeros, b"h", 2, False)
            check_size("zeros", self.zeros, rows * s.groups * 2)
            s.zeros = <const int16_t *>self.zeros.buffer.buf
        if order is not None:
            self.order = view("order", order, b"i", 1, False)
            check_size("order", self.order, columns * 4)
            s.order = <const int32_t *>self.order.buffer.buf
            for line in range(columns):
                if not 0 <= s.order[line] < s.groups:
                    raise ValueError(f"order must name {s.groups} groups, got {s.order[line]}")
        self.data, self.input_type = data_view, s.input_type

    @property
    def shape(self):
        """Returns (rows, columns)."""
        return self.stored.rows, self.stored.columns

    cdef int run(self, Task task, Converting *c, Py_ssize_t work_bytes) except -1:
        # Returns the status bits of all tiles.
        cdef const Stored *s = &self.stored
        cdef Py_ssize_t tiles = (s.rows + TILE_ROWS - 1) // TILE_ROWS
        cdef int i, threads, status = 0
        c.table = kernels
        c.stored = s
        c.job.input_type = s.input_type
        memset(c.status, 0, sizeof(c.status))
        with nogil:
            threads = threads_for(<double>s.rows * s.columns * 64)
            c.scratch_bytes = c.work_at + aligned(work_bytes)
            c.scratch = <char *>allocate(threads * c.scratch_bytes)
            if c.scratch != NULL:
                parallel_for(task, c, tiles, 1, threads)
            release(c.scratch)
        if c.scratch == NULL:
            raise MemoryError("not enough memory to decode rows")
        for i in range(MAX_THREADS):
            status |= c.status[i]
        return status

    cdef void lay_out(self, Converting *c) noexcept:
        # Where things lie in a thread's scratch. Rows of a power of two bytes would share a few
        # lines of the cache: they lie apart by one line more.
        cdef const Stored *s = &self.stored
        c.row_stride = aligned(s.columns * float_bytes(s.input_type)) + ALIGNMENT
        c.codes_at = 0 if s.kind == STORED_FLOATS else TILE_ROWS * c.row_stride
        c.work_at = c.codes_at
        if s.kind == STORED_FLOAT4 or s.kind == STORED_WORDS:
            c.work_at += TILE_ROWS * aligned(s.columns)

    cdef int fill(self, Converting *c, int format, int zero, Py_ssize_t group_size,
                  int scale_type, int offset_type, _View packed, _View scales, _View zeros,
                  errors) except -1:
        cdef _View errors_view = view("errors", errors, b"d", 2, True)
        set_geometry(&c.w, self.stored.rows, self.stored.columns, group_size)
        c.w.format = format
        c.w.zero = zero
        c.w.scale_type = scale_type
        c.w.offset_type = offset_type
        set_buffers(&c.w, packed, scales, zeros)
        check_size("errors", errors_view, c.w.tiles * sizeof(Errors))
        c.errors = <Errors *>errors_view.buffer.buf
        self.lay_out(c)
        return 0

    def decode(self, Py_ssize_t step, out):
        """Writes every step-th row to ``out``: as input_type where they are floats, or float32."""
        cdef _View out_view = view("out", out, b"B", 1, True)
        cdef const Stored *s = &self.stored
        cdef Converting c
        cdef Stored row = s[0]
        cdef Py_ssize_t count, i
        if step < 1:
            raise ValueError(f"step must be 1 or more, got {step}")
        count = (s.rows + step - 1) // step
        check_size("out", out_view, count * s.columns * float_bytes(s.input_type))
        self.lay_out(&c)
        c.work_at -= c.codes_at
        c.codes_at = 0
        c.row_stride = s.columns * float_bytes(s.input_type)
        c.out = <char *>out_view.buffer.buf
        if step == 1:
            self.run(decode_task, &c, 0)
            return
        c.scratch = <char *>allocate(c.work_at)
        if c.scratch == NULL:
            raise MemoryError("not enough memory to decode rows")
        with nogil:
            for i in range(count):
                kernels.decode(&row, i * step, 1, c.out + i * c.row_stride, c.row_stride,
                               c.scratch)
            release(c.scratch)

    def quantize(self, int format, int zero, int method, Py_ssize_t group_size, int scale_type,
                 int offset_type, packed, scales, zeros, errors):
        """Writes packed weights and the errors of each tile; returns the status bits.

        Where these are not 0, what was written means nothing.
        """
        cdef _View packed_view = view("packed", packed, b"B", 1, True)
        cdef _View scales_view = view("scales", scales, b"B", 1, True)
        cdef _View zeros_view = view("zeros", zeros, b"B", 1, True) if zero else None
        cdef Converting c
        self.fill(&c, format, zero, group_size, scale_type, offset_type, packed_view, scales_view,
                  zeros_view, errors)
        set_job(&c.job, &c.w, method)
        return self.run(convert_task, &c, kernels.quantize_scratch_bytes(&c.job))

    def measure(self, PackedMatrix matrix, errors):
        """Writes how far each tile of packed weights is from these rows, as PackedMatrix does."""
        cdef _View errors_view = view("errors", errors, b"d", 2, True)
        cdef Converting c
        matrix.check_shape(self.stored.rows, self.stored.columns)
        c.w = matrix.weights
        check_size("errors", errors_view, c.w.tiles * sizeof(Errors))
        c.errors = <Errors *>errors_view.buffer.buf
        self.lay_out(&c)
        self.run(measure_stored_task, &c, 0)

    def pack(self, int format, int zero, int low, int high, bint centred, packed,
             Py_ssize_t group_size):
        """Writes the packed form of whole codes, less their zeros where ``centred``.

        Returns whether all lay in [low, high]; if not, what was written means nothing.
        """
        cdef _View packed_view = view("packed", packed, b"B", 1, True)
        cdef const Stored *s = &self.stored
        cdef Converting c
        if s.kind < STORED_FLOAT4 or s.order != NULL:
            raise ValueError("rows must be whole codes in their own order")
        set_geometry(&c.w, s.rows, s.columns, group_size)
        c.w.format = format
        c.w.zero = zero
        check_packed(&c.w, packed_view)
        c.w.packed = <const uint8_t *>packed_view.buffer.buf
        c.w.scales, c.w.zero_points, c.w.offsets = NULL, NULL, NULL
        c.w.scale_type, c.w.offset_type = 0, 0
        c.low, c.high, c.centred = low, high, centred
        self.lay_out(&c)
        return self.run(pack_stored_task, &c, 0) == 0
