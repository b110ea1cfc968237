# How far packed weights are from the floats they came from; binq.reference.errors says what is
# computed. Compiled by each instruction set's module, with its own dequantize.
#
# Sums are kept for each row in 8 lanes (column k in lane k mod 8), so that no result depends on the
# width of the vectors. Squares of float32 are exact in float64: fused or not, sums are the same.

cdef extern from "common/lanes.h" nogil:
    floats sub_floats "binq_sub_floats"(floats a, floats b)
    floats abs_floats "binq_abs_floats"(floats a)
    floats plus_floats "binq_add_floats"(floats a, floats b)
    floats one_where_greater "binq_one_where_greater"(floats a, floats b)

cdef enum:
    MEASURE_COLUMNS = 256     # dequantized at a time: 32 rows of them stay in the first cache
    FLOAT_PARTS = 8


cdef inline double sum_lanes(const double *lanes) noexcept nogil:
    return (((lanes[0] + lanes[4]) + (lanes[2] + lanes[6]))
            + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7])))


cdef inline float scale_at(const Weights *w, Py_ssize_t index) noexcept nogil:
    return stored_float(w.scales, index, w.scale_type)


cdef inline Weights piece_of(const Weights *w, Py_ssize_t tile, Py_ssize_t column) noexcept nogil:
    # Up to MEASURE_COLUMNS columns of one tile as a matrix: its bytes are adjacent.
    cdef Weights piece = w[0]
    cdef Py_ssize_t group = column // w.group_size
    cdef Py_ssize_t scales = tile * w.scale_groups
    if w.scale_groups > 1:
        scales += group
    piece.packed = w.packed + (
        (tile * w.groups + group) * (w.group_size >> 3) * block_bytes(SPECS[w.format].layout))
    piece.scales = <const char *>w.scales + scales * TILE_ROWS * SCALE_SPECS[w.scale_type].bytes
    if w.zero == ZERO_CODE:
        piece.zero_points = w.zero_points + scales * zero_bytes(SPECS[w.format].layout)
    elif w.zero == ZERO_OFFSET:
        piece.offsets = <const char *>w.offsets + (
            scales * TILE_ROWS * SCALE_SPECS[w.offset_type].bytes)
    piece.out_features = min(TILE_ROWS, w.out_features - tile * TILE_ROWS)
    piece.in_features = min(MEASURE_COLUMNS, w.in_features - column)
    piece.tiles = 1
    piece.groups = (piece.in_features + w.group_size - 1) // w.group_size
    piece.scale_groups = piece.groups if w.scale_groups > 1 else 1
    return piece


