# The vectors of lut_gemm.pxi, 64 bytes wide: one row of x a lane.

cdef enum:
    VECTOR_BYTES = 64

ctypedef __m512i vector


cdef inline vector zero_vector() noexcept nogil:
    return _mm512_setzero_si512()


cdef inline vector load_vector(const void *p) noexcept nogil:
    return _mm512_load_si512(p)


cdef inline void store_vector(void *p, vector a) noexcept nogil:
    _mm512_store_si512(p, a)


cdef inline vector add_vectors(vector a, vector b, int lanes) noexcept nogil:
    if lanes == LANES_FLOAT32:
        return _mm512_castps_si512(_mm512_add_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b)))
    if lanes == LANES_INT32:
        return _mm512_add_epi32(a, b)
    return _mm512_add_epi16(a, b)


cdef inline vector sub_vectors(vector a, vector b, int lanes) noexcept nogil:
    if lanes == LANES_FLOAT32:
        return _mm512_castps_si512(_mm512_sub_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b)))
    if lanes == LANES_INT32:
        return _mm512_sub_epi32(a, b)
    return _mm512_sub_epi16(a, b)


cdef inline void add_floats(float *y, vector a, float factor) noexcept nogil:
    # y += a * factor in one rounding, for lanes of float32.
    _mm512_storeu_ps(y, _mm512_fmadd_ps(
        _mm512_castsi512_ps(a), _mm512_set1_ps(factor), _mm512_loadu_ps(y)))


cdef inline void add_integers(float *y, vector a, float w_scale, const float *x_scales,
                              int lanes) noexcept nogil:
    # y += a * (w_scale * x_scale), each operation rounded by itself.
    if lanes == LANES_INT32:
        add_16_scaled(y, _mm512_cvtepi32_ps(a), w_scale, x_scales)
    else:
        add_16_scaled(y, _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm512_castsi512_si256(a))),
                      w_scale, x_scales)
        add_16_scaled(y + 16, _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(
            _mm512_extracti64x4_epi64(a, 1))), w_scale, x_scales + 16)


cdef inline void add_16_scaled(float *y, __m512 a_f32x16, float w_scale,
                               const float *x_scales) noexcept nogil:
    _mm512_storeu_ps(y, _mm512_add_ps(_mm512_loadu_ps(y), _mm512_mul_ps(
        a_f32x16, _mm512_mul_ps(_mm512_set1_ps(w_scale), _mm512_loadu_ps(x_scales)))))


cdef inline void load_32_scales(const char *stored, int type,
                                __m512 *values_f32x16) noexcept nogil:
    cdef const uint16_t *halves = <const uint16_t *>stored
    cdef Py_ssize_t h
    if type == SCALE_E8M0 or type == SCALE_E8M0_HALVES:
        load_powers(stored, SCALE_SPECS[type].bias, <__m256 *>values_f32x16)
        return
    for h in range(2):
        if type == SCALE_FLOAT16:
            values_f32x16[h] = _mm512_cvtph_ps(
                _mm256_loadu_si256(<const __m256i *>(halves + 16 * h)))
        elif type == SCALE_BFLOAT16:
            values_f32x16[h] = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(
                _mm256_loadu_si256(<const __m256i *>(halves + 16 * h))), 16))
        else:
            values_f32x16[h] = _mm512_loadu_ps(<const float *>stored + 16 * h)
