# Many products as one parallel job: rows of x by the experts that they chose, one x by many
# matrices.

cdef enum:
    # Blocks of products that wait for their turn together, or more for one x.
    PRODUCTS_AT_ONCE = 64
    BATCH_BYTES = 1 << 18     # and the bytes that they prepare: they are read from cache

cdef struct Item:
    # One product of a batch, as the caller names it.
    const Weights *w
    const float *x
    Py_ssize_t rows
    float *out

cdef struct Part:
    # One block of rows of one product, ready to run beside others.
    Product product
    bint prepares             # false where it reads what the part before it prepared
    Py_ssize_t first_sixteen  # of the rows to prepare, counted over all parts
    Py_ssize_t first_piece

cdef struct Batch:
    Part *parts
    Py_ssize_t count
    Py_ssize_t prepared_bytes


cdef inline bint prepared_alike(const Item *a, const Item *b) noexcept nogil:
    # Whether both read the same prepared rows of x.
    return (a.x == b.x and a.rows == b.rows and a.w.format == b.w.format
            and a.w.in_features == b.w.in_features and a.w.group_size == b.w.group_size
            and (a.w.zero == ZERO_OFFSET) == (b.w.zero == ZERO_OFFSET))


cdef inline Part *part_of(Batch *batch, Py_ssize_t item, bint by_piece) noexcept nogil:
    # The last part whose first item is not beyond this one.
    cdef Py_ssize_t low = 0, high = batch.count - 1, middle
    cdef Part *part
    while low < high:
        middle = (low + high + 1) >> 1
        part = batch.parts + middle
        if (part.first_piece if by_piece else part.first_sixteen) <= item:
            low = middle
        else:
            high = middle - 1
    return batch.parts + low


cdef void prepare_parts(void *job, Py_ssize_t begin, Py_ssize_t end, int slot) noexcept nogil:
    cdef Py_ssize_t i
    cdef Part *part
    for i in range(begin, end):
        # Parts that prepare nothing share their first item with the next, and so are never the
        # last.
        part = part_of(<Batch *>job, i, False)
        prepare_task(&part.product, i - part.first_sixteen, i - part.first_sixteen + 1, slot)


cdef void multiply_parts(void *job, Py_ssize_t begin, Py_ssize_t end, int slot) noexcept nogil:
    cdef Py_ssize_t i
    cdef Part *part
    for i in range(begin, end):
        part = part_of(<Batch *>job, i, True)
        multiply_task(&part.product, i - part.first_piece, i - part.first_piece + 1, slot)


cdef bint run_batch(Batch *batch, int threads) noexcept nogil:
    # Prepares and multiplies all parts and empties the batch. Returns false where memory ran out.
    cdef Py_ssize_t i, sixteens = 0, pieces = 0, scratch_bytes = 0, at = 0
    cdef Part *part
    cdef Product *p
    cdef char *block
    cdef bint enough = True
    for i in range(batch.count):
        part = batch.parts + i
        p = &part.product
        p.threads = threads
        part.first_piece = pieces
        pieces += cut_pieces(p)
        part.first_sixteen = sixteens
        if part.prepares:
            sixteens += (p.rows + 15) // 16
        scratch_bytes = max(scratch_bytes, aligned(p.kernel.scratch_bytes(p.w, p.rows, p.mode)))
    block = <char *>allocate(batch.prepared_bytes + min(<Py_ssize_t>threads,
                                                        pieces) * scratch_bytes)
    if block == NULL:
        return False
    for i in range(batch.count):
        part = batch.parts + i
        p = &part.product
        if part.prepares:
            p.unfit = <uint8_t *>block + at
            p.prepared = block + at + aligned(p.rows)
            at += aligned(p.rows) + aligned(p.kernel.prepared_bytes(p.w, p.rows, p.mode))
        elif p.prepared == NULL:
            p.unfit = batch.parts[i - 1].product.unfit
            p.prepared = batch.parts[i - 1].product.prepared
        p.scratch = block + batch.prepared_bytes
        p.scratch_bytes = scratch_bytes
    parallel_for(prepare_parts, batch, sixteens, 1, threads)
    parallel_for(multiply_parts, batch, pieces, 1, threads)
    for i in range(batch.count):
        enough = enough and run_unfit(&batch.parts[i].product)
    release(block)
    batch.count = 0
    batch.prepared_bytes = 0
    return enough


