/* Vectors of float32 and float64 of the width that the module is compiled for, for loops that
 * compilers do not turn into vectors themselves. Every operation is exact or
 * rounded as a single number's would be, so that no result depends on the width. */
#ifndef BINQ_LANES_H
#define BINQ_LANES_H

/* Adding and taking away 1.5 * 2^52 rounds a small number to an integer, halves to even. */
#define BINQ_ROUNDER 6755399441055744.0
#define BINQ_FLOAT_ROUNDER 12582912.0f

#if defined(__AVX__)
#include <immintrin.h>
enum { BINQ_FLOATS = 8, BINQ_DOUBLES = 4 };
typedef __m256 binq_floats;
typedef __m256d binq_doubles;
#define binq_load_floats(p) _mm256_loadu_ps(p)
#define binq_store_floats(p, a) _mm256_storeu_ps(p, a)
#define binq_min_floats(a, b) _mm256_min_ps(a, b)
#define binq_max_floats(a, b) _mm256_max_ps(a, b)
#define binq_sub_floats(a, b) _mm256_sub_ps(a, b)
#define binq_add_floats(a, b) _mm256_add_ps(a, b)
#define binq_mul_floats(a, b) _mm256_mul_ps(a, b)
#define binq_splat_float(x) _mm256_set1_ps(x)
#define binq_abs_floats(a) _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a)
#define binq_round_floats(a) _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
#define binq_one_where_greater(a, b) \
    _mm256_and_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ), _mm256_set1_ps(1.0f))
#define binq_load(p) _mm256_loadu_pd(p)
#define binq_store(p, a) _mm256_storeu_pd(p, a)
#define binq_widen(p) _mm256_cvtps_pd(_mm_loadu_ps(p))
#define binq_splat(x) _mm256_set1_pd(x)
#define binq_add(a, b) _mm256_add_pd(a, b)
#define binq_sub(a, b) _mm256_sub_pd(a, b)
#define binq_mul(a, b) _mm256_mul_pd(a, b)
#define binq_div(a, b) _mm256_div_pd(a, b)
#define binq_min(a, b) _mm256_min_pd(a, b)
#define binq_max(a, b) _mm256_max_pd(a, b)
#define binq_round(a) _mm256_round_pd(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
#define binq_greater(a, b) _mm256_cmp_pd(a, b, _CMP_GT_OQ)
#define binq_blend(mask, a, b) _mm256_blendv_pd(b, a, mask)

#elif defined(__SSE2__) || defined(_M_X64)
#include <emmintrin.h>
enum { BINQ_FLOATS = 4, BINQ_DOUBLES = 2 };
typedef __m128 binq_floats;
typedef __m128d binq_doubles;
#define binq_load_floats(p) _mm_loadu_ps(p)
#define binq_store_floats(p, a) _mm_storeu_ps(p, a)
#define binq_min_floats(a, b) _mm_min_ps(a, b)
#define binq_max_floats(a, b) _mm_max_ps(a, b)
#define binq_sub_floats(a, b) _mm_sub_ps(a, b)
#define binq_add_floats(a, b) _mm_add_ps(a, b)
#define binq_mul_floats(a, b) _mm_mul_ps(a, b)
#define binq_splat_float(x) _mm_set1_ps(x)
#define binq_abs_floats(a) _mm_andnot_ps(_mm_set1_ps(-0.0f), a)
#define binq_round_floats(a) \
    binq_sub_floats(binq_add_floats(a, binq_splat_float(BINQ_FLOAT_ROUNDER)), \
                    binq_splat_float(BINQ_FLOAT_ROUNDER))
#define binq_one_where_greater(a, b) _mm_and_ps(_mm_cmpgt_ps(a, b), _mm_set1_ps(1.0f))
#define binq_load(p) _mm_loadu_pd(p)
#define binq_store(p, a) _mm_storeu_pd(p, a)
#define binq_widen(p) _mm_cvtps_pd(_mm_castpd_ps(_mm_load_sd((const double *)(const void *)(p))))
#define binq_splat(x) _mm_set1_pd(x)
#define binq_add(a, b) _mm_add_pd(a, b)
#define binq_sub(a, b) _mm_sub_pd(a, b)
#define binq_mul(a, b) _mm_mul_pd(a, b)
#define binq_div(a, b) _mm_div_pd(a, b)
#define binq_min(a, b) _mm_min_pd(a, b)
#define binq_max(a, b) _mm_max_pd(a, b)
#define binq_round(a) binq_sub(binq_add(a, binq_splat(BINQ_ROUNDER)), binq_splat(BINQ_ROUNDER))
#define binq_greater(a, b) _mm_cmpgt_pd(a, b)
#define binq_blend(mask, a, b) _mm_or_pd(_mm_and_pd(mask, a), _mm_andnot_pd(mask, b))

