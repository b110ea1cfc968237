# One tile (32 rows) x one kernel group, unpacked to unsigned codes u8 [k/4][32 rows][4 k], so that
# one dword is what four activations multiply, or to words [k/4][2][32 rows][2]: k 0 and 2 of four,
# then 1 and 3, which is how two operations take bytes apart. What a code is too large by, its zero
# point or the number of levels below zero, is the same for all k of a group and is taken off once,
# times the sum of the activations. Levels that are looked up are too large by LEVEL_BIAS.

cdef inline void store_codes(uint8_t *codes, Py_ssize_t quad, Py_ssize_t r, __m256i codes_u8x32,
                             bint words) noexcept nogil:
    # 8 rows, from row 8 r on, of four k.
    if words:
        _mm256_storeu_si256(<__m256i *>(codes + quad * 256 + r * 32),
                            _mm256_and_si256(codes_u8x32, _mm256_set1_epi16(255)))
        _mm256_storeu_si256(<__m256i *>(codes + quad * 256 + 128 + r * 32),
                            _mm256_srli_epi16(codes_u8x32, 8))
    else:
        _mm256_storeu_si256(<__m256i *>(codes + quad * 128 + r * 32), codes_u8x32)


cdef inline void widen_nibbles(const uint8_t *packed, Py_ssize_t k8s, __m256i codes_u8x32,
                               uint8_t *codes, bint looked_up, bint words) noexcept nogil:
    # The stored order already is [k/8][row][4]: low nibbles are one quad of k, high the next.
    cdef Py_ssize_t k8, r
    cdef __m256i bytes_u8x32, first_u8x32, second_u8x32
    cdef __m256i low_u8x32 = _mm256_set1_epi8(15)
    for k8 in range(k8s):
        for r in range(4):
            bytes_u8x32 = _mm256_loadu_si256(<const __m256i *>(packed + k8 * 128 + r * 32))
            first_u8x32 = _mm256_and_si256(bytes_u8x32, low_u8x32)
            second_u8x32 = _mm256_and_si256(_mm256_srli_epi16(bytes_u8x32, 4), low_u8x32)
            if looked_up:
                first_u8x32 = _mm256_shuffle_epi8(codes_u8x32, first_u8x32)
                second_u8x32 = _mm256_shuffle_epi8(codes_u8x32, second_u8x32)
            store_codes(codes, 2 * k8, r, first_u8x32, words)
            store_codes(codes, 2 * k8 + 1, r, second_u8x32, words)


cdef inline __m256i biased_levels(int format) noexcept nogil:
    # The 16 levels as unsigned bytes, in both halves.
    return _mm256_xor_si256(
        _mm256_broadcastsi128_si256(_mm_loadu_si128(<const __m128i *>SPECS[format].levels)),
        _mm256_set1_epi8(<char>LEVEL_BIAS))


cdef inline __m256i plane_codes(const __m256i *planes_u8x32, __m256i bit_u8x32,
                                int layout) noexcept nogil:
    # Of each byte its own bit of all planes, as what these bits add up to: set bits are -1, or a
    # step, which costs one operation more.
    cdef __m256i codes_u8x32 = _mm256_setzero_si256()
    cdef __m256i set_i8x32
    cdef int p
    for p in range(LAYOUTS[layout].planes):
        set_i8x32 = _mm256_cmpeq_epi8(_mm256_and_si256(planes_u8x32[p], bit_u8x32), bit_u8x32)
        if plane_step(layout, p) == 1:
            codes_u8x32 = _mm256_sub_epi8(codes_u8x32, set_i8x32)
        else:
            codes_u8x32 = _mm256_add_epi8(codes_u8x32, _mm256_and_si256(
                set_i8x32, _mm256_set1_epi8(<char>plane_step(layout, p))))
    return codes_u8x32


cdef inline __m256i spread_8_bytes(const uint8_t *bytes) noexcept nogil:
    # 8 bytes, one a row, each repeated in the four bytes of its row's dword.
    cdef __m256i order_u8x32 = _mm256_setr_epi64x(
        0x0404040400000000, 0x0C0C0C0C08080808, 0x0404040400000000, 0x0C0C0C0C08080808)
    return _mm256_shuffle_epi8(
        _mm256_cvtepu8_epi32(_mm_loadl_epi64(<const __m128i *>bytes)), order_u8x32)


cdef inline void widen_planes(const uint8_t *packed, Py_ssize_t k8s, uint8_t *codes,
                              int layout, bint words) noexcept nogil:
    cdef Py_ssize_t k8, r
    cdef int p
    cdef __m256i planes_u8x32[3]
    cdef __m256i low_bits_u8x32 = _mm256_set1_epi32(0x08040201)
    cdef __m256i high_bits_u8x32 = _mm256_set1_epi32(<int>0x80402010)
    for k8 in range(k8s):
        for r in range(4):
            for p in range(LAYOUTS[layout].planes):
                planes_u8x32[p] = spread_8_bytes(
                    packed + k8 * block_bytes(layout) + p * 32 + r * 8)
            store_codes(codes, 2 * k8, r,
                        plane_codes(planes_u8x32, low_bits_u8x32, layout), words)
            store_codes(codes, 2 * k8 + 1, r,
                        plane_codes(planes_u8x32, high_bits_u8x32, layout), words)


cdef inline void widen_bytes(const uint8_t *packed, Py_ssize_t k4s, uint8_t *codes,
                             bint words) noexcept nogil:
    # Bytes are stored as codes lie here.
    cdef Py_ssize_t quad, r
    for quad in range(k4s):
        for r in range(4):
            store_codes(codes, quad, r, _mm256_loadu_si256(
                <const __m256i *>(packed + quad * 128 + r * 32)), words)


cdef inline void widen_layout(const Weights *w, const uint8_t *packed, uint8_t *codes,
                              bint words, int layout) noexcept nogil:
    if layout == NIBBLES:
        widen_nibbles(packed, w.group_size >> 3, _mm256_setzero_si256(), codes, False, words)
    elif layout == LEVELS:
        widen_nibbles(packed, w.group_size >> 3, biased_levels(w.format), codes, True, words)
    elif layout == BYTES:
        widen_bytes(packed, w.group_size >> 2, codes, words)
    else:
        widen_planes(packed, w.group_size >> 3, codes, layout, words)


cdef void widen_codes(const Weights *w, const uint8_t *packed, uint8_t *codes) noexcept nogil:
    # One group of any layout of two bits and more.
    by_codes(SPECS[w.format].layout, widen_layout, w, packed, codes, False)
