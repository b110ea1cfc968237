# int8 with float32 activations: bytes become floats as they are read, in L1 for many rows of x
# (float_block of avx2_int4_float.pxi), in registers for up to 3.

cdef enum:
    FLOAT_AHEAD = 1024        # bytes of weights that are prefetched


cdef inline __m256 float_of_code(__m256i dwords_i32x8, int j, __m256i zero_i32x8) noexcept nogil:
    # Unsigned byte j of each dword, less what it is too large by.
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(
        _mm256_and_si256(_mm256_srli_epi32(dwords_i32x8, 8 * j), _mm256_set1_epi32(255)),
        zero_i32x8))


cdef inline void float_bytes(const uint8_t *packed, Py_ssize_t k4s, const __m256i *zeros_i32x8,
                             float *codes) noexcept nogil:
    # Byte j of the dword of a row is k + j.
    cdef Py_ssize_t k4
    cdef int r, j
    cdef __m256i dwords_i32x8
    for k4 in range(k4s):
        for r in range(4):
            dwords_i32x8 = _mm256_loadu_si256(<const __m256i *>(packed + k4 * 128 + r * 32))
            for j in range(4):
                _mm256_storeu_ps(codes + (k4 * 4 + j) * 32 + r * 8,
                                 float_of_code(dwords_i32x8, j, zeros_i32x8[r]))


cdef inline void float_few_bytes(const uint8_t *packed, const float *x, Py_ssize_t group_size,
                                 const TileScales *t, float *y, int rows) noexcept nogil:
    # float_few of bytes.
    cdef __m256 sums_f32x8[12]
    cdef __m256i dwords_i32x8[4]
    cdef __m256 code_f32x8
    cdef Py_ssize_t k4
    cdef int r, n, j
    for n in range(4 * rows):
        sums_f32x8[n] = _mm256_setzero_ps()
    for k4 in range(group_size >> 2):
        _mm_prefetch(<const char *>packed + k4 * 128 + FLOAT_AHEAD, _MM_HINT_T0)
        _mm_prefetch(<const char *>packed + k4 * 128 + FLOAT_AHEAD + 64, _MM_HINT_T0)
        for r in range(4):
            dwords_i32x8[r] = _mm256_loadu_si256(<const __m256i *>(packed + k4 * 128 + r * 32))
        for j in range(4):
            for r in range(4):
                code_f32x8 = float_of_code(dwords_i32x8[r], j, t.zeros_i32x8[r])
                for n in range(rows):
                    sums_f32x8[4 * n + r] = _mm256_fmadd_ps(
                        code_f32x8, _mm256_broadcast_ss(x + n * group_size + k4 * 4 + j),
                        sums_f32x8[4 * n + r])
    for n in range(rows):
        for r in range(4):
            _mm256_storeu_ps(y + n * 32 + r * 8, _mm256_fmadd_ps(
                sums_f32x8[4 * n + r], t.scales_f32x8[r], _mm256_loadu_ps(y + n * 32 + r * 8)))


# Functions of their own, called by name: inlined side by side, GCC keeps sums in memory.

cdef void float_bytes_1(const uint8_t *packed, const float *x, Py_ssize_t group_size,
                        const TileScales *t, float *y) noexcept nogil:
    float_few_bytes(packed, x, group_size, t, y, 1)


cdef void float_bytes_2(const uint8_t *packed, const float *x, Py_ssize_t group_size,
                        const TileScales *t, float *y) noexcept nogil:
    float_few_bytes(packed, x, group_size, t, y, 2)


cdef void float_bytes_3(const uint8_t *packed, const float *x, Py_ssize_t group_size,
                        const TileScales *t, float *y) noexcept nogil:
    float_few_bytes(packed, x, group_size, t, y, 3)


ctypedef void (*FloatBytesLoop)(const uint8_t *packed, const float *x, Py_ssize_t group_size,
                                const TileScales *t, float *y) noexcept nogil
cdef FloatBytesLoop FLOAT_BYTES_LOOPS[4]
FLOAT_BYTES_LOOPS[1] = float_bytes_1
FLOAT_BYTES_LOOPS[2] = float_bytes_2
FLOAT_BYTES_LOOPS[3] = float_bytes_3
