# Quantization, compiled by each instruction set's module with flags of its own: loops over 8 rows
# that compilers turn into vectors, or that use the vectors of lanes.h. Bit for bit as
# binq.reference.quantizers: that says what is computed and why it is right; here is how.
#
# A batch is 8 rows of a tile; a group of them is turned to [column][8 rows], so that every step
# but the exact search runs on 8 rows at once.

from libc.math cimport fabs, fabsf, frexp, ldexp
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset

from binq._native.table cimport *

cdef extern from "common/lanes.h" nogil:
    enum:
        FLOATS "BINQ_FLOATS"        # in a vector
        DOUBLES "BINQ_DOUBLES"
        PARTS "BINQ_PARTS"          # vectors of 8 doubles
        WIDENS_HALVES "BINQ_WIDENS_HALVES"
        WIDENS_BFLOATS "BINQ_WIDENS_BFLOATS"
    ctypedef struct floats "binq_floats":
        pass
    ctypedef struct doubles "binq_doubles":
        pass
    floats load_floats_at "binq_load_floats"(const float *p)
    void store_floats "binq_store_floats"(float *p, floats a)
    floats min_floats "binq_min_floats"(floats a, floats b)
    floats max_floats "binq_max_floats"(floats a, floats b)
    floats mul_floats "binq_mul_floats"(floats a, floats b)
    floats splat_float "binq_splat_float"(float x)
    floats round_floats "binq_round_floats"(floats a)  # magnitudes below 2^22 only
    floats about_add_product "binq_about_add_product"(floats sum, floats a, floats b)
    unsigned int differing "binq_differing"(floats a, floats b)
    void eight_totals "binq_eight_totals"(const floats *sums, float *totals)
    int lowest_bit "binq_lowest_bit"(unsigned int bits)
    doubles load "binq_load"(const double *p)
    void store "binq_store"(double *p, doubles a)
    doubles widen "binq_widen"(const float *p)
    doubles splat "binq_splat"(double x)
    doubles add "binq_add"(doubles a, doubles b)
    doubles sub "binq_sub"(doubles a, doubles b)
    doubles mul "binq_mul"(doubles a, doubles b)
    doubles div "binq_div"(doubles a, doubles b)
    doubles add_product "binq_add_product"(doubles sum, doubles a, doubles b)
    doubles add_square "binq_add_square"(doubles sum, doubles a)
    doubles minimum "binq_min"(doubles a, doubles b)
    doubles maximum "binq_max"(doubles a, doubles b)
    void widen_halves "binq_widen_halves"(const uint16_t *p, float *out)
    void widen_bfloats "binq_widen_bfloats"(const uint16_t *p, float *out)
    doubles rounded "binq_round"(doubles a)  # magnitudes below 2^51 only
    doubles greater "binq_greater"(doubles a, doubles b)
    doubles lookup "binq_lookup"(const double *table, doubles at)
    doubles blend "binq_blend"(doubles mask, doubles a, doubles b)

cdef extern from "common/eight_rows.h" nogil:
    ctypedef struct Steps "binq_steps":
        float offsets[8]
        float divisors[8]
        float low[8]
        float high[8]
        uint32_t zeros[8]
    void turn "binq_turn"(const float *rows, float *out, uint32_t *largest)
    void pack_square "binq_pack_square"(const float *values, const Steps *s, int has_offsets,
                                        int bits, uint8_t *target)
    void pack_some_rows "binq_pack_rows"(const float *values, int columns, int rows, const Steps *s,
                                         int has_offsets, int bits, uint8_t *target)
    void bits_square "binq_bits_square"(const float *values, const float *least, int strict,
                                        uint8_t *target)
    void add_magnitudes "binq_add_magnitudes"(const float *values, Py_ssize_t n,
                                              const double *centers, double *sums)
    void bits_some_rows "binq_bits_rows"(const float *values, int columns, int rows,
                                         const float *least, int strict, uint8_t *target)


cdef enum:
    LANES = 8
    SEARCH_DEPTH = 512
    MANY = 200                  # codes, from which on fewer zero points are searched

include "storing.pxi"


ctypedef struct Interval:
    # Of the exact search: its ends u = 1 / scale, and the lines A, B of the codes there.
    double u0
    double a0
    double b0
    double u1
    double a1
    double b1
    int depth


