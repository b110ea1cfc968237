/* Inner loops that make float32 of what files store: loops over one span of weights that share a
 * scale, which compilers turn into vectors. Every value is exact, then multiplied by its scale. */
#ifndef BINQ_DECODE_H
#define BINQ_DECODE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__SSE2__) || defined(_M_X64)
#include <emmintrin.h>
#endif

static inline float binq_float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

/* float8: sign, exponent and mantissa go where float32 has them, `shift` to the left; multiplying
 * by `bias`, a power of two, moves the exponent. What stands for no number becomes what its
 * exponent says in float32, infinity or NaN: codes of which the bits of `special` are all set, or
 * the code 0x80 where `special` is 0. */
static inline void binq_float8(const uint8_t *__restrict codes, ptrdiff_t count, int shift,
                               float bias, int special, float scale, float *__restrict out) {
    const uint32_t fields = 0x80000000u | (uint32_t)0x7F << shift;
    uint8_t found = 0;
    ptrdiff_t i;
    /* Hardly ever one is found, so the loop that makes floats does not ask. */
    for (i = 0; i < count; i++)
        found |= special ? (codes[i] & special) == special : codes[i] == 0x80;
    for (i = 0; i < count; i++) {
        uint32_t bits = ((uint32_t)(int32_t)(int8_t)codes[i] << shift) & fields;
        out[i] = (binq_float_of(bits) * bias) * scale;
    }
    if (!found) return;
    for (i = 0; i < count; i++) {
        uint32_t code = codes[i];
        uint32_t bits = (code & 0x80) << 24 | 0x7F800000u | ((code & 0x7F) << shift & 0x7FFFFF);
        if (special == 0 && code == 0x80) out[i] = binq_float_of(0x7FC00000u);
        if (special != 0 && (code & special) == (uint32_t)special)
            out[i] = binq_float_of(bits) * scale;
    }
}

/* 4-bit floats, a code each: 0, 0.5, 1, 1.5, 2, 3, 4, 6 of either sign. */
static inline void binq_float4(const uint8_t *__restrict codes, ptrdiff_t count, float scale,
                               float *__restrict out) {
    ptrdiff_t i;
    for (i = 0; i < count; i++) {
        uint32_t code = codes[i];
        uint32_t size = code & 7;
        uint32_t bits = size >= 2 ? (size << 22) + 0x3F000000u : (0 - size) & 0x3F000000u;
        out[i] = binq_float_of(bits | (code & 8) << 28) * scale;
    }
}

/* scale * (code - zero) of whole codes. */
static inline void binq_unsigned(const uint8_t *__restrict codes, ptrdiff_t count, int32_t zero,
                                 float scale, float *__restrict out) {
    ptrdiff_t i;
    for (i = 0; i < count; i++) out[i] = (float)((int32_t)codes[i] - zero) * scale;
}

static inline void binq_signed(const int8_t *__restrict codes, ptrdiff_t count, int32_t zero,
                               float scale, float *__restrict out) {
    ptrdiff_t i;
    for (i = 0; i < count; i++) out[i] = (float)((int32_t)codes[i] - zero) * scale;
}

/* code - zero; returns whether one lies beyond [low, high]. */
static inline int binq_centre(const uint8_t *__restrict codes, ptrdiff_t count, int32_t zero,
                              int32_t low, int32_t high, int is_signed, int8_t *__restrict out) {
    ptrdiff_t i;
    int32_t wrong = 0;
    for (i = 0; i < count; i++) {
        int32_t code = (is_signed ? (int32_t)(int8_t)codes[i] : (int32_t)codes[i]) - zero;
        wrong |= (code < low) | (code > high);
        out[i] = (int8_t)code;
    }
    return wrong;
}

/* The codes of each byte, the first in its lowest bits, a byte each. */
static inline void binq_spread(const uint8_t *__restrict bytes, ptrdiff_t count, int bits,
                               uint8_t *__restrict out) {
    ptrdiff_t i;
    if (bits == 8) {
        memcpy(out, bytes, (size_t)count);
    } else if (bits == 4) {
        for (i = 0; i < count; i++) {
            out[2 * i] = bytes[i] & 15;
            out[2 * i + 1] = bytes[i] >> 4;
        }
    } else {
        for (i = 0; i < count; i++) {
            out[4 * i] = bytes[i] & 3;
            out[4 * i + 1] = bytes[i] >> 2 & 3;
            out[4 * i + 2] = bytes[i] >> 4 & 3;
            out[4 * i + 3] = bytes[i] >> 6;
        }
    }
}

/* Eight rows of out[row][k] = in[k][row], elements of 16 bits; strides in elements. */
static inline void binq_transpose_halves(const uint16_t *in, ptrdiff_t in_stride, ptrdiff_t count,
                                    uint16_t *out, ptrdiff_t out_stride) {
    ptrdiff_t k = 0, i;
#if defined(__SSE2__) || defined(_M_X64)
    for (; k + 8 <= count; k += 8) {
        __m128i a[8], b[8];
        for (i = 0; i < 8; i++)
            a[i] = _mm_loadu_si128((const __m128i *)(const void *)(in + (k + i) * in_stride));
        for (i = 0; i < 4; i++) {
            b[2 * i] = _mm_unpacklo_epi16(a[i], a[i + 4]);
            b[2 * i + 1] = _mm_unpackhi_epi16(a[i], a[i + 4]);
        }
        for (i = 0; i < 4; i++) {
            a[2 * i] = _mm_unpacklo_epi16(b[i], b[i + 4]);
            a[2 * i + 1] = _mm_unpackhi_epi16(b[i], b[i + 4]);
        }
        for (i = 0; i < 4; i++) {
            b[2 * i] = _mm_unpacklo_epi16(a[i], a[i + 4]);
            b[2 * i + 1] = _mm_unpackhi_epi16(a[i], a[i + 4]);
        }
        for (i = 0; i < 8; i++)
            _mm_storeu_si128((__m128i *)(void *)(out + i * out_stride + k), b[i]);
    }
#endif
    for (; k < count; k++)
        for (i = 0; i < 8; i++) out[i * out_stride + k] = in[k * in_stride + i];
}

#endif
