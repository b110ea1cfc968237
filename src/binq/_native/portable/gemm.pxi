# The portable products: plain loops that any compiler vectorises. A prepared buffer holds
#   scales float32 [group][row], sums int32 [group][row], values [group][row][group_size]
# where values are int8, int16 or float32 by mode; float32 has sums in the place of scales. Scratch
# holds one unpacked tile and y of all rows of x for the 32 columns of that tile.

cdef enum:
    BITS_SUMMED = 0x76800000  # 2^110: 256 of them by codes of 255 stay below the largest float


cdef inline Py_ssize_t value_bytes(int mode) noexcept nogil:
    return 1 if mode == ACTIVATIONS_INT8 else 2 if mode == ACTIVATIONS_INT16 else 4


cdef inline Py_ssize_t prepared_bytes(const Weights *w, Py_ssize_t rows, int mode) noexcept nogil:
    return w.groups * rows * (8 + w.group_size * value_bytes(mode))


cdef inline Py_ssize_t scratch_bytes(const Weights *w, Py_ssize_t rows) noexcept nogil:
    return rows * 32 * <Py_ssize_t>sizeof(float) + w.group_size * 32


cdef inline uint32_t largest_bits(const float *x, Py_ssize_t count) noexcept nogil:
    # The bits of the largest |x|: as integers they order like the floats, and inf and NaN come
    # above every finite number.
    cdef uint32_t bits, largest = 0
    cdef Py_ssize_t i
    for i in range(count):
        memcpy(&bits, x + i, sizeof(float))
        bits &= 0x7FFFFFFF
        largest = bits if bits > largest else largest
    return largest


cdef inline void prepare_rows(const Weights *w, const float *x, Py_ssize_t x_stride,
                              Py_ssize_t rows, void *prepared, uint8_t *unfit,
                              Py_ssize_t row_begin, Py_ssize_t row_end,
                              int mode, float levels) noexcept nogil:
    cdef float padded[256]
    cdef Py_ssize_t row, group, begin, count, i, at
    cdef float *scales = <float *>prepared
    cdef int32_t *sums = <int32_t *>(scales + w.groups * rows)
    cdef char *values = <char *>(sums + w.groups * rows)
    cdef Py_ssize_t bytes_a_group = w.group_size * value_bytes(mode)
    cdef uint32_t largest
    cdef int32_t code, total
    cdef float amax, inverse
    cdef double exact
    cdef bint fits
    for row in range(row_begin, row_end):
        fits = True
        for group in range(w.groups):
            begin = group * w.group_size
            count = min(w.group_size, w.in_features - begin)
            at = group * rows + row
            memcpy(padded, x + row * x_stride + begin, count * sizeof(float))
            memset(padded + count, 0, (w.group_size - count) * sizeof(float))
            largest = largest_bits(padded, count)
            if mode == ACTIVATIONS_FLOAT32:
                fits &= largest < (BITS_SUMMED if SPECS[w.format].largest > 15 else BITS_LARGEST)
            else:
                fits &= largest == 0 or BITS_SMALLEST <= largest < BITS_LARGEST
            if not fits:
                break
            if mode == ACTIVATIONS_FLOAT32:
                memcpy(values + at * bytes_a_group, padded, bytes_a_group)
                exact = 0.0
                for i in range(count):
                    exact += padded[i]
                # What offsets need; the slot of a scale is free.
                scales[at] = <float>exact
                continue
            memcpy(&amax, &largest, sizeof(float))
            scales[at] = amax / levels
            inverse = levels / amax if largest else <float>0.0
            total = 0
            for i in range(w.group_size):
                code = <int32_t>rintf(padded[i] * inverse)
                total += code
                if mode == ACTIVATIONS_INT16:
                    (<int16_t *>(values + at * bytes_a_group))[i] = <int16_t>code
                else:
                    (<int8_t *>(values + at * bytes_a_group))[i] = <int8_t>code
            sums[at] = total
        unfit[row] = not fits
        if not fits:
            for group in range(w.groups):
                at = group * rows + row
                scales[at] = 0.0
                sums[at] = 0
                memset(values + at * bytes_a_group, 0, bytes_a_group)


