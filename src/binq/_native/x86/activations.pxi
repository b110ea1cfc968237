# Activations as integers of 16 bits (round_group), and as signed bytes: int8 in one plane, int16 in
# two, x = 256 * high + low with low in -128..127, so that every integer product is one of unsigned
# codes and signed bytes, put together exactly as 256 * sum(high) + sum(low). A prepared buffer of
# planes holds, in this order (high before low),
#   codes int8 [group][row][plane][group_size], scales float32 [group][row], sums int32 [group][row]
# Rows of one group lie close together: at a stride of in_features they would share an L1 set.

cdef Py_ssize_t plane_prepared(const Weights *w, Py_ssize_t rows, int mode) noexcept nogil:
    return w.groups * rows * (w.group_size * (1 if mode == ACTIVATIONS_INT8 else 2) + 8)


cdef inline uint32_t largest_u32x8(__m256i a_u32x8) noexcept nogil:
    cdef __m128i a_u32x4 = _mm_max_epu32(_mm256_castsi256_si128(a_u32x8),
                                         _mm256_extracti128_si256(a_u32x8, 1))
    a_u32x4 = _mm_max_epu32(a_u32x4, _mm_shuffle_epi32(a_u32x4, 0x4E))
    return <uint32_t>_mm_cvtsi128_si32(_mm_max_epu32(a_u32x4, _mm_shuffle_epi32(a_u32x4, 0xB1)))


cdef inline int32_t sum_i32x8(__m256i a_i32x8) noexcept nogil:
    cdef __m128i a_i32x4 = _mm_add_epi32(_mm256_castsi256_si128(a_i32x8),
                                         _mm256_extracti128_si256(a_i32x8, 1))
    a_i32x4 = _mm_add_epi32(a_i32x4, _mm_shuffle_epi32(a_i32x4, 0x4E))
    return _mm_cvtsi128_si32(_mm_add_epi32(a_i32x4, _mm_shuffle_epi32(a_i32x4, 0xB1)))


cdef inline bint group_scale(const float *x, Py_ssize_t group_size, float levels,
                             float *scale, float *inverse) noexcept nogil:
    # Scale and inverse of one row and kernel group; false where the integer modes cannot carry it.
    cdef Py_ssize_t k
    cdef uint32_t largest
    cdef float amax
    cdef __m256i bits_u32x8 = _mm256_setzero_si256()
    cdef __m256i magnitude_u32x8 = _mm256_set1_epi32(0x7FFFFFFF)
    for k in range(0, group_size, 8):
        # As integers, absolute values order like the floats; inf and NaN come above all.
        bits_u32x8 = _mm256_max_epu32(bits_u32x8, _mm256_and_si256(
            magnitude_u32x8, _mm256_castps_si256(_mm256_loadu_ps(x + k))))
    largest = largest_u32x8(bits_u32x8)
    if largest >= BITS_LARGEST or 0 < largest < BITS_SMALLEST:
        return False
    memcpy(&amax, &largest, sizeof(float))
    scale[0] = amax / levels
    inverse[0] = levels / amax if largest else <float>0.0
    return True


cdef inline __m256i codes_of_16(const float *x, __m256 inverse_f32x8,
                                __m256i *sum_i32x8) noexcept nogil:
    # rint(x * inverse) of 16 floats as int16, in order; their sum goes to sum_i32x8.
    cdef __m256i first_i32x8 = _mm256_cvtps_epi32(
        _mm256_mul_ps(_mm256_loadu_ps(x), inverse_f32x8))
    cdef __m256i second_i32x8 = _mm256_cvtps_epi32(
        _mm256_mul_ps(_mm256_loadu_ps(x + 8), inverse_f32x8))
    sum_i32x8[0] = _mm256_add_epi32(sum_i32x8[0], _mm256_add_epi32(first_i32x8, second_i32x8))
    return _mm256_permute4x64_epi64(_mm256_packs_epi32(first_i32x8, second_i32x8), 0xD8)


