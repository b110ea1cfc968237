# The vectors of lut_gemm.pxi, 32 bytes wide: one row of x a lane.

cdef enum:
    VECTOR_BYTES = 32

ctypedef __m256i vector


cdef inline vector zero_vector() noexcept nogil:
    return _mm256_setzero_si256()


cdef inline vector load_vector(const void *p) noexcept nogil:
    return _mm256_load_si256(<const __m256i *>p)


cdef inline void store_vector(void *p, vector a) noexcept nogil:
    _mm256_store_si256(<__m256i *>p, a)


cdef inline vector add_vectors(vector a, vector b, int lanes) noexcept nogil:
    if lanes == LANES_FLOAT32:
        return _mm256_castps_si256(_mm256_add_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b)))
    if lanes == LANES_INT32:
        return _mm256_add_epi32(a, b)
    return _mm256_add_epi16(a, b)


cdef inline vector sub_vectors(vector a, vector b, int lanes) noexcept nogil:
    if lanes == LANES_FLOAT32:
        return _mm256_castps_si256(_mm256_sub_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b)))
    if lanes == LANES_INT32:
        return _mm256_sub_epi32(a, b)
    return _mm256_sub_epi16(a, b)


cdef inline void add_floats(float *y, vector a, float factor) noexcept nogil:
    # y += a * factor in one rounding, for lanes of float32.
    _mm256_store_ps(y, _mm256_fmadd_ps(
        _mm256_castsi256_ps(a), _mm256_set1_ps(factor), _mm256_load_ps(y)))


cdef inline void add_integers(float *y, vector a, float w_scale, const float *x_scales,
                              int lanes) noexcept nogil:
    # y += a * (w_scale * x_scale), each operation rounded by itself.
    if lanes == LANES_INT32:
        add_8_scaled(y, _mm256_cvtepi32_ps(a), w_scale, x_scales)
    else:
        add_8_scaled(y, _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(_mm256_castsi256_si128(a))),
                     w_scale, x_scales)
        add_8_scaled(y + 8, _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(
            _mm256_extracti128_si256(a, 1))), w_scale, x_scales + 8)


cdef inline void add_8_scaled(float *y, __m256 a_f32x8, float w_scale,
                              const float *x_scales) noexcept nogil:
    _mm256_store_ps(y, _mm256_add_ps(_mm256_load_ps(y), _mm256_mul_ps(
        a_f32x8, _mm256_mul_ps(_mm256_set1_ps(w_scale), _mm256_load_ps(x_scales)))))
