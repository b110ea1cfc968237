# One tile (32 rows) x one kernel group, unpacked to unsigned codes u8 [k/4][32 rows][4 k], so that
# one dword is what four activations multiply. What a code is too large by is the same for all k of
# a group and is taken off once, times the sum of the activations:
#   ternary  a + b      less 1
#   int4     nibble     less its zero point (8 where symmetric)

cdef inline __m256i spread_bytes(const uint8_t *bytes) noexcept nogil:
    # 8 bytes, one a row, each repeated in the four bytes of its row's dword.
    cdef int64_t eight
    memcpy(&eight, bytes, 8)
    return _mm256_shuffle_epi8(_mm256_set1_epi64x(eight), _mm256_setr_epi64x(
        0x0101010100000000, 0x0303030302020202, 0x0505050504040404, 0x0707070706060606))


cdef inline __m256i set_bits(__m256i bytes_u8x32, __m256i bits_u8x32) noexcept nogil:
    # -1 where the byte has its bit, else 0.
    return _mm256_cmpeq_epi8(_mm256_and_si256(bytes_u8x32, bits_u8x32), bits_u8x32)


cdef inline void widen_ternary(const uint8_t *packed, Py_ssize_t k8s,
                               uint8_t *codes) noexcept nogil:
    cdef Py_ssize_t k8, r
    cdef __m256i first_u8x32, second_u8x32
    cdef __m256i zero_u8x32 = _mm256_setzero_si256()
    cdef __m256i low_u8x32 = _mm256_set1_epi32(0x08040201)
    cdef __m256i high_u8x32 = _mm256_set1_epi32(<int>0x80402010)
    for k8 in range(k8s):
        for r in range(4):
            first_u8x32 = spread_bytes(packed + k8 * 64 + r * 8)
            second_u8x32 = spread_bytes(packed + k8 * 64 + 32 + r * 8)
            _mm256_storeu_si256(<__m256i *>(codes + k8 * 256 + r * 32), _mm256_sub_epi8(
                zero_u8x32, _mm256_add_epi8(set_bits(first_u8x32, low_u8x32),
                                            set_bits(second_u8x32, low_u8x32))))
            _mm256_storeu_si256(<__m256i *>(codes + k8 * 256 + 128 + r * 32), _mm256_sub_epi8(
                zero_u8x32, _mm256_add_epi8(set_bits(first_u8x32, high_u8x32),
                                            set_bits(second_u8x32, high_u8x32))))


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


cdef inline void widen_tile(const Weights *w, int format, Py_ssize_t tile, Py_ssize_t group,
                            uint8_t *codes) noexcept nogil:
    cdef Py_ssize_t k8s = w.group_size >> 3
    cdef Py_ssize_t first = (tile * w.groups + group) * k8s
    if format == FORMAT_TERNARY:
        widen_ternary(w.packed + first * 64, k8s, codes)
    else:
        widen_int4(w.packed + first * 128, k8s, codes)