#elif defined(__aarch64__) || defined(_M_ARM64)
#include <arm_neon.h>
enum { BINQ_FLOATS = 4, BINQ_DOUBLES = 2 };
typedef float32x4_t binq_floats;
typedef float64x2_t binq_doubles;
#define binq_load_floats(p) vld1q_f32(p)
#define binq_store_floats(p, a) vst1q_f32(p, a)
#define binq_min_floats(a, b) vminq_f32(a, b)
#define binq_max_floats(a, b) vmaxq_f32(a, b)
#define binq_sub_floats(a, b) vsubq_f32(a, b)
#define binq_add_floats(a, b) vaddq_f32(a, b)
#define binq_mul_floats(a, b) vmulq_f32(a, b)
#define binq_splat_float(x) vdupq_n_f32(x)
#define binq_abs_floats(a) vabsq_f32(a)
#define binq_round_floats(a) vrndnq_f32(a)
#define binq_one_where_greater(a, b) \
    vbslq_f32(vcgtq_f32(a, b), vdupq_n_f32(1.0f), vdupq_n_f32(0.0f))
#define binq_load(p) vld1q_f64(p)
#define binq_store(p, a) vst1q_f64(p, a)
#define binq_widen(p) vcvt_f64_f32(vld1_f32(p))
#define binq_splat(x) vdupq_n_f64(x)
#define binq_add(a, b) vaddq_f64(a, b)
#define binq_sub(a, b) vsubq_f64(a, b)
#define binq_mul(a, b) vmulq_f64(a, b)
#define binq_div(a, b) vdivq_f64(a, b)
#define binq_min(a, b) vminq_f64(a, b)
#define binq_max(a, b) vmaxq_f64(a, b)
#define binq_round(a) vrndnq_f64(a)
/* The mask stays in a float64 vector, as on x86. */
#define binq_greater(a, b) vreinterpretq_f64_u64(vcgtq_f64(a, b))
#define binq_blend(mask, a, b) vbslq_f64(vreinterpretq_u64_f64(mask), a, b)

#else
enum { BINQ_FLOATS = 1, BINQ_DOUBLES = 1 };
typedef float binq_floats;
typedef double binq_doubles;
#define binq_load_floats(p) (*(p))
#define binq_store_floats(p, a) (*(p) = (a))
#define binq_min_floats(a, b) ((a) < (b) ? (a) : (b))
#define binq_max_floats(a, b) ((a) < (b) ? (b) : (a))
#define binq_sub_floats(a, b) ((a) - (b))
#define binq_add_floats(a, b) ((a) + (b))
#define binq_mul_floats(a, b) ((a) * (b))
#define binq_splat_float(x) (x)
#define binq_abs_floats(a) ((a) < 0 ? -(a) : (a))
#define binq_round_floats(a) (((a) + BINQ_FLOAT_ROUNDER) - BINQ_FLOAT_ROUNDER)
#define binq_one_where_greater(a, b) ((float)((a) > (b)))
#define binq_load(p) (*(p))
#define binq_store(p, a) (*(p) = (a))
#define binq_widen(p) ((double)*(p))
#define binq_splat(x) (x)
#define binq_add(a, b) ((a) + (b))
#define binq_sub(a, b) ((a) - (b))
#define binq_mul(a, b) ((a) * (b))
#define binq_div(a, b) ((a) / (b))
#define binq_min(a, b) ((a) < (b) ? (a) : (b))
#define binq_max(a, b) ((a) < (b) ? (b) : (a))
#define binq_round(a) (((a) + BINQ_ROUNDER) - BINQ_ROUNDER)
#define binq_greater(a, b) ((double)((a) > (b)))
#define binq_blend(mask, a, b) ((mask) != 0.0 ? (a) : (b))
#endif

/* sum + a * a, sum + a * b where float64 holds the product exactly: one rounding either way. */
#if defined(__AVX__) && defined(__FMA__)
#define binq_add_square(sum, a) _mm256_fmadd_pd(a, a, sum)
#define binq_add_product(sum, a, b) _mm256_fmadd_pd(a, b, sum)
#elif defined(__aarch64__) || defined(_M_ARM64)
#define binq_add_square(sum, a) vfmaq_f64(sum, a, a)
#define binq_add_product(sum, a, b) vfmaq_f64(sum, a, b)
#else
#define binq_add_square(sum, a) binq_add(sum, binq_mul(a, a))
#define binq_add_product(sum, a, b) binq_add(sum, binq_mul(a, b))
#endif

