# Products of binary and ternary weights with few rows of float32 activations, without a
# multiplication: a table of 16 sums of x lies in registers, and four bits of a row of weights say
# which of them is added. avx2_float_gemv.pxi and avx512_float_gemv.pxi look them up, each in its
# own way.
#
#   binary   bits of k 0-3           ->  +-x0 +-x1 +-x2 +-x3
#   ternary  bits of k 0-1, 2 planes ->  t0 x0 + t1 x1, and k 2-3 likewise; both are added first
#
# So every row of x is added up as in lut_gemm.pxi, and a row alone equals the row of a batch.
#
# A prepared buffer holds, a table for each nibble of weights, as interleave_table leaves it,
#   tables float32 [group][row][group_size / 4][planes][16], sums of x float32 [group][row]

cdef enum:
    FLOAT_GEMV_AHEAD = 8192   # bytes of weights prefetched into L2


cdef Py_ssize_t float_gemv_prepared(const Weights *w, Py_ssize_t rows, int mode) noexcept nogil:
    return w.groups * rows * (w.group_size * 16 * LAYOUTS[SPECS[w.format].layout].planes + 4)


cdef Py_ssize_t float_gemv_scratch(const Weights *w, Py_ssize_t rows, int mode) noexcept nogil:
    return rows * 128


cdef inline __m256 signed_f32x8(__m256 x_f32x8, __m256i signs_i32x8) noexcept nogil:
    # x or -x, by the sign bits.
    return _mm256_castsi256_ps(_mm256_xor_si256(_mm256_castps_si256(x_f32x8), signs_i32x8))


cdef inline void sign_table(const float *x, float *table) noexcept nogil:
    # Bit i of an entry set adds x[i], clear subtracts it.
    cdef int top = <int>0x80000000
    cdef __m256 low_f32x8 = _mm256_add_ps(
        signed_f32x8(_mm256_broadcast_ss(x), _mm256_setr_epi32(top, 0, top, 0, top, 0, top, 0)),
        signed_f32x8(_mm256_broadcast_ss(x + 1), _mm256_setr_epi32(top, top, 0, 0, top, top, 0, 0)))
    cdef __m256 third_f32x8 = signed_f32x8(
        _mm256_broadcast_ss(x + 2), _mm256_setr_epi32(top, top, top, top, 0, 0, 0, 0))
    cdef __m256 fourth_f32x8 = _mm256_broadcast_ss(x + 3)
    _mm256_storeu_ps(table, _mm256_add_ps(low_f32x8, _mm256_sub_ps(third_f32x8, fourth_f32x8)))
    _mm256_storeu_ps(table + 8, _mm256_add_ps(low_f32x8, _mm256_add_ps(third_f32x8, fourth_f32x8)))


cdef inline void trit_table(const float *x, float *table) noexcept nogil:
    # Bits of an entry: first plane of k 0 and 1, second plane of k 0 and 1. t is their sum less 1.
    cdef __m256i first_i32x8 = _mm256_setr_epi32(-1, 0, -1, 0, 0, 1, 0, 1)
    cdef __m256i second_i32x8 = _mm256_setr_epi32(-1, -1, 0, 0, -1, -1, 0, 0)
    cdef __m256i one_i32x8 = _mm256_set1_epi32(1)
    cdef __m256 low_f32x8 = _mm256_mul_ps(
        _mm256_broadcast_ss(x), _mm256_cvtepi32_ps(first_i32x8))
    _mm256_storeu_ps(table, _mm256_add_ps(low_f32x8, _mm256_mul_ps(
        _mm256_broadcast_ss(x + 1), _mm256_cvtepi32_ps(second_i32x8))))
    _mm256_storeu_ps(table + 8, _mm256_add_ps(low_f32x8, _mm256_mul_ps(
        _mm256_broadcast_ss(x + 1),
        _mm256_cvtepi32_ps(_mm256_add_epi32(second_i32x8, one_i32x8)))))


cdef inline void prepare_float_tables(const Weights *w, const float *x, Py_ssize_t x_stride,
                                    Py_ssize_t rows, void *prepared, uint8_t *unfit,
                                    Py_ssize_t row_begin, Py_ssize_t row_end,
                                    int planes) noexcept nogil:
    cdef Py_ssize_t size = w.group_size * 4 * planes
    cdef float *tables = <float *>prepared
    cdef float *sums = tables + w.groups * rows * size
    cdef float values[256]
    cdef float *table
    cdef Py_ssize_t row, group, at, count, k
    for row in range(row_begin, row_end):
        unfit[row] = not is_fit_row(x + row * x_stride, w.in_features)
        for group in range(w.groups):
            at = group * rows + row
            count = min(w.group_size, w.in_features - group * w.group_size)
            memset(values, 0, sizeof(values))
            if not unfit[row]:
                memcpy(values, x + row * x_stride + group * w.group_size, count * sizeof(float))
            sums[at] = sum_of(values, count) if w.zero == ZERO_OFFSET else 0.0
            for k in range(0, w.group_size, 4):
                table = tables + at * size + k * 4 * planes
                if planes == 1:
                    sign_table(values + k, table)
                else:
                    trit_table(values + k, table)
                    trit_table(values + k + 2, table + 16)
                    interleave_table(table + 16)
                interleave_table(table)


cdef void float_gemv_prepare(const Weights *w, const float *x, Py_ssize_t x_stride,
                             Py_ssize_t rows, void *prepared, uint8_t *unfit,
                             Py_ssize_t row_begin, Py_ssize_t row_end, int mode) noexcept nogil:
    if SPECS[w.format].layout == ONE_PLANE:
        prepare_float_tables(w, x, x_stride, rows, prepared, unfit, row_begin, row_end, 1)
    else:
        prepare_float_tables(w, x, x_stride, rows, prepared, unfit, row_begin, row_end, 2)


cdef void float_gemv_multiply(const Weights *w, const void *prepared, Py_ssize_t rows, float *out,
                              Py_ssize_t out_stride, void *scratch, const Piece *piece,
                              int mode) noexcept nogil:
    if SPECS[w.format].layout == ONE_PLANE:
        float_gemv_piece(w, prepared, rows, out, out_stride, scratch, piece, 1)
    else:
        float_gemv_piece(w, prepared, rows, out, out_stride, scratch, piece, 2)