ctypedef struct Best:
    # The exact search: a group of weights and the best that is known of it.
    const double *w             # padded with zeros to a multiple of 8
    Py_ssize_t n
    double span                 # highest code less the lowest
    double gain
    double scale
    double zero_point


ctypedef struct Search:
    # Of one zero point: the interval at hand, those that wait, and the cut in evaluation.
    double low
    double high
    Interval at
    Interval *stack
    Interval *top
    bint is_open
    double u
    double a
    double b


ctypedef struct Batch:
    # One group of 8 rows: its values and what is found for each row.
    float *values               # [column][8], padded with zeros to whole blocks of 8 columns
    float *sorted               # as values, for the methods that sort
    double *row                 # one row, for the exact search
    Interval *stack
    void *bounds                # Bounds, for the exact search
    int passes                  # groups to leave out that bounds would not decide,
    int passing                 # and how many of these are left
    Py_ssize_t n                # columns that hold weights
    uint32_t amax[8]            # bits of the largest magnitude
    double scale[8]
    double zero[8]
    float rounded_scale[8]
    float rounded_zero[8]


cdef inline double clipped(double value, double low, double high) noexcept nogil:
    return low if value < low else high if value > high else value


include "quantizers_sorted.pxi"
include "quantizers_search.pxi"
include "quantizers_bounds.pxi"
include "quantizers_pieces.pxi"
include "quantizers_rounding.pxi"
include "quantizers_powers.pxi"
include "quantizers_offset.pxi"
include "quantizers_even.pxi"
include "quantizers_levels.pxi"


cdef inline Py_ssize_t group_columns(const QuantizeJob *job) noexcept nogil:
    # Columns that share a scale.
    return job.group_size if job.groups == job.scale_groups else job.groups * job.group_size


cdef Py_ssize_t quantize_scratch_bytes(const QuantizeJob *job) noexcept nogil:
    cdef Py_ssize_t columns = group_columns(job)
    return (columns * (2 * LANES * <Py_ssize_t>sizeof(float) + <Py_ssize_t>sizeof(double))
            + 2 * SEARCH_DEPTH * <Py_ssize_t>sizeof(Interval) + <Py_ssize_t>sizeof(Bounds))


cdef inline void batch_init(Batch *batch, const QuantizeJob *job, void *scratch) noexcept nogil:
    cdef Py_ssize_t columns = group_columns(job)
    batch.values = <float *>scratch
    batch.sorted = batch.values + columns * LANES
    batch.row = <double *>(batch.sorted + columns * LANES)
    batch.stack = <Interval *>(batch.row + columns)
    batch.bounds = batch.stack + 2 * SEARCH_DEPTH
    batch.passes = 0
    batch.passing = 0


cdef inline void load_block(const char *source, int input_type, Py_ssize_t count,
                            float *block) noexcept nogil:
    # Up to 8 elements of a row as float32; the rest of the 8 as zeros.
    cdef uint16_t halves[8]
    cdef double doubles_[8]
    cdef Py_ssize_t i
    if input_type == INPUT_FLOAT32:
        if FLOATS == 8 and count == 8:
            # As one vector: a copy in halves that is read as a whole waits for both to be stored.
            store_floats(block, load_floats_at(<const float *>source))
        else:
            copy_block(source, count, 4, block)
    elif input_type == INPUT_FLOAT64:
        copy_block(source, count, 8, doubles_)
        for i in range(8):
            block[i] = <float>doubles_[i]
    else:
        copy_block(source, count, 2, halves)
        if input_type == INPUT_BFLOAT16 and WIDENS_BFLOATS:
            widen_bfloats(halves, block)
        elif input_type == INPUT_BFLOAT16:
            for i in range(8):
                block[i] = bfloat16_to_float(halves[i])
        elif WIDENS_HALVES:
            widen_halves(halves, block)
        else:
            for i in range(8):
                block[i] = half_to_float(halves[i])


cdef inline void copy_block(const char *source, Py_ssize_t count, Py_ssize_t size,
                            void *block) noexcept nogil:
    # A copy of 8 elements has a constant size, and is then a few instructions.
    if count == 8:
        memcpy(block, source, 8 * size)
    else:
        memset(block, 0, 8 * size)
        memcpy(block, source, count * size)


