# The contract between binq._core and every kernel module (portable, avx2, avx512, neon).
#
# A kernel is serial, total and checks nothing: the caller has checked every argument, owns every
# buffer and calls from as many threads as it likes on disjoint ranges of tiles or rows. A kernel
# allocates nothing, raises nothing and never needs the GIL. docs/formats.md defines the bytes,
# binq.reference defines the numbers.

from libc.stdint cimport int8_t, int16_t, int32_t, uint8_t

from binq._native.formats cimport (
    BYTES, FORMATS, FORMAT_BINARY, FORMAT_TERNARY, LAYOUTS, LAYOUT_COUNT, LEVELS, METHOD_ABSMAX,
    METHOD_ABSMEAN, METHOD_MSE, NIBBLES, ONE_PLANE, SCALE_BFLOAT16, SCALE_E8M0,
    SCALE_E8M0_HALVES, SCALE_FLOAT16, SCALE_FLOAT32, SCALE_SPECS, SCALE_TYPES, SEARCHES,
    SEARCH_EVEN, SEARCH_LEVELS, SEARCH_TERNARY, SEARCH_TWO_LEVELS, SPECS, THREE_PLANES, TRITS,
    TWO_PLANES, ZERO_CODE, ZERO_NONE, ZERO_OFFSET, binq_format, binq_layout, binq_scale_type,
    block_bytes, by_codes, by_layout, first_level, level_of, plane_step, stored_codes, zero_bytes,
)

cdef extern from "float_mode.h":
    pass

cdef enum:
    TABLE_VERSION = 8
    TILE_ROWS = 32            # rows of a weight matrix that are stored side by side
    ATTENTION_ROWS = 4        # queries that share what they read of keys and values
    TIERS = 3                 # kernels of one product, for few, some and many rows of x
    ANY_ROWS = 0x7FFFFFFF

cdef enum:                     # bits of float32 numbers, which order like the numbers
    BITS_SMALLEST = 0x0D800000    # 2^-100, below which levels / amax could overflow
    BITS_LARGEST = 0x79000000     # 2^115: 256 of them by codes of 15 stay below the largest float

cdef enum:                     # Activations: how exactly x enters the product
    ACTIVATIONS_FLOAT32 = 0
    ACTIVATIONS_INT16 = 1
    ACTIVATIONS_INT8 = 2
    ACTIVATION_MODES = 3

cdef enum:                     # InputType: element type of the float weights that quantize reads
    INPUT_FLOAT32 = 0
    INPUT_FLOAT16 = 1
    INPUT_BFLOAT16 = 2
    INPUT_FLOAT64 = 3

cdef enum:                     # Status: bits that quantize returns, or-ed over all groups
    STATUS_OK = 0
    STATUS_NONFINITE = 1      # an input was inf or NaN; the outputs are then meaningless
    STATUS_SCALE_RANGE = 2    # a scale or offset does not fit its type


ctypedef struct Weights:
    # One packed matrix (out_features x in_features).
    #   packed       [tile][group_size * groups / 8] blocks of 32 rows x 8 columns (formats.h):
    #                bit planes [plane][32] uint8, nibbles [32][4] uint8, bytes [2][32][4] uint8
    #   scales       [tile][scale_groups][32] of scale_type
    #   zero_points  NULL, or [tile][scale_groups][16] uint8: byte r = row r low, row r + 16 high
    #                nibble; of bytes [tile][scale_groups][32] (ZERO_CODE)
    #   offsets      NULL, or as scales, of offset_type (ZERO_OFFSET)
    # Whole codes are stored from 0 where there are zero points or offsets.
    # group_size is the kernels' group (32, 64, 128 or 256). scale_groups is `groups`, or 1 where
    # one scale serves the whole row (group_size=None in Python, 128 here).
    const uint8_t *packed
    const void *scales
    const uint8_t *zero_points
    const void *offsets
    Py_ssize_t out_features
    Py_ssize_t in_features
    Py_ssize_t tiles
    Py_ssize_t groups
    Py_ssize_t group_size
    Py_ssize_t scale_groups
    int format
    int zero
    int scale_type
    int offset_type


ctypedef struct Piece:
    # What one call of multiply writes: these rows of x by the columns (rows of w) of these tiles.
    Py_ssize_t row_begin
    Py_ssize_t row_end
    Py_ssize_t tile_begin
    Py_ssize_t tile_end