cdef inline void dot_int8(const int8_t *codes, const int8_t *x, Py_ssize_t group_size,
                          const int32_t *zeros, int32_t x_sum, float *sums) noexcept nogil:
    # 256 * 128 * 127 < 2^23. zeros: what the codes of each row are too large by.
    cdef int32_t totals[32]
    cdef Py_ssize_t k, r
    memset(totals, 0, sizeof(totals))
    for k in range(group_size):
        for r in range(32):
            totals[r] += <int32_t>(<int16_t>codes[k * 32 + r] * <int16_t>x[k])
    for r in range(32):
        sums[r] = <float>(totals[r] - zeros[r] * x_sum)


cdef inline void dot_int16(const int8_t *codes, const int16_t *x, Py_ssize_t group_size,
                           const int32_t *zeros, int32_t x_sum, float *sums) noexcept nogil:
    # 256 * 128 * 32639 < 2^31, and so is 256 * 255 * 32639, which codes less zeros make at most.
    cdef int32_t totals[32]
    cdef Py_ssize_t k, r
    memset(totals, 0, sizeof(totals))
    for k in range(group_size):
        for r in range(32):
            totals[r] += <int32_t>codes[k * 32 + r] * <int32_t>x[k]
    for r in range(32):
        sums[r] = <float>(totals[r] - zeros[r] * x_sum)


cdef inline void dot_float32(const int8_t *codes, const float *x, Py_ssize_t group_size,
                             const int32_t *zeros, float *sums) noexcept nogil:
    cdef Py_ssize_t k, r
    memset(sums, 0, 32 * sizeof(float))
    for k in range(group_size):
        for r in range(32):
            sums[r] += <float>(codes[k * 32 + r] - zeros[r]) * x[k]


cdef inline void multiply_tiles(const Weights *w, const void *prepared, Py_ssize_t rows,
                                float *out, Py_ssize_t out_stride, void *scratch,
                                const Piece *piece, int mode) noexcept nogil:
    cdef const float *scales = <const float *>prepared
    cdef const int32_t *x_sums = <const int32_t *>(scales + w.groups * rows)
    cdef const char *values = <const char *>(x_sums + w.groups * rows)
    cdef Py_ssize_t bytes_a_group = w.group_size * value_bytes(mode)
    cdef float *y = <float *>scratch
    cdef int8_t *codes = <int8_t *>(y + rows * 32)
    cdef float w_scales[32]
    cdef float offsets[32]
    cdef float sums[32]
    cdef int32_t zeros[32]
    cdef float x_scale, x_sum, scale, term
    cdef bint has_offsets = w.zero == ZERO_OFFSET
    cdef const void *x
    cdef Py_ssize_t first = piece.row_begin
    cdef Py_ssize_t count = piece.row_end - first
    cdef Py_ssize_t tile, group, row, at, r, columns
    for tile in range(piece.tile_begin, piece.tile_end):
        memset(y, 0, count * 32 * sizeof(float))
        for group in range(w.groups):
            decode_group(w, tile, group, codes)
            load_zeros_left(w, tile, group, zeros)
            load_floats(w, w.scales, w.scale_type, tile, group, w_scales)
            if has_offsets:
                load_floats(w, w.offsets, w.offset_type, tile, group, offsets)
            for row in range(count):
                at = group * rows + first + row
                x = values + at * bytes_a_group
                if mode == ACTIVATIONS_FLOAT32:
                    dot_float32(codes, <const float *>x, w.group_size, zeros, sums)
                    x_scale = 1.0
                    x_sum = scales[at]
                else:
                    if mode == ACTIVATIONS_INT8:
                        dot_int8(codes, <const int8_t *>x, w.group_size, zeros, x_sums[at], sums)
                    else:
                        dot_int16(codes, <const int16_t *>x, w.group_size, zeros, x_sums[at],
                                  sums)
                    x_scale = scales[at]
                    x_sum = <float>x_sums[at]
                # y += sum * (w_scale * x_scale), each operation rounded by itself.
                for r in range(32):
                    scale = w_scales[r] * x_scale
                    term = sums[r] * scale
                    y[row * 32 + r] = y[row * 32 + r] + term
                if has_offsets:
                    for r in range(32):
                        scale = offsets[r] * x_scale
                        term = x_sum * scale
                        y[row * 32 + r] = y[row * 32 + r] + term
        columns = min(<Py_ssize_t>32, w.out_features - tile * 32)
        for row in range(count):
            memcpy(out + (first + row) * out_stride + tile * 32, y + row * 32,
                   columns * sizeof(float))
