# The AVX-512 intrinsics that binq uses (F, BW, VL, VNNI). The vector types are opaque structs to
# Cython, so that no operator compiles on them by accident.

from libc.stdint cimport int32_t, int64_t, uint64_t

from binq._native.x86.immintrin cimport __m128i, __m256i

cdef extern from "immintrin.h" nogil:
    ctypedef struct __m512i:
        pass
    ctypedef struct __m512:
        pass
    ctypedef uint64_t __mmask64

    __m512i _mm512_load_si512(const void *p) noexcept
    __m512i _mm512_loadu_si512(const void *p) noexcept
    void _mm512_store_si512(void *p, __m512i v) noexcept
    __m512 _mm512_loadu_ps(const float *p) noexcept
    void _mm512_storeu_ps(float *p, __m512 v) noexcept

    __m512i _mm512_set1_epi8(char x) noexcept
    __m512i _mm512_set1_epi32(int x) noexcept
    __m512i _mm512_setzero_si512() noexcept
    __m512 _mm512_set1_ps(float x) noexcept

    __m512i _mm512_castps_si512(__m512 a) noexcept
    __m512 _mm512_castsi512_ps(__m512i a) noexcept
    __m256i _mm512_castsi512_si256(__m512i a) noexcept
    __m256i _mm512_extracti64x4_epi64(__m512i a, int half) noexcept
    __m512i _mm512_cvtepi16_epi32(__m256i a) noexcept
    __m512i _mm512_add_epi16(__m512i a, __m512i b) noexcept
    __m512i _mm512_sub_epi16(__m512i a, __m512i b) noexcept
    __m512 _mm512_sub_ps(__m512 a, __m512 b) noexcept
    __m512 _mm512_fmadd_ps(__m512 a, __m512 b, __m512 c) noexcept
    __m512i _mm512_and_si512(__m512i a, __m512i b) noexcept
    __m512i _mm512_srli_epi32(__m512i a, unsigned int n) noexcept
    __m512i _mm512_slli_epi32(__m512i a, unsigned int n) noexcept
    __m512i _mm512_srli_epi16(__m512i a, unsigned int n) noexcept
    __m512i _mm512_shuffle_epi8(__m512i a, __m512i order) noexcept
    __m512i _mm512_cvtepu8_epi32(__m128i a) noexcept
    __m512i _mm512_cvtepu16_epi32(__m256i a) noexcept
    __m512 _mm512_setzero_ps() noexcept
    __m512 _mm512_permutexvar_ps(__m512i order, __m512 a) noexcept
    __m512i _mm512_broadcast_i32x4(__m128i a) noexcept
    __m512i _mm512_min_epu8(__m512i a, __m512i b) noexcept
    __m512i _mm512_xor_si512(__m512i a, __m512i b) noexcept
    __m512i _mm512_setr_epi32(int a, int b, int c, int d, int e, int f, int g, int h,
                              int i, int j, int k, int l, int m, int n, int o, int p) noexcept
    __m512i _mm512_add_epi8(__m512i a, __m512i b) noexcept
    __m512i _mm512_add_epi32(__m512i a, __m512i b) noexcept
    __m512i _mm512_sub_epi32(__m512i a, __m512i b) noexcept
    __m512i _mm512_mullo_epi32(__m512i a, __m512i b) noexcept
    __m512i _mm512_dpbusd_epi32(__m512i acc, __m512i unsigned_a, __m512i signed_b) noexcept

    __m512 _mm512_cvtph_ps(__m256i a) noexcept
    __m512 _mm512_cvtepi32_ps(__m512i a) noexcept
    __m512 _mm512_mul_ps(__m512 a, __m512 b) noexcept
    __m512 _mm512_add_ps(__m512 a, __m512 b) noexcept