ctypedef struct MatmulKernel:
    # y = x @ dequantize(w).T in two steps, so that each engine may lay x out as it likes.
    #
    # most_rows:      rows of x up to which this is the fastest of the kernels of a product;
    #                 ANY_ROWS in the last of them.
    # rows_at_once:   rows of x that a piece takes: they share their work, and a last block of fewer
    #                 costs as much as a full one. 1: they do not, and a piece takes them all.
    # tiles_at_once:  tiles of w that share what multiply sets up anew for each piece: a piece takes
    #                 no fewer where there are enough for all threads.
    # prepared_bytes: size of the buffer that holds `rows` prepared rows of x (64-byte aligned).
    # prepare:        reads rows [row_begin, row_end) of x (row stride in floats) into `prepared`.
    #                 row_begin is a multiple of 16; row_end too, unless it is `rows`. Sets
    #                 unfit[row] to 1 where this mode cannot carry the row (see binq.reference;
    #                 float32: a number of BITS_LARGEST or above, whose sums could overflow before
    #                 the scale), else to 0; an unfit row is prepared as zeros. Several threads may
    #                 prepare disjoint ranges at once.
    # scratch_bytes:  size of the buffer each calling thread hands to multiply (64-byte aligned).
    # multiply:       writes out[row * out_stride + column] of a piece, whose row_begin is a
    #                 multiple of rows_at_once; never past out_features.
    # mode is how exactly x enters; w.format says the rest. One engine serves every pair that it
    # can.
    Py_ssize_t most_rows
    Py_ssize_t rows_at_once
    Py_ssize_t tiles_at_once
    Py_ssize_t (*prepared_bytes)(const Weights *w, Py_ssize_t rows, int mode) noexcept nogil
    void (*prepare)(const Weights *w, const float *x, Py_ssize_t x_stride, Py_ssize_t rows,
                    void *prepared, uint8_t *unfit, Py_ssize_t row_begin, Py_ssize_t row_end,
                    int mode) noexcept nogil
    Py_ssize_t (*scratch_bytes)(const Weights *w, Py_ssize_t rows, int mode) noexcept nogil
    void (*multiply)(const Weights *w, const void *prepared, Py_ssize_t rows,
                     float *out, Py_ssize_t out_stride, void *scratch,
                     const Piece *piece, int mode) noexcept nogil


ctypedef struct QuantizeJob:
    # values: rows x in_features elements of input_type, elements of a row adjacent, row stride in
    # bytes, no alignment promised. The outputs are laid out as in Weights and are written whole,
    # padding included (zero bytes).
    const char *values
    Py_ssize_t row_stride
    int input_type
    int method
    int format
    int zero
    int scale_type
    int offset_type
    Py_ssize_t out_features
    Py_ssize_t in_features
    Py_ssize_t tiles
    Py_ssize_t groups
    Py_ssize_t group_size
    Py_ssize_t scale_groups
    uint8_t *packed
    void *scales
    uint8_t *zero_points
    void *offsets


ctypedef int (*QuantizeKernel)(const QuantizeJob *job, void *scratch,
                               Py_ssize_t tile_begin, Py_ssize_t tile_end) noexcept nogil
# codes: int8 [rows][in_features], the levels of the format, or whole codes from 0 where w.zero is
# not ZERO_NONE, of 8 bits as uint8. dequantize and unpack write rows of the given stride (in
# elements) and never past in_features.
ctypedef void (*DequantizeKernel)(const Weights *w, float *out, Py_ssize_t out_stride,
                                  Py_ssize_t tile_begin, Py_ssize_t tile_end) noexcept nogil
ctypedef void (*UnpackKernel)(const Weights *w, int8_t *codes, Py_ssize_t codes_stride,
                              Py_ssize_t tile_begin, Py_ssize_t tile_end) noexcept nogil
ctypedef void (*PackKernel)(const Weights *w, const int8_t *codes, Py_ssize_t codes_stride,
                            uint8_t *packed,
                            Py_ssize_t tile_begin, Py_ssize_t tile_end) noexcept nogil


ctypedef struct Errors:
    # How far the packed weights of one tile are from the floats they came from (binq.reference).
    double signal             # sum of squares of the floats
    double noise              # sum of squares of the errors
    double worst              # largest magnitude of an error
    double clipped            # whole codes: weights farther than half a step from theirs
    double zero_scales        # scales that are 0


# values, row_stride and input_type are as in QuantizeJob; writes errors[tile] of each tile.
ctypedef void (*MeasureKernel)(const Weights *w, const char *values, Py_ssize_t row_stride,
                               int input_type, Errors *errors,
                               Py_ssize_t tile_begin, Py_ssize_t tile_end) noexcept nogil


cdef enum:                     # What a file stores of rows of weights (binq.storage)
    STORED_FLOATS = 0         # floats of input_type, row by row
    STORED_COLUMNS = 1        # floats of input_type, column by column
    STORED_E4M3 = 2           # float8, a byte each
    STORED_E5M2 = 3
    STORED_E4M3FNUZ = 4
    STORED_E5M2FNUZ = 5
    STORED_FLOAT4 = 6         # OCP's 4-bit floats, two a byte, the first in the low nibble
    STORED_CODES = 7          # whole codes, a byte each
    STORED_WORDS = 8          # whole codes, column by column in 32-bit words, the first lowest
    STORED_KINDS = 9