cdef bint run_items(const KernelTable *table, const Item *items, Py_ssize_t count,
                    int activations) noexcept nogil:
    # Every product of the list, those of one x side by side. Returns false where memory ran out.
    cdef Batch batch
    cdef Py_ssize_t room = count + PRODUCTS_AT_ONCE
    cdef Py_ssize_t i, first = 0, last, begin, rows, nbytes
    cdef const MatmulKernel *tiers
    cdef const MatmulKernel *kernel
    cdef const Item *item
    cdef Product *p
    cdef double cost = 0.0
    cdef bint enough = True
    cdef int threads
    for i in range(count):
        item = items + i
        cost += <double>item.rows * item.w.out_features * item.w.in_features
    if activations == ACTIVATIONS_FLOAT32 or plain_loops:
        cost *= SLOW
    threads = threads_for(cost)
    batch.count = 0
    batch.prepared_bytes = 0
    batch.parts = <Part *>malloc(room * sizeof(Part))
    if batch.parts == NULL:
        return False
    while first < count and enough:
        item = items + first
        last = first + 1
        while last < count and prepared_alike(item, items + last):
            last += 1
        tiers = &table.matmul[item.w.format][activations][0]
        begin = 0
        while begin < item.rows and enough:
            kernel = fastest(tiers, item.rows - begin)
            rows = block_rows(kernel, tiers, item.w, item.rows - begin, activations)
            nbytes = aligned(rows) + aligned(kernel.prepared_bytes(item.w, rows, activations))
            if batch.count and (threads == 1 or batch.prepared_bytes + nbytes > BATCH_BYTES
                                or batch.count + last - first > room):
                enough = run_batch(&batch, threads)
            for i in range(first, last):
                batch.parts[batch.count].prepares = i == first
                p = &batch.parts[batch.count].product
                p.w = items[i].w
                p.kernel = kernel
                p.mode = activations
                p.dequantize = table.dequantize
                p.x = item.x + begin * item.w.in_features
                p.rows = rows
                p.out = items[i].out + begin * p.w.out_features
                p.prepared = NULL
                batch.count += 1
            batch.prepared_bytes += nbytes
            begin += rows
        first = last
    if enough and batch.count:
        enough = run_batch(&batch, threads)
    free(batch.parts)
    return enough


cdef Item *new_items(Py_ssize_t count, int activations) except NULL:
    cdef Item *items
    if activations < 0 or activations >= ACTIVATION_MODES:
        raise ValueError(
            f"activations must be one of {list(ACTIVATIONS.values())}, got {activations}")
    items = <Item *>malloc(max(count, <Py_ssize_t>1) * sizeof(Item))
    if items == NULL:
        raise MemoryError("not enough memory for the list of products")
    return items


cdef void set_item(Item *item, PackedMatrix matrix, const float *x, Py_ssize_t rows,
                   float *out) noexcept:
    # No rows where there is nothing to sum: those products are zeros, which their caller writes.
    item.w = &matrix.weights
    item.rows = rows if matrix.weights.in_features and matrix.weights.out_features else 0
    item.x = x
    item.out = out


cdef int set_item_of(Item *item, PackedMatrix matrix, _View x, _View out) except -1:
    if (x.size(1) != matrix.weights.in_features or out.size(0) != x.size(0)
            or out.size(1) != matrix.weights.out_features):
        raise ValueError("x and out must have the shapes of the product")
    set_item(item, matrix, <const float *>x.buffer.buf, x.size(0), <float *>out.buffer.buf)
    if not item.rows:
        memset(out.buffer.buf, 0, out.nbytes())
    return 0