cdef inline void turn_rows(Batch *batch, const char *source, Py_ssize_t row_stride,
                           Py_ssize_t rows, int input_type) noexcept nogil:
    # Fills batch.values and amax; rows past `rows` are zeros.
    cdef Py_ssize_t size = (8 if input_type == INPUT_FLOAT64
                            else 4 if input_type == INPUT_FLOAT32 else 2)
    cdef Py_ssize_t k, lane
    cdef float block[64]       # [8 rows][8 columns]
    memset(batch.amax, 0, sizeof(batch.amax))
    if rows < LANES:
        memset(block, 0, sizeof(block))
    for k in range(0, batch.n, 8):
        if rows == LANES and k + 8 <= batch.n:
            for lane in range(LANES):
                load_block(source + lane * row_stride + k * size, input_type, 8, block + lane * 8)
        else:
            for lane in range(rows):
                load_block(source + lane * row_stride + k * size, input_type,
                           min(8, batch.n - k), block + lane * 8)
        turn(block, batch.values + k * LANES, batch.amax)


cdef int load_batch(Batch *batch, const QuantizeJob *job, Py_ssize_t row,
                    Py_ssize_t column) noexcept nogil:
    # Reads the group that starts at `column` of 8 rows: a loop of its own for each type.
    cdef Py_ssize_t rows = min(LANES, job.out_features - row)
    cdef const char *source = job.values + row * job.row_stride
    cdef uint32_t largest = 0
    cdef Py_ssize_t lane
    if job.input_type == INPUT_FLOAT32:
        turn_rows(batch, source + column * 4, job.row_stride, rows, INPUT_FLOAT32)
    elif job.input_type == INPUT_FLOAT64:
        turn_rows(batch, source + column * 8, job.row_stride, rows, INPUT_FLOAT64)
    elif job.input_type == INPUT_BFLOAT16:
        turn_rows(batch, source + column * 2, job.row_stride, rows, INPUT_BFLOAT16)
    else:
        turn_rows(batch, source + column * 2, job.row_stride, rows, INPUT_FLOAT16)
    for lane in range(LANES):
        largest = batch.amax[lane] if batch.amax[lane] > largest else largest
    return STATUS_NONFINITE if largest >= 0x7f800000 else STATUS_OK


cdef inline void fold_lanes(const double *sums, double *totals) noexcept nogil:
    # sums: [8 running sums][8 rows].
    cdef Py_ssize_t lane
    for lane in range(LANES):
        totals[lane] = (((sums[lane] + sums[32 + lane]) + (sums[16 + lane] + sums[48 + lane]))
                        + ((sums[8 + lane] + sums[40 + lane])
                           + (sums[24 + lane] + sums[56 + lane])))


cdef inline void mean_magnitudes(const Batch *batch, const double *centers,
                                 double *means) noexcept nogil:
    # mean(|w - center|) of each row.
    cdef double sums[64]
    cdef Py_ssize_t lane
    memset(sums, 0, sizeof(sums))
    add_magnitudes(batch.values, batch.n, centers, sums)
    fold_lanes(sums, means)
    for lane in range(LANES):
        means[lane] = means[lane] / <double>batch.n


cdef inline void means_of(const Batch *batch, double *means) noexcept nogil:
    cdef double sums[64]
    cdef Py_ssize_t k, lane
    cdef double *at
    memset(sums, 0, sizeof(sums))
    for k in range(batch.n):
        at = sums + (k & 7) * LANES
        for lane in range(LANES):
            at[lane] += <double>batch.values[k * LANES + lane]
    fold_lanes(sums, means)
    for lane in range(LANES):
        means[lane] = means[lane] / <double>batch.n


cdef inline int round_offsets(Batch *batch, const QuantizeJob *job,
                              Py_ssize_t index) noexcept nogil:
    # Rounds offsets to the type they are stored in, and stores them.
    cdef Py_ssize_t lane
    cdef int status = STATUS_OK
    for lane in range(LANES):
        if batch.amax[lane] == 0:
            batch.zero[lane] = 0.0  # not -0
        batch.rounded_zero[lane] = store_float(
            job.offsets, index + lane, job.offset_type,
            clipped(batch.zero[lane], -LARGEST_LEVEL, LARGEST_LEVEL))
        if not fabs(batch.rounded_zero[lane]) <= LARGEST_LEVEL:
            status |= STATUS_SCALE_RANGE
    return status


