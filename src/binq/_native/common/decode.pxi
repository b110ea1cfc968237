# Rows of weights as files store them, made into floats (or whole codes) a tile at a time, so that
# what reads them next finds them in the cache. Compiled by each instruction set's module;
# binq.storage says in numpy what every kind means.

cdef extern from "common/decode.h" nogil:
    void float8_span "binq_float8"(const uint8_t *codes, Py_ssize_t count, int shift, float bias,
                                   int special, float scale, float *out)
    void float4_span "binq_float4"(const uint8_t *codes, Py_ssize_t count, float scale, float *out)
    void unsigned_span "binq_unsigned"(const uint8_t *codes, Py_ssize_t count, int zero,
                                       float scale, float *out)
    void signed_span "binq_signed"(const int8_t *codes, Py_ssize_t count, int zero, float scale,
                                   float *out)
    int centre_span "binq_centre"(const uint8_t *codes, Py_ssize_t count, int zero, int low,
                                  int high, int is_signed, int8_t *out)
    void spread_span "binq_spread"(const uint8_t *data, Py_ssize_t count, int bits, uint8_t *out)
    void transpose_halves "binq_transpose_halves"(const uint16_t *data, Py_ssize_t stride,
                                                  Py_ssize_t count, uint16_t *out,
                                                  Py_ssize_t out_stride)

cdef extern from "common/lanes.h" nogil:
    void prefetch_column "binq_prefetch"(const void *p)

cdef enum:
    STRIP = 64                # stored rows of columns that are transposed at a time: 8 KB
    LINES_AHEAD = 24          # prefetched: no processor guesses the next page


cdef inline void copy_strip(const Stored *s, Py_ssize_t first, Py_ssize_t count, Py_ssize_t lines,
                            Py_ssize_t at, Py_ssize_t size, char *strip,
                            Py_ssize_t stride) noexcept nogil:
    # `size` bytes from `at` on of each of `count` stored rows, of which there are `lines`.
    # Whole tiles of halves and of words have a constant size, which is a few instructions. The next
    # tile lies beside this one: its lines are asked for while this one is packed and measured.
    cdef Py_ssize_t k
    cdef const char *source
    for k in range(count):
        source = s.data + (first + k) * s.stride + at
        if first + k + LINES_AHEAD < lines:
            prefetch_column(source + LINES_AHEAD * s.stride)
        if size == 64:
            prefetch_column(source + 64)
            memcpy(strip + k * stride, source, 64)
        elif size == 128:
            prefetch_column(source + 128)
            prefetch_column(source + 192)
            memcpy(strip + k * stride, source, 128)
        else:
            memcpy(strip + k * stride, source, size)


