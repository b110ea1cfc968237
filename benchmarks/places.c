/* One row of int8 activations by int4 weights in tiles of 32 rows, as binq stores them, read from so
 * many places side by side and asked for so far ahead; places.py compiles and calls it. */
#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { GROUP = 128, GROUP_BYTES = 2048, TILE_ROWS = 32 };
enum { ASK_NOT, ASK_L1, ASK_L2, ASK_PAST_L2 };

#define INLINE static inline __attribute__((always_inline))

INLINE void ask(const uint8_t *at, int level)
{
    if (level == ASK_L1)
        _mm_prefetch((const char *)at, _MM_HINT_T0);
    if (level == ASK_L2)
        _mm_prefetch((const char *)at, _MM_HINT_T1);
    if (level == ASK_PAST_L2)
        _mm_prefetch((const char *)at, _MM_HINT_NTA);
}

/* sum += codes of 8 rows, 8 k each, by x: unsigned by signed bytes, pairs in int16. */
INLINE __m256i add_products(__m256i sum, const uint8_t *weights, __m256i low_x, __m256i high_x)
{
    const __m256i mask = _mm256_set1_epi8(15);
    __m256i bytes = _mm256_loadu_si256((const __m256i *)weights);
    __m256i high = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), mask);
    sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(_mm256_and_si256(bytes, mask), low_x));
    return _mm256_add_epi16(sum, _mm256_maddubs_epi16(high, high_x));
}

INLINE __m256i four(const int8_t *x)
{
    int32_t bytes;
    memcpy(&bytes, x, 4);
    return _mm256_set1_epi32(bytes);
}

/* One group of one tile, added to y [32]. */
INLINE void add_group(const uint8_t *weights, const int8_t *x, float scale, float *y, ptrdiff_t ahead,
                      int level)
{
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
    for (int begin = 0; begin < GROUP; begin += 32) {
        __m256i p = _mm256_setzero_si256(), q = p, r = p, s = p;
        for (int k = 0; k < 4; k++) {
            __m256i low_x = four(x), high_x = four(x + 4);
            ask(weights + ahead, level);
            ask(weights + ahead + 64, level);
            p = add_products(p, weights, low_x, high_x);
            q = add_products(q, weights + 32, low_x, high_x);
            r = add_products(r, weights + 64, low_x, high_x);
            s = add_products(s, weights + 96, low_x, high_x);
            weights += 128;
            x += 8;
        }
        a = _mm256_add_epi32(a, _mm256_madd_epi16(p, ones));
        b = _mm256_add_epi32(b, _mm256_madd_epi16(q, ones));
        c = _mm256_add_epi32(c, _mm256_madd_epi16(r, ones));
        d = _mm256_add_epi32(d, _mm256_madd_epi16(s, ones));
    }
    const __m256 factor = _mm256_set1_ps(scale);
    const __m256i sums[4] = {a, b, c, d};
    for (int i = 0; i < 4; i++)
        _mm256_storeu_ps(y + 8 * i, _mm256_add_ps(_mm256_loadu_ps(y + 8 * i),
                                                  _mm256_mul_ps(_mm256_cvtepi32_ps(sums[i]), factor)));
}

INLINE void multiply_at(const uint8_t *weights, const int8_t *x, float *y, ptrdiff_t tiles,
                        ptrdiff_t groups, ptrdiff_t places, ptrdiff_t ahead, int level)
{
    const ptrdiff_t apart = tiles / places;
    memset(y, 0, (size_t)tiles * TILE_ROWS * sizeof(float));
    for (ptrdiff_t first = 0; first < apart; first++)
        for (ptrdiff_t group = 0; group < groups; group++)
            for (ptrdiff_t tile = first; tile < tiles; tile += apart)
                add_group(weights + (tile * groups + group) * GROUP_BYTES, x + group * GROUP, 0.01f,
                          y + tile * TILE_ROWS, ahead, level);
}

/* `tiles` is a multiple of `places`. */
void multiply(const uint8_t *weights, const int8_t *x, float *y, ptrdiff_t tiles, ptrdiff_t groups,
              ptrdiff_t places, ptrdiff_t ahead, int level)
{
    if (level == ASK_NOT)
        multiply_at(weights, x, y, tiles, groups, places, ahead, ASK_NOT);
    else if (level == ASK_L1)
        multiply_at(weights, x, y, tiles, groups, places, ahead, ASK_L1);
    else if (level == ASK_L2)
        multiply_at(weights, x, y, tiles, groups, places, ahead, ASK_L2);
    else
        multiply_at(weights, x, y, tiles, groups, places, ahead, ASK_PAST_L2);
}