cdef inline int round_scales(Batch *batch, const QuantizeJob *job, Py_ssize_t tile,
                             Py_ssize_t group, Py_ssize_t first_row) noexcept nogil:
    # Rounds scales and offsets to the type they are stored in, and stores them.
    cdef Py_ssize_t index = (tile * job.scale_groups + group) * TILE_ROWS + first_row
    cdef Py_ssize_t lane
    cdef bint has_offsets = job.zero == ZERO_OFFSET
    cdef double scale, offset, largest, judged
    cdef int status = STATUS_OK
    if has_offsets:
        status = round_offsets(batch, job, index)
    else:
        memset(batch.rounded_zero, 0, sizeof(batch.rounded_zero))
    for lane in range(LANES):
        scale = batch.scale[lane]
        offset = 0.0
        if has_offsets:
            offset = clipped(batch.zero[lane], -LARGEST_LEVEL, LARGEST_LEVEL)
        largest = (LARGEST_LEVEL - fabs(offset)) / SPECS[job.format].largest
        if job.scale_type == SCALE_FLOAT32:
            scale = clipped(scale, -largest, largest)
        batch.rounded_scale[lane] = store_float(job.scales, index + lane, job.scale_type, scale)
        # An offset may be small, or 0, beside its scale; alone it must be accurate.
        judged = fabs(batch.rounded_scale[lane])
        if job.scale_type != SCALE_FLOAT32 and not judged <= largest:
            status |= STATUS_SCALE_RANGE
        if has_powers(job) and not (judged <= 1.5 * scale and scale <= 1.5 * judged):
            if batch.amax[lane] != 0:
                status |= STATUS_SCALE_RANGE  # the nearest power is not one of the type
        if has_offsets and scale == 0.0:
            judged = fabs(batch.rounded_zero[lane])
        if batch.amax[lane] != 0 and not judged >= SCALE_SPECS[job.scale_type].smallest:
            status |= STATUS_SCALE_RANGE
    return status


cdef inline void pack_bits(const Batch *batch, const float *least, bint strict,
                           uint8_t *packed, Py_ssize_t stride, Py_ssize_t rows) noexcept nogil:
    # Bit = value >= least, or value > least where strict; 8 bytes (rows) at `packed` + k/8 stride.
    cdef Py_ssize_t k
    for k in range(0, batch.n, 8):
        if rows == LANES and k + 8 <= batch.n:
            bits_square(batch.values + k * LANES, least, strict, packed + (k >> 3) * stride)
        else:
            bits_some_rows(batch.values + k * LANES, <int>min(8, batch.n - k), <int>rows, least,
                           strict, packed + (k >> 3) * stride)


cdef inline void find_binary(Batch *batch, const QuantizeJob *job) noexcept nogil:
    cdef double zeros[8]
    cdef Py_ssize_t lane
    memset(zeros, 0, sizeof(zeros))
    if job.zero == ZERO_NONE:
        mean_magnitudes(batch, zeros, batch.scale)
    elif job.method == METHOD_ABSMEAN:
        means_of(batch, batch.zero)
        mean_magnitudes(batch, batch.zero, batch.scale)
    else:
        best_two_levels(batch)
    for lane in range(LANES):
        if batch.amax[lane] == 0:
            batch.scale[lane] = 0.0
            batch.zero[lane] = 0.0


cdef inline void find_ternary(Batch *batch, const QuantizeJob *job) noexcept nogil:
    cdef double zeros[8]
    if job.method == METHOD_ABSMEAN:
        memset(zeros, 0, sizeof(zeros))
        mean_magnitudes(batch, zeros, batch.scale)
    elif has_powers(job):
        find_powers(batch, 1, -1.0, 1.0, False)
    else:
        best_ternary(batch)