cdef list views_of(tuple outs):
    return [view("out", out, b"f", 2, True) for out in outs]


cdef int check_enough(bint enough) except -1:
    if not enough:
        raise MemoryError("not enough memory to prepare the rows of x")
    return 0


def multiply_shared(tuple matrices not None, x, tuple outs not None, int activations):
    """Writes ``x @ dequantize(w).T`` of every matrix to its array in ``outs``, as one job."""
    cdef Py_ssize_t i, count = len(matrices)
    cdef _View x_view = view("x", x, b"f", 2, False)
    cdef list out_views = views_of(outs)
    cdef Item *items = new_items(count, activations)
    cdef const KernelTable *table = kernels
    cdef bint enough
    try:
        if len(outs) != count:
            raise ValueError(f"outs must have {count} arrays, got {len(outs)}")
        for i in range(count):
            set_item_of(items + i, matrices[i], x_view, out_views[i])
        with nogil:
            enough = run_items(table, items, count, activations)
        check_enough(enough)
    finally:
        free(items)


def multiply_experts(tuple matrices not None, experts, ends, x, out, int activations):
    """Writes rows ``[ends[i - 1], ends[i])`` of x by matrix ``experts[i]`` to the same rows of out.

    An x of one row serves all rows of out.
    """
    cdef _View experts_view = view("experts", experts, b"lq", 1, False)
    cdef _View ends_view = view("ends", ends, b"lq", 1, False)
    cdef _View x_view = view("x", x, b"f", 2, False)
    cdef _View out_view = view("out", out, b"f", 2, True)
    cdef const int64_t *chosen = <const int64_t *>experts_view.buffer.buf
    cdef const int64_t *last = <const int64_t *>ends_view.buffer.buf
    cdef const float *source = <const float *>x_view.buffer.buf
    cdef float *target = <float *>out_view.buffer.buf
    cdef Py_ssize_t i, begin = 0, end, count = experts_view.size(0)
    cdef Py_ssize_t rows = out_view.size(0)
    cdef bint one_row = x_view.size(0) == 1
    cdef Item *items = new_items(count, activations)
    cdef const KernelTable *table = kernels
    cdef PackedMatrix matrix
    cdef bint enough
    try:
        if ends_view.size(0) != count or (last[count - 1] if count else 0) != rows:
            raise ValueError(f"ends must be {count} and lead to row {rows}")
        if not one_row and x_view.size(0) != rows:
            raise ValueError("x and out must have the shapes of the product")
        for i in range(count):
            end = last[i]
            if not (begin <= end <= rows and 0 <= chosen[i] < len(matrices)):
                raise ValueError(f"experts[{i}] = {chosen[i]} to row {end} is out of range")
            if one_row and end - begin > 1:
                raise ValueError("rows that share one row of x must be given one by one")
            matrix = matrices[chosen[i]]
            if (x_view.size(1) != matrix.weights.in_features
                    or out_view.size(1) != matrix.weights.out_features):
                raise ValueError("x and out must have the shapes of the product")
            set_item(items + i, matrix, source if one_row else source + begin * x_view.size(1),
                     end - begin, target + begin * out_view.size(1))
            begin = end
        if x_view.size(1) == 0:
            memset(target, 0, out_view.nbytes())
        with nogil:
            enough = run_items(table, items, count, activations)
        check_enough(enough)
    finally:
        free(items)


