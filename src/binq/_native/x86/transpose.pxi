# Squares of 8 x 8 numbers transposed, so that columns become rows.

cdef inline void transpose_f32(const float *a, Py_ssize_t a_stride, float *b,
                          Py_ssize_t b_stride) noexcept nogil:
    cdef __m256 r[8]
    cdef __m256 t[8]
    cdef int i
    for i in range(8):
        r[i] = _mm256_loadu_ps(a + i * a_stride)
    for i in range(0, 8, 2):
        t[i] = _mm256_unpacklo_ps(r[i], r[i + 1])
        t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1])
    for i in range(0, 8, 4):
        r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44)
        r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xEE)
        r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44)
        r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xEE)
    for i in range(4):
        _mm256_storeu_ps(b + i * b_stride, _mm256_permute2f128_ps(r[i], r[i + 4], 0x20))
        _mm256_storeu_ps(b + (i + 4) * b_stride, _mm256_permute2f128_ps(r[i], r[i + 4], 0x31))


cdef inline void transpose_i16(const int16_t *a, Py_ssize_t a_stride, __m128i *out) noexcept nogil:
    cdef __m128i r[8]
    cdef __m128i t[8]
    cdef int i
    for i in range(8):
        r[i] = _mm_loadu_si128(<const __m128i *>(a + i * a_stride))
    for i in range(0, 8, 2):
        t[i] = _mm_unpacklo_epi16(r[i], r[i + 1])
        t[i + 1] = _mm_unpackhi_epi16(r[i], r[i + 1])
    for i in range(0, 8, 4):
        r[i] = _mm_unpacklo_epi32(t[i], t[i + 2])
        r[i + 1] = _mm_unpackhi_epi32(t[i], t[i + 2])
        r[i + 2] = _mm_unpacklo_epi32(t[i + 1], t[i + 3])
        r[i + 3] = _mm_unpackhi_epi32(t[i + 1], t[i + 3])
    for i in range(4):
        out[2 * i] = _mm_unpacklo_epi64(r[i], r[i + 4])
        out[2 * i + 1] = _mm_unpackhi_epi64(r[i], r[i + 4])
