# Single rows of packed weights: their bytes are moved into tiles of their own, never decoded, so
# that the kernels for whole tiles serve any choice of rows in every format. A kernel that reads a
# row's bytes alone gets them where they lie, as those of the first row, and only their scales move.

cdef extern from "common/lanes.h" nogil:
    void prefetch "binq_prefetch"(const void *p)

cdef enum:
    HALF_BYTES = 0            # two rows share a byte: r the low, r + 16 the high nibble
    TILE_BYTES = 1 << 14      # of a tile that is filled row by row: it stays in the first cache
    SCALES_AT_ONCE = 64       # groups of a row whose scales are moved at once


cdef struct RowsJob:
    const Weights *w
    void (*dequantize)(const Weights *w, float *out, Py_ssize_t out_stride,
                       Py_ssize_t tile_begin, Py_ssize_t tile_end) noexcept nogil
    const int64_t *rows
    const int64_t *order      # of rows that are read where they lie: those of a tile together
    Py_ssize_t count
    float *out
    Py_ssize_t word           # adjacent bytes of a row; each part of a tile is [number][32][word]
    Py_ssize_t scale_word
    Py_ssize_t offset_word
    Py_ssize_t zero_bytes     # of the zero points of 32 rows
    Py_ssize_t group_bytes    # of the codes of 32 rows
    Py_ssize_t groups_at_once  # of a tile: what the first cache holds
    char *scratch
    Py_ssize_t scratch_bytes
    bint in_place             # rows are read where they lie


