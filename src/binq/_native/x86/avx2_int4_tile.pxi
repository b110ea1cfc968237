# One tile (32 rows) x one kernel group of int4, unpacked to unsigned codes u8 [k/4][32 rows][4 k], so
# that one dword is what four activations multiply. What a code is too large by, its zero point or 8,
# is the same for all k of a group and is taken off once, times the sum of the activations.

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