cdef inline void measure_span(const char *source, int input_type, float *restored,
                              Py_ssize_t count, float limit, double *signal, double *noise,
                              float *worst, double *clipped, bint clips) noexcept nogil:
    # One row of a group: adds to 8 lanes each of signal, noise, worst and clipped. There is room
    # behind restored to fill up the last 8.
    cdef Py_ssize_t size = (8 if input_type == INPUT_FLOAT64
                            else 4 if input_type == INPUT_FLOAT32 else 2)
    cdef Py_ssize_t k, i
    cdef float values[8]
    cdef float errors[8]
    cdef float clippings[8]   # of up to MEASURE_COLUMNS / 8 weights: exact
    cdef doubles signals[8]
    cdef doubles noises[8]
    cdef floats worsts[8]
    cdef floats counts[8]
    cdef floats magnitude
    cdef floats above = splat_float(limit)
    for i in range(PARTS):
        signals[i] = load(signal + i * DOUBLES)
        noises[i] = load(noise + i * DOUBLES)
    for i in range(FLOAT_PARTS // FLOATS):
        worsts[i] = load_floats_at(worst + i * FLOATS)
        counts[i] = splat_float(0.0)
    for k in range(0, count, 8):
        if k + 8 <= count:
            load_block(source + k * size, input_type, 8, values)
        else:
            load_block(source + k * size, input_type, count - k, values)
            memset(restored + count, 0, (k + 8 - count) * sizeof(float))
        for i in range(FLOAT_PARTS // FLOATS):
            magnitude = abs_floats(sub_floats(load_floats_at(values + i * FLOATS),
                                              load_floats_at(restored + k + i * FLOATS)))
            worsts[i] = max_floats(worsts[i], magnitude)
            if clips:
                counts[i] = plus_floats(counts[i], one_where_greater(magnitude, above))
            store_floats(errors + i * FLOATS, magnitude)
        for i in range(PARTS):
            signals[i] = add_square(signals[i], widen(values + i * DOUBLES))
            noises[i] = add_square(noises[i], widen(errors + i * DOUBLES))
    for i in range(PARTS):
        store(signal + i * DOUBLES, signals[i])
        store(noise + i * DOUBLES, noises[i])
    for i in range(FLOAT_PARTS // FLOATS):
        store_floats(worst + i * FLOATS, worsts[i])
        store_floats(clippings + i * FLOATS, counts[i])
    if clips:
        for i in range(8):
            clipped[i] += <double>clippings[i]


cdef inline void measure_any(const char *source, int input_type, float *restored,
                             Py_ssize_t count, float limit, double *signal, double *noise,
                             float *worst, double *clipped, bint clips) noexcept nogil:
    # One loop for each type, which then is a constant in it.
    if input_type == INPUT_FLOAT32:
        measure_span(source, INPUT_FLOAT32, restored, count, limit, signal, noise, worst, clipped,
                     clips)
    elif input_type == INPUT_FLOAT16:
        measure_span(source, INPUT_FLOAT16, restored, count, limit, signal, noise, worst, clipped,
                     clips)
    elif input_type == INPUT_BFLOAT16:
        measure_span(source, INPUT_BFLOAT16, restored, count, limit, signal, noise, worst, clipped,
                     clips)
    else:
        measure_span(source, INPUT_FLOAT64, restored, count, limit, signal, noise, worst, clipped,
                     clips)


cdef void measure_tile(const Weights *w, const char *values, Py_ssize_t row_stride,
                       int input_type, Py_ssize_t tile, Errors *errors) noexcept nogil:
    cdef float restored[8192]  # [32 rows][MEASURE_COLUMNS]
    cdef double signal[256]    # [32 rows][8 lanes]
    cdef double noise[256]
    cdef double clipped[8]
    cdef float worst[8]
    cdef Py_ssize_t size = (8 if input_type == INPUT_FLOAT64
                            else 4 if input_type == INPUT_FLOAT32 else 2)
    cdef Py_ssize_t width = w.group_size if w.scale_groups > 1 else MEASURE_COLUMNS
    cdef Py_ssize_t part, column, row, group, start, count, lane
    cdef Weights piece
    cdef const char *source
    cdef float scale
    memset(signal, 0, sizeof(signal))
    memset(noise, 0, sizeof(noise))
    memset(clipped, 0, sizeof(clipped))
    memset(worst, 0, sizeof(worst))
    memset(errors, 0, sizeof(Errors))
    for part in range((w.in_features + MEASURE_COLUMNS - 1) // MEASURE_COLUMNS):
        column = part * MEASURE_COLUMNS
        piece = piece_of(w, tile, column)
        dequantize(&piece, restored, MEASURE_COLUMNS, 0, 1)
        for row in range(piece.out_features):
            source = values + (tile * TILE_ROWS + row) * row_stride + column * size
            for group in range(piece.scale_groups):
                start = group * width
                count = min(width, piece.in_features - start)
                scale = fabsf(scale_at(&piece, group * TILE_ROWS + row))
                if scale == 0 and (w.scale_groups > 1 or column == 0):
                    errors.zero_scales += 1
                # Rounding costs half a step; the rest of the factor allows for the last bit.
                scale = scale * <float>0.5000001
                if SPECS[w.format].layout == NIBBLES:
                    measure_any(source + start * size, input_type,
                                restored + row * MEASURE_COLUMNS + start, count, scale,
                                signal + row * LANES, noise + row * LANES, worst, clipped, True)
                else:
                    measure_any(source + start * size, input_type,
                                restored + row * MEASURE_COLUMNS + start, count, scale,
                                signal + row * LANES, noise + row * LANES, worst, clipped, False)
    for row in range(min(TILE_ROWS, w.out_features - tile * TILE_ROWS)):
        errors.signal += sum_lanes(signal + row * LANES)
        errors.noise += sum_lanes(noise + row * LANES)
    errors.clipped = sum_lanes(clipped)
    for lane in range(LANES):
        errors.worst = max(errors.worst, <double>worst[lane])


cdef void measure(const Weights *w, const char *values, Py_ssize_t row_stride, int input_type,
                  Errors *errors, Py_ssize_t tile_begin, Py_ssize_t tile_end) noexcept nogil:
    cdef Py_ssize_t tile
    for tile in range(tile_begin, tile_end):
        measure_tile(w, values, row_stride, input_type, tile, errors + tile)
