/* What compilers do number by number where 8 rows lie side by side: squares of 8 x 8 float32 turned
 * and packed, sums of magnitudes. */
#ifndef BINQ_EIGHT_ROWS_H
#define BINQ_EIGHT_ROWS_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

/* Inlined by force, as setup.py has it: what is constant for a loop is then constant in it. */
#if !defined(CYTHON_INLINE)
#define CYTHON_INLINE inline
#endif

/* out[8 j + row] = rows[8 row + j]; largest[row] becomes the bits of the largest magnitude of a
 * row, or stays. */
static CYTHON_INLINE void binq_turn(const float *rows, float *out, uint32_t *largest) {
#if defined(__AVX2__)
    const __m256i magnitude_i32x8 = _mm256_set1_epi32(0x7FFFFFFF);
    __m256i largest_u32x8 = _mm256_loadu_si256((const __m256i *)(const void *)largest);
    __m256 a_f32x8[8], b_f32x8[8];
    int i;
    for (i = 0; i < 8; i++) a_f32x8[i] = _mm256_loadu_ps(rows + 8 * i);
    for (i = 0; i < 8; i += 2) {
        b_f32x8[i] = _mm256_unpacklo_ps(a_f32x8[i], a_f32x8[i + 1]);
        b_f32x8[i + 1] = _mm256_unpackhi_ps(a_f32x8[i], a_f32x8[i + 1]);
    }
    for (i = 0; i < 8; i += 4) {
        a_f32x8[i] = _mm256_shuffle_ps(b_f32x8[i], b_f32x8[i + 2], 0x44);
        a_f32x8[i + 1] = _mm256_shuffle_ps(b_f32x8[i], b_f32x8[i + 2], 0xEE);
        a_f32x8[i + 2] = _mm256_shuffle_ps(b_f32x8[i + 1], b_f32x8[i + 3], 0x44);
        a_f32x8[i + 3] = _mm256_shuffle_ps(b_f32x8[i + 1], b_f32x8[i + 3], 0xEE);
    }
    for (i = 0; i < 4; i++) {
        b_f32x8[i] = _mm256_permute2f128_ps(a_f32x8[i], a_f32x8[i + 4], 0x20);
        b_f32x8[i + 4] = _mm256_permute2f128_ps(a_f32x8[i], a_f32x8[i + 4], 0x31);
    }
    for (i = 0; i < 8; i++) {
        _mm256_storeu_ps(out + 8 * i, b_f32x8[i]);
        largest_u32x8 = _mm256_max_epu32(
            largest_u32x8, _mm256_and_si256(_mm256_castps_si256(b_f32x8[i]), magnitude_i32x8));
    }
    _mm256_storeu_si256((__m256i *)(void *)largest, largest_u32x8);
#else
    int i, j;
    for (j = 0; j < 8; j++)
        for (i = 0; i < 8; i++) out[8 * j + i] = rows[8 * i + j];
    for (j = 0; j < 8; j++)
        for (i = 0; i < 8; i++) {
            uint32_t bits;
            memcpy(&bits, out + 8 * j + i, 4);
            bits &= 0x7FFFFFFF;
            largest[i] = bits > largest[i] ? bits : largest[i];
        }
#endif
}

/* How the codes of 8 rows are made: (value - offset) / divisor, held between low and high, rounded
 * and added to zero. */
typedef struct {
    float offsets[8], divisors[8], low[8], high[8];
    uint32_t zeros[8];
} binq_steps;

/* The code of one weight. Adding 1.5 * 2^23 to a float32 leaves its rounded value in the low
 * bits. */
static CYTHON_INLINE uint32_t binq_code(float x, const binq_steps *s, int has_offsets, int row) {
    uint32_t bits;
    if (has_offsets) x = x - s->offsets[row];
    x = x / s->divisors[row];
    x = x > s->low[row] ? x : s->low[row];
    x = x < s->high[row] ? x : s->high[row];
    x = x + 12582912.0f;
    memcpy(&bits, &x, 4);
    return bits - 0x4B400000u + s->zeros[row];
}