cdef inline bint round_group(const float *x, Py_ssize_t count, Py_ssize_t group_size,
                             int16_t *codes, float levels, float *scale, int32_t *absolute,
                             int32_t *total) noexcept nogil:
    # One row and kernel group of x, as binq.reference.quantize_activations.
    cdef float padded[256]
    cdef float inverse
    cdef Py_ssize_t k
    cdef __m256i codes_i16x16
    cdef __m256i ones_i16x16 = _mm256_set1_epi16(1)
    cdef __m256i totals_i32x8 = _mm256_setzero_si256()
    cdef __m256i absolutes_i32x8 = _mm256_setzero_si256()
    cdef __m256 inverse_f32x8
    if count < group_size:
        memset(padded, 0, sizeof(padded))
        memcpy(padded, x, count * sizeof(float))
        x = padded
    if not group_scale(x, group_size, levels, scale, &inverse):
        return False
    inverse_f32x8 = _mm256_set1_ps(inverse)
    for k in range(0, group_size, 16):
        codes_i16x16 = codes_of_16(x + k, inverse_f32x8, &totals_i32x8)
        absolutes_i32x8 = _mm256_add_epi32(absolutes_i32x8, _mm256_madd_epi16(
            _mm256_abs_epi16(codes_i16x16), ones_i16x16))
        _mm256_storeu_si256(<__m256i *>(codes + k), codes_i16x16)
    absolute[0] = sum_i32x8(absolutes_i32x8)
    total[0] = sum_i32x8(totals_i32x8)
    return True


cdef inline bint quantize_group(const float *x, Py_ssize_t count, Py_ssize_t group_size,
                                int8_t *codes, Py_ssize_t planes, float levels,
                                float *scale, int32_t *total) noexcept nogil:
    # One row and kernel group of x, as binq.reference.quantize_activations.
    cdef float padded[256]
    cdef float inverse
    cdef Py_ssize_t k
    cdef __m256i codes_i16x16, high_i16x16, low_i16x16
    cdef __m256i totals_i32x8 = _mm256_setzero_si256()
    cdef __m256 inverse_f32x8
    if count < group_size:
        memset(padded, 0, sizeof(padded))
        memcpy(padded, x, count * sizeof(float))
        x = padded
    if not group_scale(x, group_size, levels, scale, &inverse):
        return False
    inverse_f32x8 = _mm256_set1_ps(inverse)
    for k in range(0, group_size, 16):
        codes_i16x16 = codes_of_16(x + k, inverse_f32x8, &totals_i32x8)
        if planes == 1:
            _mm_storeu_si128(<__m128i *>(codes + k), narrow_i16x16(codes_i16x16))
        else:
            # 32639 + 128 is the largest int16: no addition wraps.
            high_i16x16 = _mm256_srai_epi16(
                _mm256_add_epi16(codes_i16x16, _mm256_set1_epi16(128)), 8)
            low_i16x16 = _mm256_sub_epi16(codes_i16x16, _mm256_slli_epi16(high_i16x16, 8))
            _mm_storeu_si128(<__m128i *>(codes + k), narrow_i16x16(high_i16x16))
            _mm_storeu_si128(<__m128i *>(codes + group_size + k), narrow_i16x16(low_i16x16))
    total[0] = sum_i32x8(totals_i32x8)
    return True


cdef inline __m128i narrow_i16x16(__m256i a_i16x16) noexcept nogil:
    return _mm_packs_epi16(_mm256_castsi256_si128(a_i16x16), _mm256_extracti128_si256(a_i16x16, 1))


cdef inline void prepare_planes(const Weights *w, const float *x, Py_ssize_t x_stride,
                               Py_ssize_t rows, void *prepared, uint8_t *unfit,
                               Py_ssize_t row_begin, Py_ssize_t row_end,
                               Py_ssize_t planes, float levels) noexcept nogil:
    cdef int8_t *codes = <int8_t *>prepared
    cdef Py_ssize_t size = w.group_size * planes
    cdef float *scales = <float *>(codes + w.groups * rows * size)
    cdef int32_t *sums = <int32_t *>(scales + w.groups * rows)
    cdef Py_ssize_t row, group, at, count
    cdef bint fits
    for row in range(row_begin, row_end):
        fits = True
        for group in range(w.groups):
            at = group * rows + row
            count = min(w.group_size, w.in_features - group * w.group_size)
            fits &= quantize_group(x + row * x_stride + group * w.group_size, count, w.group_size,
                                   codes + at * size, planes, levels, scales + at, sums + at)
        unfit[row] = not fits
        if not fits:
            for group in range(w.groups):
                at = group * rows + row
                memset(codes + at * size, 0, size)
                scales[at] = 0.0
                sums[at] = 0


cdef void plane_prepare(const Weights *w, const float *x, Py_ssize_t x_stride, Py_ssize_t rows,
                        void *prepared, uint8_t *unfit, Py_ssize_t row_begin, Py_ssize_t row_end,
                        int mode) noexcept nogil:
    cdef float levels = SPECS[w.format].activation_levels[mode]
    if mode == ACTIVATIONS_INT8:
        prepare_planes(w, x, x_stride, rows, prepared, unfit, row_begin, row_end, 1, levels)
    else:
        prepare_planes(w, x, x_stride, rows, prepared, unfit, row_begin, row_end, 2, levels)
