# The AVX2, FMA and F16C intrinsics that binq uses. The vector types are opaque structs to Cython,
# so that no operator compiles on them by accident.

from libc.stdint cimport int32_t, int64_t

cdef extern from "immintrin.h" nogil:
    ctypedef struct __m128:
        pass
    ctypedef struct __m128i:
        pass
    ctypedef struct __m256:
        pass
    ctypedef struct __m256i:
        pass

    __m128i _mm_loadu_si128(const __m128i *p) noexcept
    enum:
        _MM_HINT_T0
        _MM_HINT_T1
        _MM_HINT_NTA
    void _mm_prefetch(const void *p, int hint) noexcept

    __m128i _mm_loadl_epi64(const __m128i *p) noexcept
    void _mm_storeu_si128(__m128i *p, __m128i v) noexcept
    __m128i _mm_set1_epi8(char x) noexcept
    __m128i _mm_setr_epi8(char a, char b, char c, char d, char e, char f, char g, char h,
                          char i, char j, char k, char l, char m, char n, char o, char p) noexcept
    __m128i _mm_setr_epi32(int a, int b, int c, int d) noexcept
    __m128i _mm_add_epi32(__m128i a, __m128i b) noexcept
    __m128i _mm_and_si128(__m128i a, __m128i b) noexcept
    __m128i _mm_srli_epi16(__m128i a, int n) noexcept
    __m128i _mm_max_epu32(__m128i a, __m128i b) noexcept
    __m128i _mm_packs_epi16(__m128i a, __m128i b) noexcept
    __m128i _mm_unpacklo_epi16(__m128i a, __m128i b) noexcept
    __m128i _mm_unpackhi_epi16(__m128i a, __m128i b) noexcept
    __m128i _mm_unpacklo_epi32(__m128i a, __m128i b) noexcept
    __m128i _mm_unpackhi_epi32(__m128i a, __m128i b) noexcept
    __m128i _mm_shuffle_epi8(__m128i a, __m128i order) noexcept
    __m128i _mm_unpacklo_epi64(__m128i a, __m128i b) noexcept
    __m128i _mm_unpackhi_epi64(__m128i a, __m128i b) noexcept
    __m128i _mm_shuffle_epi32(__m128i a, int order) noexcept
    int _mm_cvtsi128_si32(__m128i a) noexcept

    __m256i _mm256_load_si256(const __m256i *p) noexcept
    __m256i _mm256_loadu_si256(const __m256i *p) noexcept
    void _mm256_store_si256(__m256i *p, __m256i v) noexcept
    void _mm256_storeu_si256(__m256i *p, __m256i v) noexcept
    __m256 _mm256_load_ps(const float *p) noexcept
    __m256 _mm256_loadu_ps(const float *p) noexcept
    void _mm256_store_ps(float *p, __m256 v) noexcept
    void _mm_stream_ps(float *p, __m128 v) noexcept
    void _mm_sfence() noexcept
    void _mm256_storeu_ps(float *p, __m256 v) noexcept
    __m256 _mm256_broadcast_ss(const float *p) noexcept

    __m256i _mm256_setzero_si256() noexcept
    __m256 _mm256_setzero_ps() noexcept
    __m256i _mm256_set1_epi8(char x) noexcept
    __m256i _mm256_set1_epi16(short x) noexcept
    __m256i _mm256_set1_epi32(int x) noexcept
    __m256i _mm256_set1_epi64x(int64_t x) noexcept
    __m256i _mm256_setr_epi64x(int64_t a, int64_t b, int64_t c, int64_t d) noexcept
    __m256i _mm256_setr_epi32(int a, int b, int c, int d, int e, int f, int g, int h) noexcept
    __m256 _mm256_set1_ps(float x) noexcept
    __m256i _mm256_broadcastsi128_si256(__m128i a) noexcept

    __m256i _mm256_and_si256(__m256i a, __m256i b) noexcept
    __m256i _mm256_xor_si256(__m256i a, __m256i b) noexcept
    __m256i _mm256_or_si256(__m256i a, __m256i b) noexcept
    __m256i _mm256_andnot_si256(__m256i a, __m256i b) noexcept
    __m256i _mm256_slli_epi16(__m256i a, int n) noexcept
    __m256i _mm256_srli_epi16(__m256i a, int n) noexcept
    __m256i _mm256_srai_epi16(__m256i a, int n) noexcept
    __m256i _mm256_srai_epi32(__m256i a, int n) noexcept
    __m256i _mm256_slli_epi32(__m256i a, int n) noexcept
    __m256i _mm256_srli_epi32(__m256i a, int n) noexcept
    __m256i _mm256_srli_epi64(__m256i a, int n) noexcept
    __m256i _mm256_sllv_epi32(__m256i a, __m256i n) noexcept
    __m256i _mm256_max_epi32(__m256i a, __m256i b) noexcept
    __m256i _mm256_srlv_epi32(__m256i a, __m256i n) noexcept
    __m256i _mm256_add_epi8(__m256i a, __m256i b) noexcept
    __m256i _mm256_sub_epi8(__m256i a, __m256i b) noexcept
    __m256i _mm256_add_epi16(__m256i a, __m256i b) noexcept
    __m256i _mm256_sub_epi16(__m256i a, __m256i b) noexcept
    __m256i _mm256_add_epi32(__m256i a, __m256i b) noexcept
    __m256i _mm256_sub_epi32(__m256i a, __m256i b) noexcept
    __m256i _mm256_mullo_epi32(__m256i a, __m256i b) noexcept
    __m256i _mm256_maddubs_epi16(__m256i unsigned_a, __m256i signed_b) noexcept
    __m256i _mm256_madd_epi16(__m256i a, __m256i b) noexcept
    __m256i _mm256_hadd_epi32(__m256i a, __m256i b) noexcept
    __m256i _mm256_cvtepu8_epi16(__m128i a) noexcept
    __m256i _mm256_max_epu32(__m256i a, __m256i b) noexcept
    __m256i _mm256_max_epi16(__m256i a, __m256i b) noexcept
    __m256i _mm256_abs_epi16(__m256i a) noexcept
    __m256i _mm256_cmpeq_epi8(__m256i a, __m256i b) noexcept
    __m256i _mm256_cmpgt_epi8(__m256i a, __m256i b) noexcept
    int _mm256_movemask_epi8(__m256i a) noexcept
    __m256i _mm256_shuffle_epi8(__m256i a, __m256i order) noexcept
    __m256i _mm256_sign_epi16(__m256i a, __m256i b) noexcept
    __m256i _mm256_packus_epi16(__m256i a, __m256i b) noexcept
    __m256i _mm256_unpacklo_epi16(__m256i a, __m256i b) noexcept
    __m256i _mm256_unpackhi_epi16(__m256i a, __m256i b) noexcept
    __m256i _mm256_unpacklo_epi8(__m256i a, __m256i b) noexcept
    __m256i _mm256_unpackhi_epi8(__m256i a, __m256i b) noexcept
    __m256i _mm256_permute2x128_si256(__m256i a, __m256i b, int order) noexcept
    __m256i _mm256_packs_epi32(__m256i a, __m256i b) noexcept
    __m256 _mm256_permutevar8x32_ps(__m256 a, __m256i order) noexcept
    __m256i _mm256_permutevar8x32_epi32(__m256i a, __m256i order) noexcept
    __m256i _mm256_permute4x64_epi64(__m256i a, int order) noexcept
    __m128i _mm256_castsi256_si128(__m256i a) noexcept
    __m128i _mm256_extracti128_si256(__m256i a, int half) noexcept
    __m256i _mm256_cvtepu8_epi32(__m128i a) noexcept
    __m256i _mm256_cvtepu16_epi32(__m128i a) noexcept
    __m256i _mm256_cvtepi16_epi32(__m128i a) noexcept

    __m256 _mm256_cvtph_ps(__m128i a) noexcept
    __m256 _mm256_cvtepi32_ps(__m256i a) noexcept
    __m256i _mm256_cvtps_epi32(__m256 a) noexcept
    __m256 _mm256_castsi256_ps(__m256i a) noexcept
    __m256i _mm256_castps_si256(__m256 a) noexcept
    __m128 _mm256_castps256_ps128(__m256 a) noexcept
    __m128 _mm256_extractf128_ps(__m256 a, int half) noexcept
    __m256 _mm256_add_ps(__m256 a, __m256 b) noexcept
    __m256 _mm256_sub_ps(__m256 a, __m256 b) noexcept
    __m256 _mm256_mul_ps(__m256 a, __m256 b) noexcept
    __m256 _mm256_fmadd_ps(__m256 a, __m256 b, __m256 c) noexcept
    __m256 _mm256_blendv_ps(__m256 a, __m256 b, __m256 mask) noexcept
    __m256 _mm256_unpacklo_ps(__m256 a, __m256 b) noexcept
    __m256 _mm256_unpackhi_ps(__m256 a, __m256 b) noexcept
    __m256 _mm256_shuffle_ps(__m256 a, __m256 b, int order) noexcept
    __m256 _mm256_permute2f128_ps(__m256 a, __m256 b, int order) noexcept
