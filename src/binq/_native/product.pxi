# Products, as the native door shares them among threads: blocks of rows of x, tiles of weights.

cdef struct Product:
    const Weights *w
    const MatmulKernel *kernel
    DequantizeKernel dequantize
    int mode
    int threads
    const float *x
    Py_ssize_t rows
    char *prepared
    uint8_t *unfit
    float *out
    char *scratch
    Py_ssize_t scratch_bytes
    Py_ssize_t piece_rows
    Py_ssize_t piece_tiles
    Py_ssize_t blocks         # of piece_rows rows


cdef void prepare_task(void *job, Py_ssize_t begin, Py_ssize_t end, int slot) noexcept nogil:
    cdef Product *p = <Product *>job
    p.kernel.prepare(p.w, p.x, p.w.in_features, p.rows, p.prepared, p.unfit,
                     begin * 16, min(end * 16, p.rows), p.mode)


cdef void multiply_task(void *job, Py_ssize_t begin, Py_ssize_t end, int slot) noexcept nogil:
    # Items count the pieces, those of the same tiles side by side.
    cdef Product *p = <Product *>job
    cdef Py_ssize_t i
    cdef Piece piece
    for i in range(begin, end):
        piece.row_begin = i % p.blocks * p.piece_rows
        piece.row_end = min(piece.row_begin + p.piece_rows, p.rows)
        piece.tile_begin = i // p.blocks * p.piece_tiles
        piece.tile_end = min(piece.tile_begin + p.piece_tiles, p.w.tiles)
        p.kernel.multiply(p.w, p.prepared, p.rows, p.out, p.w.out_features,
                          p.scratch + slot * p.scratch_bytes, &piece, p.mode)


cdef inline float dot(const float *x, const float *w, Py_ssize_t count) noexcept nogil:
    # Float products, summed exactly enough in eight chains that the processor runs side by side.
    cdef double totals[8]
    cdef double total = 0.0
    cdef Py_ssize_t k, i
    for i in range(8):
        totals[i] = 0.0
    for k in range(count >> 3):
        for i in range(8):
            totals[i] += <double>x[8 * k + i] * <double>w[8 * k + i]
    for k in range(count & ~7, count):
        totals[k & 7] += <double>x[k] * <double>w[k]
    for i in range(8):
        total += totals[i]
    return <float>total


cdef void unfit_task(void *job, Py_ssize_t begin, Py_ssize_t end, int slot) noexcept nogil:
    # Rows with inf, NaN or nothing but tiny numbers, by float arithmetic on dequantized weights.
    cdef Product *p = <Product *>job
    cdef float *tile_weights = <float *>(p.scratch + slot * p.scratch_bytes)
    cdef Py_ssize_t tile, row, column
    cdef Py_ssize_t in_features = p.w.in_features
    for tile in range(begin, end):
        # The kernel writes row r of the matrix to out + r * stride: shifted, so that this tile's
        # first row is the scratch buffer's.
        p.dequantize(p.w, tile_weights - tile * TILE_ROWS * in_features, in_features,
                     tile, tile + 1)
        for row in range(p.rows):
            if not p.unfit[row]:
                continue
            for column in range(min(<Py_ssize_t>TILE_ROWS, p.w.out_features - tile * TILE_ROWS)):
                p.out[row * p.w.out_features + tile * TILE_ROWS + column] = dot(
                    p.x + row * in_features, tile_weights + column * in_features, in_features)


cdef bint run_unfit(Product *p) noexcept nogil:
    # The rows that the mode cannot carry, by floats. Returns false where memory ran out.
    cdef Py_ssize_t row
    cdef bint any_unfit = False
    for row in range(p.rows):
        any_unfit |= p.unfit[row]
    if not any_unfit:
        return True
    p.scratch_bytes = aligned(TILE_ROWS * p.w.in_features * <Py_ssize_t>sizeof(float))
    p.scratch = <char *>allocate(min(<Py_ssize_t>p.threads, p.w.tiles) * p.scratch_bytes)
    if p.scratch == NULL:
        return False
    parallel_for(unfit_task, p, p.w.tiles, 1, p.threads)
    release(p.scratch)
    return True