#if defined(__AVX2__)
static CYTHON_INLINE __m256i binq_codes(const float *values, const binq_steps *s, int has_offsets) {
    const __m256i zeros_i32x8 = _mm256_sub_epi32(
        _mm256_loadu_si256((const __m256i *)(const void *)s->zeros), _mm256_set1_epi32(0x4B400000));
    __m256 x_f32x8 = _mm256_loadu_ps(values);
    if (has_offsets) x_f32x8 = _mm256_sub_ps(x_f32x8, _mm256_loadu_ps(s->offsets));
    x_f32x8 = _mm256_div_ps(x_f32x8, _mm256_loadu_ps(s->divisors));
    x_f32x8 = _mm256_max_ps(x_f32x8, _mm256_loadu_ps(s->low));
    x_f32x8 = _mm256_min_ps(x_f32x8, _mm256_loadu_ps(s->high));
    x_f32x8 = _mm256_add_ps(x_f32x8, _mm256_set1_ps(12582912.0f));
    return _mm256_add_epi32(_mm256_castps_si256(x_f32x8), zeros_i32x8);
}

/* Byte p of each of 8 words to target + 32 p. */
static CYTHON_INLINE void binq_store_bytes(uint8_t *target, __m256i words_u32x8, int planes) {
    const __m256i order_u8x32 = _mm256_setr_epi8(
        0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15,
        0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    __m256i bytes_u8x32 = _mm256_permutevar8x32_epi32(
        _mm256_shuffle_epi8(words_u32x8, order_u8x32), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    __m128i first_u8x16 = _mm256_castsi256_si128(bytes_u8x32);
    _mm_storel_epi64((__m128i *)(void *)target, first_u8x16);
    if (planes > 1)
        _mm_storel_epi64((__m128i *)(void *)(target + 32), _mm_srli_si128(first_u8x16, 8));
    if (planes > 2)
        _mm_storel_epi64((__m128i *)(void *)(target + 64),
                         _mm256_extracti128_si256(bytes_u8x32, 1));
}
#endif

/* As below, of fewer columns or rows. */
static inline void binq_pack_rows(const float *values, int columns, int rows, const binq_steps *s,
                                  int has_offsets, int bits, uint8_t *target) {
    uint32_t words[8] = {0}, second[8] = {0};
    int j, row, plane;
    for (j = 0; j < columns; j++)
        for (row = 0; row < 8; row++) {
            uint32_t code = binq_code(values[8 * j + row], s, has_offsets, row);
            if (bits == 4)
                words[row] |= code << (8 * (j & 3) + (j & 4));
            else if (bits == 8 && j < 4)
                words[row] |= code << 8 * j;
            else if (bits == 8)
                second[row] |= code << (8 * j - 32);
            else
                for (plane = 0; plane < bits; plane++)
                    words[row] |= (code >> plane & 1) << (8 * plane + j);
        }
    for (row = 0; row < rows; row++)
        for (j = 0; j < 4; j++) {
            uint8_t byte = (uint8_t)(words[row] >> 8 * j);
            if (bits == 8) target[128 + 4 * row + j] = (uint8_t)(second[row] >> 8 * j);
            if (bits >= 4)
                target[4 * row + j] = byte;
            else if (j < bits)
                target[32 * j + row] = byte;
        }
}

static inline void binq_bits_rows(const float *values, int columns, int rows, const float *least,
                                  int strict, uint8_t *target) {
    uint32_t bits[8] = {0};
    int j, row;
    for (j = 0; j < columns; j++)
        for (row = 0; row < 8; row++) {
            float value = values[8 * j + row];
            bits[row] |= (uint32_t)(strict ? value > least[row] : value >= least[row]) << j;
        }
    for (row = 0; row < rows; row++) target[row] = (uint8_t)bits[row];
}

/* Packs 8 columns of 8 rows, whose codes take a nibble, a byte or a bit of each of 2 or 3 planes:
 * bits is 4, 8, 2 or 3. Column j of nibbles lies at bit 8 j of a row's word, column 4 + j at
 * 8 j + 4. */
static CYTHON_INLINE void binq_pack_square(const float *values, const binq_steps *s,
                                           int has_offsets, int bits, uint8_t *target) {
#if defined(__AVX2__)
    __m256i words_u32x8 = _mm256_setzero_si256(), code_u32x8;
    int j;
    for (j = 0; j < 8; j++) {
        code_u32x8 = binq_codes(values + 8 * j, s, has_offsets);
        if (bits == 4) {
            code_u32x8 = _mm256_slli_epi32(code_u32x8, 8 * (j & 3) + (j & 4));
        } else if (bits == 8) {
            if (j == 4) {
                _mm256_storeu_si256((__m256i *)(void *)target, words_u32x8);
                words_u32x8 = _mm256_setzero_si256();
            }
            code_u32x8 = _mm256_slli_epi32(code_u32x8, 8 * (j & 3));
        } else {
            /* Bit p to bit 8 p. */
            __m256i spread_u32x8 = _mm256_or_si256(code_u32x8, _mm256_slli_epi32(code_u32x8, 7));
            if (bits == 3)
                spread_u32x8 = _mm256_or_si256(spread_u32x8, _mm256_slli_epi32(code_u32x8, 14));
            code_u32x8 = _mm256_slli_epi32(
                _mm256_and_si256(spread_u32x8, _mm256_set1_epi32(0x010101)), j);
        }
        words_u32x8 = _mm256_or_si256(words_u32x8, code_u32x8);
    }
    if (bits == 4)
        _mm256_storeu_si256((__m256i *)(void *)target, words_u32x8);
    else if (bits == 8)
        _mm256_storeu_si256((__m256i *)(void *)(target + 128), words_u32x8);
    else
        binq_store_bytes(target, words_u32x8, bits);
#else
    binq_pack_rows(values, 8, 8, s, has_offsets, bits, target);
#endif
}

/* Bit j of byte `row` becomes whether column j of the row is at least least[row], or above it
 * where strict: 8 columns of 8 rows. */
static CYTHON_INLINE void binq_bits_square(const float *values, const float *least, int strict,
                                           uint8_t *target) {
#if defined(__AVX2__)
    const __m256 least_f32x8 = _mm256_loadu_ps(least);
    __m256i bits_u32x8 = _mm256_setzero_si256();
    int j;
    for (j = 0; j < 8; j++) {
        __m256 value_f32x8 = _mm256_loadu_ps(values + 8 * j);
        __m256 found_f32x8 = strict ? _mm256_cmp_ps(value_f32x8, least_f32x8, _CMP_GT_OQ)
                                    : _mm256_cmp_ps(value_f32x8, least_f32x8, _CMP_GE_OQ);
        bits_u32x8 = _mm256_or_si256(bits_u32x8, _mm256_and_si256(
            _mm256_castps_si256(found_f32x8), _mm256_set1_epi32(1 << j)));
    }
    binq_store_bytes(target, bits_u32x8, 1);
#else
    binq_bits_rows(values, 8, 8, least, strict, target);
#endif
}

/* sums[8 (j % 8) + row] += |column j of the row - center|, of n columns. */
static CYTHON_INLINE void binq_add_magnitudes(const float *values, ptrdiff_t n,
                                              const double *centers, double *sums) {
    ptrdiff_t k = 0;
    int row;
#if defined(__AVX2__)
    int j;
    const __m256d sign_f64x4 = _mm256_set1_pd(-0.0);
    /* Half the rows at a time: 8 sums of them stay in registers. */
    for (row = 0; row < 8; row += 4) {
        const __m256d center_f64x4 = _mm256_loadu_pd(centers + row);
        __m256d sums_f64x4[8];
        for (j = 0; j < 8; j++) sums_f64x4[j] = _mm256_loadu_pd(sums + 8 * j + row);
        for (k = 0; k + 8 <= n; k += 8)
            for (j = 0; j < 8; j++)
                sums_f64x4[j] = _mm256_add_pd(
                    sums_f64x4[j],
                    _mm256_andnot_pd(sign_f64x4, _mm256_sub_pd(
                        _mm256_cvtps_pd(_mm_loadu_ps(values + 8 * (k + j) + row)),
                        center_f64x4)));
        for (j = 0; j < 8; j++) _mm256_storeu_pd(sums + 8 * j + row, sums_f64x4[j]);
    }
#endif
    for (; k < n; k++)
        for (row = 0; row < 8; row++)
            sums[8 * (k % 8) + row] += fabs((double)values[8 * k + row] - centers[row]);
}

#endif
