# One tile (32 rows) x one kernel group, unpacked into L1 for the products of avx512_matmul.pxi.
#
# Unsigned codes u8 [k/4][32 rows][4 k], so that one dword is what vpdpbusd multiplies by four
# activations. What a code is too large by is the same for all k of a group and is taken off once,
# times the sum of the activations:
#   ternary  a + b   less 1             int4   nibble   less its zero point (8 where symmetric)

cdef inline __m512i spread_16_bytes(const uint8_t *bytes) noexcept nogil:
    # 16 bytes, one a row, each repeated in the four bytes of its row's dword.
    cdef __m512i dwords_i32x16 = _mm512_cvtepu8_epi32(_mm_loadu_si128(<const __m128i *>bytes))
    return _mm512_shuffle_epi8(dwords_i32x16, _mm512_set4_epi32(
        0x0C0C0C0C, 0x08080808, 0x04040404, 0x00000000))


cdef inline void widen_ternary(const uint8_t *packed, Py_ssize_t k8s,
                                uint8_t *codes) noexcept nogil:
    cdef Py_ssize_t k8, half, quad
    cdef __m512i first_u8x64, second_u8x64, sum_u8x64
    cdef __m512i one_u8x64 = _mm512_set1_epi8(1)
    cdef __m512i bits_u8x64[2]
    bits_u8x64[0] = _mm512_set1_epi32(0x08040201)
    bits_u8x64[1] = _mm512_set1_epi32(<int>0x80402010)
    for k8 in range(k8s):
        for half in range(2):
            first_u8x64 = spread_16_bytes(packed + k8 * 64 + half * 16)
            second_u8x64 = spread_16_bytes(packed + k8 * 64 + 32 + half * 16)
            for quad in range(2):
                sum_u8x64 = _mm512_add_epi8(
                    _mm512_maskz_mov_epi8(
                        _mm512_test_epi8_mask(first_u8x64, bits_u8x64[quad]), one_u8x64),
                    _mm512_maskz_mov_epi8(
                        _mm512_test_epi8_mask(second_u8x64, bits_u8x64[quad]), one_u8x64))
                _mm512_store_si512(codes + k8 * 256 + quad * 128 + half * 64, sum_u8x64)


cdef inline void widen_int4(const uint8_t *packed, Py_ssize_t k8s, uint8_t *codes) noexcept nogil:
    # The stored order already is [k/8][row][4]: low nibbles are one quad of k, high the next.
    cdef Py_ssize_t k8, half
    cdef __m512i bytes_u8x64
    cdef __m512i low_u8x64 = _mm512_set1_epi8(15)
    for k8 in range(k8s):
        for half in range(2):
            bytes_u8x64 = _mm512_loadu_si512(packed + k8 * 128 + half * 64)
            _mm512_store_si512(codes + k8 * 256 + half * 64,
                               _mm512_and_si512(bytes_u8x64, low_u8x64))
            _mm512_store_si512(codes + k8 * 256 + 128 + half * 64, _mm512_and_si512(
                _mm512_srli_epi16(bytes_u8x64, 4), low_u8x64))


cdef inline void widen_tile(const Weights *w, int format, Py_ssize_t tile, Py_ssize_t group,
                             uint8_t *codes) noexcept nogil:
    cdef Py_ssize_t k8s = w.group_size >> 3
    cdef Py_ssize_t first = (tile * w.groups + group) * k8s
    if format == FORMAT_TERNARY:
        widen_ternary(w.packed + first * 64, k8s, codes)
    else:
        widen_int4(w.packed + first * 128, k8s, codes)


cdef inline void load_offsets(const Weights *w, int format, Py_ssize_t tile, Py_ssize_t group,
                              __m512i *offsets_i32x16) noexcept nogil:
    # What the unsigned code of each of the 32 rows is too large by.
    cdef __m512i nibbles_i32x16
    if format != FORMAT_INT4 or w.zero_points == NULL:
        offsets_i32x16[0] = _mm512_set1_epi32(8 if format == FORMAT_INT4 else 1)
        offsets_i32x16[1] = offsets_i32x16[0]
        return
    nibbles_i32x16 = _mm512_cvtepu8_epi32(_mm_loadu_si128(<const __m128i *>(
        <const uint8_t *>w.zero_points
        + (tile * w.scale_groups + (group if w.scale_groups > 1 else 0)) * 16)))
    offsets_i32x16[0] = _mm512_and_si512(nibbles_i32x16, _mm512_set1_epi32(15))
    offsets_i32x16[1] = _mm512_srli_epi32(nibbles_i32x16, 4)


cdef inline void load_scales(const Weights *w, Py_ssize_t tile, Py_ssize_t group,
                             __m512 *scales_f32x16) noexcept nogil:
    # 32 scales of one tile and group.
    cdef Py_ssize_t start = (tile * w.scale_groups + (group if w.scale_groups > 1 else 0)) * 32
    cdef const uint16_t *halves = <const uint16_t *>w.scales + start
    if w.scales_float32:
        scales_f32x16[0] = _mm512_loadu_ps(<const float *>w.scales + start)
        scales_f32x16[1] = _mm512_loadu_ps(<const float *>w.scales + start + 16)
    else:
        scales_f32x16[0] = _mm512_cvtph_ps(_mm256_loadu_si256(<const __m256i *>halves))
        scales_f32x16[1] = _mm512_cvtph_ps(_mm256_loadu_si256(<const __m256i *>(halves + 16)))