/* sum + a * b with one rounding or with two: for bounds alone, which hold either way. */
#if defined(__AVX__) && defined(__FMA__)
#define binq_about_add_product(sum, a, b) _mm256_fmadd_ps(a, b, sum)
#elif defined(__aarch64__) || defined(_M_ARM64)
#define binq_about_add_product(sum, a, b) vfmaq_f32(sum, a, b)
#else
#define binq_about_add_product(sum, a, b) binq_add_floats(sum, binq_mul_floats(a, b))
#endif

/* A bit for each lane in which two vectors differ. */
static inline unsigned binq_differing(binq_floats a, binq_floats b) {
#if defined(__AVX__)
    return (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_NEQ_OQ));
#elif defined(__SSE2__) || defined(_M_X64)
    return (unsigned)_mm_movemask_ps(_mm_cmpneq_ps(a, b));
#elif defined(__aarch64__) || defined(_M_ARM64)
    static const uint32_t bits[4] = {1, 2, 4, 8};
    return vaddvq_u32(vbicq_u32(vld1q_u32(bits), vceqq_f32(a, b)));
#else
    return a != b;
#endif
}

/* The totals of eight times eight numbers, all parts of one after the other, in any order. */
static inline void binq_eight_totals(const binq_floats *sums, float *totals) {
#if defined(__AVX__)
    __m256 low = _mm256_hadd_ps(
        _mm256_hadd_ps(sums[0], sums[1]), _mm256_hadd_ps(sums[2], sums[3]));
    __m256 high = _mm256_hadd_ps(
        _mm256_hadd_ps(sums[4], sums[5]), _mm256_hadd_ps(sums[6], sums[7]));
    _mm256_storeu_ps(totals, _mm256_add_ps(_mm256_permute2f128_ps(low, high, 0x20),
                                           _mm256_permute2f128_ps(low, high, 0x31)));
#else
    float lanes[64];
    int i;
    for (i = 0; i < 64 / BINQ_FLOATS; i++) binq_store_floats(lanes + i * BINQ_FLOATS, sums[i]);
    for (i = 0; i < 8; i++) {
        const float *s = lanes + 8 * i;
        totals[i] = ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
    }
#endif
}

/* The number of the lowest bit that is set; there is one. */
static inline int binq_lowest_bit(unsigned bits) {
#if defined(__GNUC__) || defined(__clang__)
    return __builtin_ctz(bits);
#else
    int i = 0;
    while (!(bits >> i & 1)) i++;
    return i;
#endif
}

/* Memory that is soon read. */
#if defined(__GNUC__) || defined(__clang__)
#define binq_prefetch(p) __builtin_prefetch(p, 0, 2)
#else
#define binq_prefetch(p) ((void)0)
#endif

/* Eight float16 as float32. */
#if defined(__AVX__) && defined(__F16C__)
#define BINQ_WIDENS_HALVES 1
#define binq_widen_halves(p, out) \
    _mm256_storeu_ps(out, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(p))))
#elif defined(__aarch64__) || defined(_M_ARM64)
#define BINQ_WIDENS_HALVES 1
#define binq_widen_halves(p, out) \
    (vst1q_f32(out, vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)))), \
     vst1q_f32((out) + 4, vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16((p) + 4)))))
#else
#define BINQ_WIDENS_HALVES 0
#define binq_widen_halves(p, out) ((void)0)
#endif

/* Eight bfloat16 as float32. */
#if defined(__AVX2__)
#define BINQ_WIDENS_BFLOATS 1
#define binq_widen_bfloats(p, out)                                              \
    _mm256_storeu_ps(out, _mm256_castsi256_ps(_mm256_slli_epi32(                \
                              _mm256_cvtepu16_epi32(                            \
                                  _mm_loadu_si128((const __m128i *)(const void *)(p))), \
                              16)))
#else
#define BINQ_WIDENS_BFLOATS 0
#define binq_widen_bfloats(p, out) ((void)0)
#endif

/* table[at] of each lane, whose numbers are whole. */
static inline binq_doubles binq_lookup(const double *table, binq_doubles at) {
#if defined(__AVX2__)
    return _mm256_i32gather_pd(table, _mm256_cvtpd_epi32(at), 8);
#else
    double lanes[BINQ_DOUBLES];
    int i;
    binq_store(lanes, at);
    for (i = 0; i < BINQ_DOUBLES; i++) lanes[i] = table[(int)lanes[i]];
    return binq_load(lanes);
#endif
}

enum { BINQ_PARTS = 8 / BINQ_DOUBLES };      /* vectors that hold 8 float64 */
enum { BINQ_SIXTEENTHS = 16 / BINQ_FLOATS }; /* vectors that hold 16 float32 */

#endif