cdef class PreparedRows:
    """Rows of x as the products of one format read them; keeps x, for the rows that need floats."""

    cdef Product product
    cdef Item item
    cdef Weights shape
    cdef int activations
    cdef Py_ssize_t rows
    cdef char *block
    cdef const KernelTable *table
    cdef _View owner

    def __init__(self, PackedMatrix like not None, x, int activations):
        cdef _View x_view = view("x", x, b"f", 2, False)
        cdef const MatmulKernel *tiers
        cdef Product *p = &self.product
        cdef Item *item = &self.item
        cdef double cost
        release(self.block)
        self.block = NULL
        free(new_items(0, activations))
        if x_view.size(1) != like.weights.in_features:
            raise ValueError("x must have as many columns as the weights have in_features")
        self.owner = x_view
        self.rows = x_view.size(0)
        self.activations = activations
        self.table = kernels
        self.shape = like.weights
        item.w = &self.shape
        item.rows = self.rows if x_view.size(1) else 0
        if not item.rows:
            return
        item.x = <const float *>x_view.buffer.buf
        tiers = &self.table.matmul[self.shape.format][activations][0]
        p.w = &self.shape
        p.mode = activations
        p.kernel = fastest(tiers, item.rows)
        p.rows = item.rows
        p.x = item.x
        # More rows than one block are prepared anew by each product, block by block: bounded memory
        # for a hundredth of the time.
        if block_rows(p.kernel, tiers, p.w, p.rows, activations) < p.rows:
            return
        cost = <double>p.rows * p.w.in_features * TILE_ROWS * SLOW
        self.block = <char *>allocate(aligned(p.rows) + aligned(p.kernel.prepared_bytes(p.w, p.rows,
                                                                                        p.mode)))
        check_enough(self.block != NULL)
        p.unfit = <uint8_t *>self.block
        p.prepared = self.block + aligned(p.rows)
        with nogil:
            parallel_for(prepare_task, p, (p.rows + 15) // 16, 1, threads_for(cost))

    def __dealloc__(self):
        release(self.block)

    def multiply(self, tuple matrices not None, tuple outs not None):
        """Writes ``x @ dequantize(w).T`` of every matrix to its array in ``outs``, as one job."""
        cdef Py_ssize_t i, count = len(matrices)
        cdef list out_views = views_of(outs)
        cdef Item *items = new_items(count, self.activations)
        cdef PackedMatrix matrix
        cdef _View out
        cdef bint enough
        try:
            if len(outs) != count:
                raise ValueError(f"outs must have {count} arrays, got {len(outs)}")
            for i in range(count):
                matrix, out = matrices[i], out_views[i]
                if out.size(0) != self.rows or out.size(1) != matrix.weights.out_features:
                    raise ValueError("out must have the shape of the product")
                set_item(items + i, matrix, self.item.x, self.item.rows,
                         <float *>out.buffer.buf)
                if items[i].rows and not prepared_alike(items + i, &self.item):
                    raise ValueError("the weights must be packed as those that x was prepared for")
            with nogil:
                if self.block == NULL:
                    enough = run_items(self.table, items, count, self.activations)
                else:
                    enough = self.run(items, count)
            check_enough(enough)
        finally:
            free(items)

    cdef bint run(self, const Item *items, Py_ssize_t count) noexcept nogil:
        cdef Batch batch
        cdef Product *p
        cdef Py_ssize_t i
        cdef double cost = 0.0
        cdef bint enough
        batch.count = 0
        batch.prepared_bytes = 0
        batch.parts = <Part *>malloc(max(count, <Py_ssize_t>1) * sizeof(Part))
        if batch.parts == NULL:
            return False
        for i in range(count):
            if not items[i].rows:
                continue
            p = &batch.parts[batch.count].product
            p[0] = self.product
            p.w = items[i].w
            p.dequantize = self.table.dequantize
            p.out = items[i].out
            batch.parts[batch.count].prepares = False
            batch.count += 1
            cost += <double>p.rows * p.w.out_features * p.w.in_features
        if self.activations == ACTIVATIONS_FLOAT32 or plain_loops:
            cost *= SLOW
        enough = batch.count == 0 or run_batch(&batch, threads_for(cost))
        free(batch.parts)
        return enough
