# What the kernels of few rows of float32 activations share: avx2_float_gemv.pxi,
# avx512_float_gemv.pxi, each with a float_gemv_piece of its own.

cdef enum:
    FLOAT_GEMV_AHEAD = 8192   # bytes of weights asked for ahead, into L2


cdef inline void pair_bits(const uint8_t *packed, uint8_t *pairs) noexcept nogil:
    # 8 k of both planes as nibbles for trit_table: k 0-1 | 4-5, then k 2-3 | 6-7.
    cdef __m256i two_u8x32 = _mm256_set1_epi8(0x33)
    cdef __m256i first_u8x32 = _mm256_loadu_si256(<const __m256i *>packed)
    cdef __m256i second_u8x32 = _mm256_loadu_si256(<const __m256i *>(packed + 32))
    _mm256_storeu_si256(<__m256i *>pairs, _mm256_or_si256(
        _mm256_and_si256(first_u8x32, two_u8x32),
        _mm256_slli_epi16(_mm256_and_si256(second_u8x32, two_u8x32), 2)))
    _mm256_storeu_si256(<__m256i *>(pairs + 32), _mm256_or_si256(
        _mm256_and_si256(_mm256_srli_epi16(first_u8x32, 2), two_u8x32),
        _mm256_andnot_si256(two_u8x32, second_u8x32)))


cdef void float_gemv_multiply(const Weights *w, const void *prepared, Py_ssize_t rows, float *out,
                              Py_ssize_t out_stride, void *scratch, const Piece *piece,
                              int mode) noexcept nogil:
    if SPECS[w.format].layout == ONE_PLANE:
        float_gemv_piece(w, prepared, rows, out, out_stride, scratch, piece, 1)
    else:
        float_gemv_piece(w, prepared, rows, out, out_stride, scratch, piece, 2)