cdef void take_row(const uint8_t *stored, Py_ssize_t nbytes, Py_ssize_t word, Py_ssize_t lane,
                   uint8_t *tile, Py_ssize_t place) noexcept nogil:
    # Copies row `lane` of the bytes of a tile to a place in another, whose nibbles must be zero.
    cdef Py_ssize_t i, count
    if word == HALF_BYTES:
        stored += lane % 16
        tile += place % 16
        for i in range(nbytes // 16):
            tile[16 * i] |= ((stored[16 * i] >> (4 * (lane // 16))) & 15) << (4 * (place // 16))
        return
    stored += lane * word
    tile += place * word
    count = nbytes // (TILE_ROWS * word)
    # A word of a size that the compiler knows is one load and one store.
    if word == 1:
        for i in range(count):
            tile[TILE_ROWS * i] = stored[TILE_ROWS * i]
    elif word == 2:
        for i in range(count):
            memcpy(tile + 2 * TILE_ROWS * i, stored + 2 * TILE_ROWS * i, 2)
    elif word == 4:
        for i in range(count):
            memcpy(tile + 4 * TILE_ROWS * i, stored + 4 * TILE_ROWS * i, 4)
    elif word == 8:
        for i in range(count):
            memcpy(tile + 8 * TILE_ROWS * i, stored + 8 * TILE_ROWS * i, 8)
    else:
        for i in range(count):
            memcpy(tile + TILE_ROWS * word * i, stored + TILE_ROWS * word * i, word)


cdef void take_block(const RowsJob *r, Weights *w, const int64_t *rows, Py_ssize_t first,
                     Py_ssize_t groups) noexcept nogil:
    # Fills the tile w with groups [first, first + groups) of some rows.
    cdef const Weights *whole = r.w
    cdef Py_ssize_t scale_first = first if whole.scale_groups == whole.groups else 0
    cdef Py_ssize_t i, tile, lane, block
    cdef const uint8_t *packed
    if w.zero_points != NULL:
        memset(<void *>w.zero_points, 0, w.scale_groups * r.zero_bytes)
    for i in range(w.out_features):
        tile = rows[i] // TILE_ROWS
        lane = rows[i] % TILE_ROWS
        packed = whole.packed + (tile * whole.groups + first) * r.group_bytes
        if r.in_place:
            w.packed = packed + lane * r.word
        else:
            take_row(packed, groups * r.group_bytes, r.word, lane, <uint8_t *>w.packed, i)
        block = (tile * whole.scale_groups + scale_first) * TILE_ROWS
        take_row(<const uint8_t *>whole.scales + block * r.scale_word,
                 w.scale_groups * TILE_ROWS * r.scale_word, r.scale_word, lane,
                 <uint8_t *>w.scales, i)
        if w.zero_points != NULL:
            take_row(whole.zero_points + block // TILE_ROWS * r.zero_bytes,
                     w.scale_groups * r.zero_bytes,
                     1 if r.zero_bytes == TILE_ROWS else HALF_BYTES,
                     lane, <uint8_t *>w.zero_points, i)
        if w.offsets != NULL:
            take_row(<const uint8_t *>whole.offsets + block * r.offset_word,
                     w.scale_groups * TILE_ROWS * r.offset_word, r.offset_word, lane,
                     <uint8_t *>w.offsets, i)


cdef bint sort_by_tile(const int64_t *rows, Py_ssize_t count, Py_ssize_t tiles,
                       int64_t *order) noexcept nogil:
    # The numbers of rows in the order of their tiles. Lines of a tile hold 16 or 32 of its rows and
    # are then fetched once. Returns whether there was memory for the counts.
    cdef int64_t *first = <int64_t *>allocate((tiles + 1) * sizeof(int64_t))
    cdef Py_ssize_t i, tile
    if first == NULL:
        return False
    memset(first, 0, (tiles + 1) * sizeof(int64_t))
    for i in range(count):
        first[rows[i] // TILE_ROWS + 1] += 1
    for i in range(tiles):
        first[i + 1] += first[i]
    for i in range(count):
        tile = rows[i] // TILE_ROWS
        order[first[tile]] = i
        first[tile] += 1
    release(<void *>first)
    return True


cdef void ask_for_row(const RowsJob *r, int64_t row) noexcept nogil:
    # A row has four bytes in every other line of its tile, or one in each.
    cdef Py_ssize_t tile_bytes = r.w.groups * r.group_bytes
    cdef Py_ssize_t step = 128 if r.word == 4 else 64
    cdef Py_ssize_t i = row % TILE_ROWS * r.word
    cdef const uint8_t *tile = r.w.packed + row // TILE_ROWS * tile_bytes
    while i < tile_bytes:
        prefetch(tile + i)
        i += step


cdef void rows_task(void *job, Py_ssize_t begin, Py_ssize_t end, int slot) noexcept nogil:
    # Items are blocks of 32 of the rows, or rows that are read where they lie.
    cdef RowsJob *r = <RowsJob *>job
    cdef const Weights *whole = r.w
    cdef Weights w = whole[0]
    cdef Py_ssize_t block, first, groups, column, place
    cdef Py_ssize_t rows_at_once = 1 if r.in_place else TILE_ROWS
    cdef bint one_scale = whole.scale_groups != whole.groups
    cdef uint8_t *packed = <uint8_t *>(r.scratch + slot * r.scratch_bytes)
    cdef uint8_t *scales = packed + (0 if r.in_place else r.groups_at_once * r.group_bytes)
    cdef uint8_t *zeros = scales + r.groups_at_once * TILE_ROWS * r.scale_word
    w.packed = packed
    w.scales = scales
    w.zero_points = NULL if whole.zero_points == NULL else zeros
    w.offsets = NULL if whole.offsets == NULL else zeros
    w.tiles = 1
    for block in range(begin, end):
        w.out_features = min(rows_at_once, r.count - block * rows_at_once)
        place = r.order[block] if r.order != NULL else block * rows_at_once
        if r.in_place and block + 1 < end:
            ask_for_row(r, r.rows[r.order[block + 1] if r.order != NULL else block + 1])
        first = 0
        while first < whole.groups:
            groups = min(r.groups_at_once, whole.groups - first)
            column = first * whole.group_size
            w.in_features = min(groups * whole.group_size, whole.in_features - column)
            w.groups = groups
            w.scale_groups = 1 if one_scale else groups
            take_block(r, &w, r.rows + place, first, groups)
            r.dequantize(&w, r.out + place * whole.in_features + column, whole.in_features, 0, 1)
            first += groups


def wrap_rows(rows, Py_ssize_t count) -> int:
    """Counts negative rows from the end, in place; returns where one is out of bounds, or -1."""
    cdef _View rows_view = view("rows", rows, b"lq", 1, True)
    cdef int64_t *numbers = <int64_t *>rows_view.buffer.buf
    cdef Py_ssize_t i
    cdef int64_t row
    for i in range(rows_view.size(0)):
        row = numbers[i]
        if row < 0:
            row += count
        if row < 0 or row >= count:
            return i
        numbers[i] = row
    return -1


cdef int check_rows(const int64_t *rows, Py_ssize_t count, Py_ssize_t most) except -1:
    cdef Py_ssize_t i
    for i in range(count):
        if rows[i] < 0 or rows[i] >= most:
            raise IndexError(f"row {rows[i]} is out of bounds for {most} rows")
    return 0


cdef int check_word(Py_ssize_t tile_bytes, Py_ssize_t word) except -1:
    if tile_bytes < 0 or word < 0 or word > 64 or tile_bytes % (TILE_ROWS * word if word else 16):
        raise ValueError(f"no tile of {tile_bytes} bytes has 32 rows of {word} bytes")
    return 0


def take_rows(stored, Py_ssize_t tile_bytes, Py_ssize_t word, rows, out):
    """Writes tiles that hold the given rows of stored tiles, in that order, each list of rows anew.

    A tile is ``[number][32][word]`` bytes, or with word 0 ``[number][16]``, two nibbles each.
    """
    cdef _View stored_view = view("stored", stored, b"B", 1, False)
    cdef _View rows_view = view("rows", rows, b"lq", 2, False)
    cdef _View out_view = view("out", out, b"B", 1, True)
    cdef const uint8_t *tiles = <const uint8_t *>stored_view.buffer.buf
    cdef const int64_t *numbers = <const int64_t *>rows_view.buffer.buf
    cdef uint8_t *tile = <uint8_t *>out_view.buffer.buf
    cdef Py_ssize_t lists = rows_view.size(0), count = rows_view.size(1)
    cdef Py_ssize_t i, k, row
    if lists == 0 or count == 0 or tile_bytes == 0:
        return
    check_word(tile_bytes, word)
    check_size("out", out_view, lists * ((count + TILE_ROWS - 1) // TILE_ROWS) * tile_bytes)
    check_rows(numbers, lists * count, stored_view.nbytes() // tile_bytes * TILE_ROWS)
    memset(tile, 0, out_view.nbytes())
    with nogil:
        for i in range(lists):
            for k in range(count):
                row = numbers[i * count + k]
                take_row(tiles + row // TILE_ROWS * tile_bytes, tile_bytes, word, row % TILE_ROWS,
                         tile + k // TILE_ROWS * tile_bytes, k % TILE_ROWS)
            tile += (count + TILE_ROWS - 1) // TILE_ROWS * tile_bytes