cdef inline void transpose_words(const Stored *s, Py_ssize_t begin, Py_ssize_t rows,
                            uint8_t *codes, Py_ssize_t stride) noexcept nogil:
    # 32-bit words, each of 32 / bits codes of one column: rows of codes. Columns lie a power of two
    # apart and would share a few lines of the first cache: they are copied together first.
    cdef uint32_t strip[2048]      # [STRIP][32 rows]
    cdef uint32_t words[64]        # [STRIP] of one row
    cdef Py_ssize_t part, first, k, row, count
    cdef Py_ssize_t stored = s.columns * s.bits // 32
    for part in range((stored + STRIP - 1) // STRIP):
        first = part * STRIP
        count = min(<Py_ssize_t>STRIP, stored - first)
        copy_strip(s, first, count, stored, begin * 4, rows * 4, <char *>strip, TILE_ROWS * 4)
        for row in range(rows):
            for k in range(count):
                words[k] = strip[k * TILE_ROWS + row]
            spread_span(<const uint8_t *>words, 4 * count, s.bits,
                        codes + row * stride + first * (32 // s.bits))


cdef inline void transpose_floats(const Stored *s, Py_ssize_t begin, Py_ssize_t rows, char *out,
                             Py_ssize_t out_stride) noexcept nogil:
    # As transpose_words, of floats.
    cdef uint16_t halves[2048]     # [STRIP][32 rows]
    cdef uint32_t words[2048]
    cdef uint64_t pairs[2048]
    cdef Py_ssize_t part, first, k, row, count
    for part in range((s.columns + STRIP - 1) // STRIP):
        first = part * STRIP
        count = min(<Py_ssize_t>STRIP, s.columns - first)
        if s.input_type == INPUT_FLOAT64:
            copy_strip(s, first, count, s.columns, begin * 8, rows * 8, <char *>pairs,
                       TILE_ROWS * 8)
            for row in range(rows):
                for k in range(count):
                    (<uint64_t *>(out + row * out_stride))[first + k] = pairs[k * TILE_ROWS + row]
        elif s.input_type == INPUT_FLOAT32:
            copy_strip(s, first, count, s.columns, begin * 4, rows * 4, <char *>words,
                       TILE_ROWS * 4)
            for row in range(rows):
                for k in range(count):
                    (<uint32_t *>(out + row * out_stride))[first + k] = words[k * TILE_ROWS + row]
        else:
            copy_strip(s, first, count, s.columns, begin * 2, rows * 2, <char *>halves,
                       TILE_ROWS * 2)
            for row in range(0, rows & ~<Py_ssize_t>7, 8):
                transpose_halves(halves + row, TILE_ROWS, count,
                                 <uint16_t *>(out + row * out_stride) + first, out_stride // 2)
            for row in range(rows & ~<Py_ssize_t>7, rows):
                for k in range(count):
                    (<uint16_t *>(out + row * out_stride))[first + k] = (
                        halves[k * TILE_ROWS + row])


cdef inline void scale_span(const Stored *s, const uint8_t *codes, Py_ssize_t count, int zero,
                            float scale, float *out) noexcept nogil:
    if s.kind == STORED_E4M3:
        float8_span(codes, count, 20, <float>1.329227995784916e36, 0x7F, scale, out)      # 2^120
    elif s.kind == STORED_E5M2:
        float8_span(codes, count, 21, <float>5.192296858534828e33, 0x7C, scale, out)      # 2^112
    elif s.kind == STORED_E4M3FNUZ:
        float8_span(codes, count, 20, <float>6.64613997892458e35, 0, scale, out)          # 2^119
    elif s.kind == STORED_E5M2FNUZ:
        float8_span(codes, count, 21, <float>2.596148429267414e33, 0, scale, out)         # 2^111
    elif s.kind == STORED_FLOAT4:
        # A constant count becomes a few vectors without a loop.
        if count == 32:
            float4_span(codes, 32, scale, out)
        elif count == 16:
            float4_span(codes, 16, scale, out)
        else:
            float4_span(codes, count, scale, out)
    elif s.is_signed:
        signed_span(<const int8_t *>codes, count, zero, scale, out)
    else:
        unsigned_span(codes, count, zero, scale, out)


cdef inline const uint8_t *codes_of(const Stored *s, Py_ssize_t begin, Py_ssize_t rows,
                                    uint8_t *scratch, Py_ssize_t *stride) noexcept nogil:
    # Rows of codes, one a byte: as they are stored, or else in scratch.
    cdef Py_ssize_t row
    stride[0] = s.columns
    if s.kind == STORED_WORDS:
        transpose_words(s, begin, rows, scratch, s.columns)
        return scratch
    if s.kind == STORED_FLOAT4:
        for row in range(rows):
            spread_span(<const uint8_t *>s.data + (begin + row) * s.stride, s.columns // 2, 4,
                        scratch + row * s.columns)
        return scratch
    stride[0] = s.stride
    return <const uint8_t *>s.data + begin * s.stride


cdef inline void decode_row(const Stored *s, const uint8_t *codes, Py_ssize_t row,
                            float *out) noexcept nogil:
    cdef const float *scales = s.scales + row * s.groups
    cdef const int16_t *zeros = NULL
    cdef Py_ssize_t group, first, k
    cdef int code
    cdef int zero = 0
    if s.zeros != NULL:
        zeros = s.zeros + row * s.groups
    if s.order != NULL:
        for k in range(s.columns):
            group = s.order[k]
            zero = 0 if zeros == NULL else zeros[group]
            code = codes[k]
            if s.is_signed:
                code = <int8_t>codes[k]
            out[k] = <float>(code - zero) * scales[group]
        return
    for group in range(s.groups):
        first = group * s.group
        if zeros != NULL:
            zero = zeros[group]
        scale_span(s, codes + first, min(s.group, s.columns - first), zero, scales[group],
                   out + first)


cdef void decode(const Stored *s, Py_ssize_t begin, Py_ssize_t rows, void *out,
                 Py_ssize_t out_stride, void *scratch) noexcept nogil:
    cdef Py_ssize_t row, stride, size
    cdef const uint8_t *codes
    if s.kind == STORED_COLUMNS:
        transpose_floats(s, begin, rows, <char *>out, out_stride)
        return
    if s.kind == STORED_FLOATS:
        size = (8 if s.input_type == INPUT_FLOAT64 else 4 if s.input_type == INPUT_FLOAT32 else 2)
        for row in range(rows):
            memcpy(<char *>out + row * out_stride, s.data + (begin + row) * s.stride,
                   s.columns * size)
        return
    codes = codes_of(s, begin, rows, <uint8_t *>scratch, &stride)
    for row in range(rows):
        decode_row(s, codes + row * stride, begin + row,
                   <float *>(<char *>out + row * out_stride))


cdef int whole_codes(const Stored *s, Py_ssize_t begin, Py_ssize_t rows, int low, int high,
                     bint centred, int8_t *out, void *scratch) noexcept nogil:
    cdef Py_ssize_t row, stride, group, first
    cdef const uint8_t *codes = codes_of(s, begin, rows, <uint8_t *>scratch, &stride)
    cdef int wrong = 0
    cdef int zero = 0
    for row in range(rows):
        for group in range(s.groups):
            first = group * s.group
            if centred and s.zeros != NULL:
                zero = s.zeros[(begin + row) * s.groups + group]
            wrong |= centre_span(codes + row * stride + first, min(s.group, s.columns - first),
                                 zero, low, high, s.is_signed, out + row * s.columns + first)
    return wrong