cdef inline int quantize_tiles(const QuantizeJob *job, void *scratch, Py_ssize_t tile_begin,
                               Py_ssize_t tile_end, int search) noexcept nogil:
    cdef int layout = SPECS[job.format].layout
    cdef Py_ssize_t size = block_bytes(layout)
    cdef Py_ssize_t blocks = job.groups * (job.group_size >> 3)
    cdef Py_ssize_t columns = group_columns(job)
    cdef Py_ssize_t tile, group, row, rows, tile_rows, lane
    cdef uint8_t *packed
    cdef Batch batch
    cdef float least[8]
    cdef Grid grids[2]
    cdef int status = STATUS_OK
    if search == SEARCH_LEVELS:
        set_grid(&grids[0], job.format, False)
        set_grid(&grids[1], job.format, True)
    batch_init(&batch, job, scratch)
    for tile in range(tile_begin, tile_end):
        memset(job.packed + tile * blocks * size, 0, blocks * size)
        clear_scales(job, tile)
        tile_rows = min(TILE_ROWS, job.out_features - tile * TILE_ROWS)
        for row in range(0, tile_rows, 8):
            rows = min(LANES, tile_rows - row)
            for group in range(job.scale_groups):
                batch.n = min(columns, job.in_features - group * columns)
                if batch.n <= 0:
                    continue
                if load_batch(&batch, job, tile * TILE_ROWS + row, group * columns):
                    return STATUS_NONFINITE
                memset(batch.zero, 0, sizeof(batch.zero))
                packed = job.packed + (tile * blocks + group * (columns >> 3)) * size
                if search == SEARCH_TWO_LEVELS:
                    find_binary(&batch, job)
                    status |= round_scales(&batch, job, tile, group, row)
                    pack_bits(&batch, batch.rounded_zero, False, packed + row, 32, rows)
                elif search == SEARCH_TERNARY:
                    find_ternary(&batch, job)
                    status |= round_scales(&batch, job, tile, group, row)
                    for lane in range(LANES):
                        least[lane] = batch.rounded_scale[lane] * <float>-0.5
                    pack_bits(&batch, least, False, packed + row, 64, rows)
                    for lane in range(LANES):
                        least[lane] = -least[lane]
                    pack_bits(&batch, least, True, packed + 32 + row, 64, rows)
                elif search == SEARCH_LEVELS:
                    find_levels(&batch, job, grids)
                    status |= round_scales(&batch, job, tile, group, row)
                    pack_levels(&batch, &grids[0], packed + row * 4, rows)
                else:
                    find_even(&batch, job)
                    status |= round_scales(&batch, job, tile, group, row)
                    pack_even(&batch, job, packed, row, rows)
                    if job.zero == ZERO_CODE:
                        store_zero_points(&batch, job, tile, group, row)
    return status


cdef inline void clear_scales(const QuantizeJob *job, Py_ssize_t tile) noexcept nogil:
    cdef Py_ssize_t count = job.scale_groups * TILE_ROWS
    cdef Py_ssize_t size = count * SCALE_SPECS[job.scale_type].bytes
    memset(<uint8_t *>job.scales + tile * size, 0, size)
    if job.zero == ZERO_CODE:
        size = job.scale_groups * zero_bytes(SPECS[job.format].layout)
        memset(job.zero_points + tile * size, 0, size)
    elif job.zero == ZERO_OFFSET:
        size = count * SCALE_SPECS[job.offset_type].bytes
        memset(<uint8_t *>job.offsets + tile * size, 0, size)


# A loop of its own for each search, as functions that are called by pointers: inlined into one,
# GCC 12 compiles that of binary to a third more time.

cdef int quantize_two_levels(const QuantizeJob *job, void *scratch, Py_ssize_t tile_begin,
                             Py_ssize_t tile_end) noexcept nogil:
    return quantize_tiles(job, scratch, tile_begin, tile_end, SEARCH_TWO_LEVELS)


cdef int quantize_ternary(const QuantizeJob *job, void *scratch, Py_ssize_t tile_begin,
                          Py_ssize_t tile_end) noexcept nogil:
    return quantize_tiles(job, scratch, tile_begin, tile_end, SEARCH_TERNARY)


cdef int quantize_even(const QuantizeJob *job, void *scratch, Py_ssize_t tile_begin,
                       Py_ssize_t tile_end) noexcept nogil:
    return quantize_tiles(job, scratch, tile_begin, tile_end, SEARCH_EVEN)


cdef int quantize_levels(const QuantizeJob *job, void *scratch, Py_ssize_t tile_begin,
                         Py_ssize_t tile_end) noexcept nogil:
    return quantize_tiles(job, scratch, tile_begin, tile_end, SEARCH_LEVELS)


cdef QuantizeKernel QUANTIZERS[SEARCHES]
QUANTIZERS[SEARCH_TWO_LEVELS] = quantize_two_levels
QUANTIZERS[SEARCH_TERNARY] = quantize_ternary
QUANTIZERS[SEARCH_EVEN] = quantize_even
QUANTIZERS[SEARCH_LEVELS] = quantize_levels


cdef int quantize(const QuantizeJob *job, void *scratch, Py_ssize_t tile_begin,
                  Py_ssize_t tile_end) noexcept nogil:
    return QUANTIZERS[SPECS[job.format].search](job, scratch, tile_begin, tile_end)