cdef const MatmulKernel *fastest(const MatmulKernel *tiers, Py_ssize_t rows) noexcept nogil:
    rows = min(rows, <Py_ssize_t>ANY_ROWS)
    while tiers.most_rows < rows:
        tiers += 1
    return tiers


cdef Py_ssize_t block_rows(const MatmulKernel *kernel, const MatmulKernel *tiers, const Weights *w,
                           Py_ssize_t rows, int mode) noexcept nogil:
    # How many rows to prepare at a time: blocks of nearly one size, since small ones are slower.
    # Rows that would not fill the kernel's last block are left to another kernel where that is
    # faster.
    cdef Py_ssize_t most, blocks, rest
    cdef Py_ssize_t unit = max(<Py_ssize_t>8, kernel.rows_at_once)
    if rows > MIN_BLOCK_ROWS:
        most = BLOCK_BYTES // (1 + kernel.prepared_bytes(w, 64, mode) // 64) // 16 * 16
        most = max(<Py_ssize_t>MIN_BLOCK_ROWS, min(most, <Py_ssize_t>MAX_BLOCK_ROWS))
        blocks = (rows + most - 1) // most
        rows = min(rows, ((rows + blocks - 1) // blocks + unit - 1) // unit * unit)
    rest = rows % kernel.rows_at_once
    if rest and rest < rows and fastest(tiers, rest) != kernel:
        rows -= rest
    return rows


cdef Py_ssize_t cut_pieces(Product *p) noexcept nogil:
    # Pieces that set up little anew, and as many as keep all threads busy to the end. Returns how
    # many.
    cdef Py_ssize_t least = p.kernel.tiles_at_once
    cdef Py_ssize_t tiles = p.w.tiles
    cdef Py_ssize_t share, pieces
    cdef bint by_rows = p.threads > 1 and p.kernel.rows_at_once > 1
    p.piece_rows = p.kernel.rows_at_once if by_rows else p.rows
    p.blocks = (p.rows + p.piece_rows - 1) // p.piece_rows
    share = tiles * p.blocks // p.threads
    if p.threads == 1:
        p.piece_tiles = tiles
    elif by_rows:
        p.piece_tiles = min(least, max(<Py_ssize_t>LEAST_TILES, share // 2))
    else:
        pieces = FEW_ROWS_PIECES if p.rows <= FEW_ROWS else MANY_ROWS_PIECES
        pieces *= least
        p.piece_tiles = max(<Py_ssize_t>1, min(share, max(least, share // pieces * least)))
    return p.blocks * ((tiles + p.piece_tiles - 1) // p.piece_tiles)


cdef int run_product(Product *p) noexcept nogil:
    # One block of rows of x. Returns 0 where memory ran out.
    cdef int threads = p.threads
    cdef Py_ssize_t prepared_bytes = aligned(p.kernel.prepared_bytes(p.w, p.rows, p.mode))
    cdef Py_ssize_t unfit_bytes = aligned(p.rows)
    cdef Py_ssize_t pieces
    cdef char *block
    cdef bint enough
    pieces = cut_pieces(p)
    p.scratch_bytes = aligned(p.kernel.scratch_bytes(p.w, p.rows, p.mode))
    block = <char *>allocate(prepared_bytes + unfit_bytes
                             + min(<Py_ssize_t>threads, pieces) * p.scratch_bytes)
    if block == NULL:
        return 0
    p.prepared = block
    p.unfit = <uint8_t *>block + prepared_bytes
    p.scratch = block + prepared_bytes + unfit_bytes
    # Preparing costs about as much for a row as a tile or two of the product.
    parallel_for(prepare_task, p, (p.rows + 15) // 16, 1, threads)
    parallel_for(multiply_task, p, pieces, 1, threads)
    enough = run_unfit(p)
    release(block)
    return enough
