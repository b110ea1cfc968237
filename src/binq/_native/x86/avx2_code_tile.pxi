# One tile (32 rows) x one kernel group, unpacked to unsigned codes u8 [k/4][32 rows][4 k], so that
# one dword is what four activations multiply. What a code is too large by, its zero point or the
# number of levels below zero, is the same for all k of a group and is taken off once, times the
# sum of the activations.

cdef inline void widen_int4(const uint8_t *packed, Py_ssize_t k8s, uint8_t *codes) noexcept nogil:
    # The stored order already is [k/8][row][4]: low nibbles are one quad of k, high the next.
    cdef Py_ssize_t k8, r
    cdef __m256i bytes_u8x32
    cdef __m256i low_u8x32 = _mm256_set1_epi8(15)
    for k8 in range(k8s):
        for r in range(4):
            bytes_u8x32 = _mm256_loadu_si256(<const __m256i *>(packed + k8 * 128 + r * 32))
            _mm256_storeu_si256(<__m256i *>(codes + k8 * 256 + r * 32),
                                _mm256_and_si256(bytes_u8x32, low_u8x32))
            _mm256_storeu_si256(<__m256i *>(codes + k8 * 256 + 128 + r * 32), _mm256_and_si256(
                _mm256_srli_epi16(bytes_u8x32, 4), low_u8x32))


cdef inline __m256i plane_codes(__m256i first_u8x32, __m256i second_u8x32, __m256i bit_u8x32,
                                int weight) noexcept nogil:
    # Of each byte its own bit of both planes: first + weight * second. Set bits are -1.
    cdef __m256i ones_i8x32 = _mm256_cmpeq_epi8(
        _mm256_and_si256(first_u8x32, bit_u8x32), bit_u8x32)
    cdef __m256i twos_i8x32 = _mm256_cmpeq_epi8(
        _mm256_and_si256(second_u8x32, bit_u8x32), bit_u8x32)
    if weight == 2:
        twos_i8x32 = _mm256_add_epi8(twos_i8x32, twos_i8x32)
    return _mm256_sub_epi8(_mm256_setzero_si256(), _mm256_add_epi8(ones_i8x32, twos_i8x32))


cdef inline __m256i spread_8_bytes(const uint8_t *bytes) noexcept nogil:
    # 8 bytes, one a row, each repeated in the four bytes of its row's dword.
    cdef __m256i order_u8x32 = _mm256_setr_epi64x(
        0x0404040400000000, 0x0C0C0C0C08080808, 0x0404040400000000, 0x0C0C0C0C08080808)
    return _mm256_shuffle_epi8(
        _mm256_cvtepu8_epi32(_mm_loadl_epi64(<const __m128i *>bytes)), order_u8x32)


cdef inline void widen_planes(const uint8_t *packed, Py_ssize_t k8s, int format,
                              uint8_t *codes) noexcept nogil:
    # Two planes: ternary, whose second bit counts as the first, and int2, where it counts twice.
    cdef int weight = SPECS[format].levels[2] - SPECS[format].levels[0]
    cdef Py_ssize_t k8, r
    cdef __m256i first_u8x32, second_u8x32
    cdef __m256i low_bits_u8x32 = _mm256_set1_epi32(0x08040201)
    cdef __m256i high_bits_u8x32 = _mm256_set1_epi32(<int>0x80402010)
    for k8 in range(k8s):
        for r in range(4):
            first_u8x32 = spread_8_bytes(packed + k8 * 64 + r * 8)
            second_u8x32 = spread_8_bytes(packed + k8 * 64 + 32 + r * 8)
            _mm256_storeu_si256(<__m256i *>(codes + k8 * 256 + r * 32),
                                plane_codes(first_u8x32, second_u8x32, low_bits_u8x32, weight))
            _mm256_storeu_si256(<__m256i *>(codes + k8 * 256 + 128 + r * 32),
                                plane_codes(first_u8x32, second_u8x32, high_bits_u8x32, weight))