ctypedef struct Stored:
    # Rows of weights as a file stores them: code * scale, or (code - zero) * scale.
    #   data    rows (columns, rows of words) whose elements are adjacent, `stride` bytes apart
    #   scales  [rows][groups]; NULL for floats
    #   zeros   NULL, or as scales
    #   order   NULL, or the group of each column; else a group is `group` adjacent columns
    #   bits    of a code in words: 2, 4 or 8
    int kind
    int input_type
    int bits
    bint is_signed
    const char *data
    const float *scales
    const int16_t *zeros
    const int32_t *order
    Py_ssize_t stride
    Py_ssize_t rows
    Py_ssize_t columns
    Py_ssize_t groups
    Py_ssize_t group


# Writes up to TILE_ROWS rows from `begin` on, as input_type where they are floats, else as float32;
# out_stride in bytes. scratch: TILE_ROWS * columns bytes.
ctypedef void (*DecodeKernel)(const Stored *s, Py_ssize_t begin, Py_ssize_t rows, void *out,
                              Py_ssize_t out_stride, void *scratch) noexcept nogil
# Writes codes, less their zeros where `centred`, of rows of whole codes that have no order. Returns
# whether one was not in [low, high]; those written are then meaningless. scratch as above.
ctypedef int (*WholeCodesKernel)(const Stored *s, Py_ssize_t begin, Py_ssize_t rows, int low,
                                 int high, bint centred, int8_t *out, void *scratch) noexcept nogil


# What lies between the products of a transformer (binq.reference.layers): rows of floats, which
# may be written in place.
ctypedef void (*NormKernel)(const float *x, const float *weight, Py_ssize_t size, float eps,
                            float *out, Py_ssize_t begin, Py_ssize_t end) noexcept nogil
# cos and sin: [tokens][size / 2]; x: [tokens][heads][size].
ctypedef void (*RopeKernel)(const float *x, const float *cos, const float *sin, Py_ssize_t heads,
                            Py_ssize_t size, float *out,
                            Py_ssize_t begin, Py_ssize_t end) noexcept nogil
ctypedef void (*GateKernel)(const float *gate, const float *up, float *out,
                            Py_ssize_t begin, Py_ssize_t end) noexcept nogil
ctypedef void (*SoftmaxKernel)(const float *x, Py_ssize_t size, float *out,
                               Py_ssize_t begin, Py_ssize_t end) noexcept nogil


# Rows of `size` numbers by signs and a Walsh-Hadamard transform of each block (a power of two),
# times scale; `back`: the transform first, then the signs. x may be out.
ctypedef void (*RotateKernel)(const float *x, const float *signs, Py_ssize_t size,
                              Py_ssize_t block, float scale, int back, float *out,
                              Py_ssize_t begin, Py_ssize_t end) noexcept nogil


ctypedef struct AttentionJob:
    # Attention of the last `tokens` of `length` positions to those up to their own.
    #   q, out   [tokens][heads][size]
    #   keys     [kv_heads][capacity / 16][size][16]: 16 positions side by side
    #   values   [kv_heads][capacity][width]: width is size, rounded up to 16; the rest are zeros
    # capacity is a multiple of 16. `heads` is a multiple of `kv_heads`, whose heads follow each
    # other. A window of w: a position attends to itself and the w - 1 before it; 0 is none.
    const float *q
    const float *keys
    const float *values
    float *out
    Py_ssize_t tokens
    Py_ssize_t heads
    Py_ssize_t kv_heads
    Py_ssize_t size
    Py_ssize_t width
    Py_ssize_t capacity
    Py_ssize_t length
    Py_ssize_t window
    float scale


# Rows of one key head are [tokens][heads / kv_heads], taken ATTENTION_ROWS at a time: item i of the
# work is block i % blocks of key head i / blocks.
# scratch: ATTENTION_ROWS * (capacity + width + size) floats.
ctypedef void (*AttentionKernel)(const AttentionJob *job, void *scratch,
                                 Py_ssize_t begin, Py_ssize_t end) noexcept nogil


ctypedef struct KernelTable:
    int version               # TABLE_VERSION of the module that filled the table
    const char *name          # "portable", "avx2", "avx512", "neon"
    MatmulKernel matmul[FORMATS][ACTIVATION_MODES][TIERS]
    QuantizeKernel quantize
    Py_ssize_t (*quantize_scratch_bytes)(const QuantizeJob *job) noexcept nogil
    DequantizeKernel dequantize
    bint reads_rows_alone     # whether dequantize reads packed bytes of rows that it writes alone
    UnpackKernel unpack
    PackKernel pack
    MeasureKernel measure
    DecodeKernel decode
    WholeCodesKernel whole_codes
    NormKernel rms_norm
    RopeKernel rope
    GateKernel silu_mul
    SoftmaxKernel softmax
    AttentionKernel attention
    RotateKernel rotate
