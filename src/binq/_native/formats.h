/* The formats, one row each: all that kernels, the quantizers and Python know of them.
 * docs/formats.md defines the bytes, binq.reference keeps a table of its own to check this one. */
#ifndef BINQ_FORMATS_H
#define BINQ_FORMATS_H

#include <string.h>

#include "scale_types.h"

enum {
    BINQ_BINARY, BINQ_TERNARY, BINQ_INT2, BINQ_INT3, BINQ_INT4, BINQ_INT8, BINQ_MXFP4,
    BINQ_IQ4NL, BINQ_FORMATS
};

/* How stored codes lie in memory. A kernel is compiled once for each layout that it tells apart,
 * and reads from the row of a format what its codes stand for. */
enum {
    BINQ_ONE_PLANE,           /* two levels, two steps apart */
    BINQ_TRITS,               /* two planes, each of whose bits is a step */
    BINQ_TWO_PLANES,          /* bit 0 and bit 1 of a code */
    BINQ_THREE_PLANES,
    BINQ_NIBBLES,             /* levels one step apart */
    BINQ_LEVELS,              /* nibbles that stand for any 16 levels */
    BINQ_BYTES,               /* 256 levels one step apart */
    BINQ_LAYOUTS
};

typedef struct {
    int bits;                 /* of a stored code */
    int planes;               /* bit planes, [k / 8][plane][32 rows] bytes; 1 for whole codes */
    int row_bytes;            /* adjacent bytes of one row: 1 for planes, 4 for whole codes */
} binq_layout;

static const binq_layout binq_layouts[BINQ_LAYOUTS] = {
    {1, 1, 1}, {2, 2, 1}, {2, 2, 1}, {3, 3, 1}, {4, 1, 4}, {4, 1, 4}, {8, 1, 4}};

/* Calls loop(..., layout) with the layout as a constant: an inline function is compiled for it. */
#define BINQ_BY_LAYOUT(layout, loop, ...)                                   \
    ((layout) == BINQ_ONE_PLANE      ? loop(__VA_ARGS__, BINQ_ONE_PLANE)    \
     : (layout) == BINQ_TRITS        ? loop(__VA_ARGS__, BINQ_TRITS)        \
     : (layout) == BINQ_TWO_PLANES   ? loop(__VA_ARGS__, BINQ_TWO_PLANES)   \
     : (layout) == BINQ_THREE_PLANES ? loop(__VA_ARGS__, BINQ_THREE_PLANES) \
     : (layout) == BINQ_NIBBLES      ? loop(__VA_ARGS__, BINQ_NIBBLES)      \
     : (layout) == BINQ_BYTES        ? loop(__VA_ARGS__, BINQ_BYTES)        \
                                     : loop(__VA_ARGS__, BINQ_LEVELS))

/* The same of the layouts of two bits and more: one plane has tables of its own on x86. */
#define BINQ_BY_CODES(layout, loop, ...)                                    \
    ((layout) == BINQ_TRITS          ? loop(__VA_ARGS__, BINQ_TRITS)        \
     : (layout) == BINQ_TWO_PLANES   ? loop(__VA_ARGS__, BINQ_TWO_PLANES)   \
     : (layout) == BINQ_THREE_PLANES ? loop(__VA_ARGS__, BINQ_THREE_PLANES) \
     : (layout) == BINQ_NIBBLES      ? loop(__VA_ARGS__, BINQ_NIBBLES)      \
     : (layout) == BINQ_BYTES        ? loop(__VA_ARGS__, BINQ_BYTES)        \
                                     : loop(__VA_ARGS__, BINQ_LEVELS))

/* What may say where zero lies in a group, beside nothing (binq.formats.zeros). */
enum { BINQ_ZERO_NONE = 0, BINQ_ZERO_CODE = 1, BINQ_ZERO_OFFSET = 2 };

/* The rules that choose scales (binq.reference.quantizers). */
enum { BINQ_MSE, BINQ_ABSMAX, BINQ_ABSMEAN, BINQ_METHODS };

/* How quantizers find scales and codes: the indices of QUANTIZERS in common/quantizers.pxi. */
enum {
    BINQ_SEARCH_TWO_LEVELS, BINQ_SEARCH_TERNARY, BINQ_SEARCH_EVEN, BINQ_SEARCH_LEVELS,
    BINQ_SEARCHES
};

typedef struct {
    const char *name;
    int layout;
    int search;
    int zero_kinds[2];        /* beside none, the default first; filled up with none */
    int methods[2];           /* the default first */
    int absmax;               /* the level of the largest weight; negative: whatever its sign */
    int largest;              /* the largest magnitude of what multiplies a scale */
    signed char levels[16];   /* what a stored code stands for, in units of the scale; of bytes the
                                 first, from which they count on (binq_level) */
    float activation_levels[3];  /* of float32, int16 and int8: the largest integer for x */
    int group_size;           /* what is quantized to unless a user says it; 0: 128 */
    int scale_type;
    int halves;               /* levels are twice the numbers that scales of e8m0 are made for */
} binq_format;

/* int16 activations: 8191, so that the sum of four fits 16 bits (tables of four), or
 * 32639 = 127 * 257, which is 256 * high + low with signed bytes. */
static const binq_format binq_formats[BINQ_FORMATS] = {
    {"binary", BINQ_ONE_PLANE, BINQ_SEARCH_TWO_LEVELS, {BINQ_ZERO_OFFSET},
     {BINQ_MSE, BINQ_ABSMEAN}, 1, 1, {-1, 1}, {0, 8191, 127}},
    {"ternary", BINQ_TRITS, BINQ_SEARCH_TERNARY, {BINQ_ZERO_NONE},
     {BINQ_MSE, BINQ_ABSMEAN}, 1, 1, {-1, 0, 0, 1}, {0, 8191, 127}},
    {"int2", BINQ_TWO_PLANES, BINQ_SEARCH_EVEN, {BINQ_ZERO_OFFSET, BINQ_ZERO_CODE},
     {BINQ_MSE, BINQ_ABSMAX}, -2, 3, {-2, -1, 0, 1}, {0, 8191, 127}},
    {"int3", BINQ_THREE_PLANES, BINQ_SEARCH_EVEN, {BINQ_ZERO_OFFSET, BINQ_ZERO_CODE},
     {BINQ_MSE, BINQ_ABSMAX}, -4, 7, {-4, -3, -2, -1, 0, 1, 2, 3}, {0, 8191, 127}},
    {"int4", BINQ_NIBBLES, BINQ_SEARCH_EVEN, {BINQ_ZERO_CODE, BINQ_ZERO_OFFSET},
     {BINQ_MSE, BINQ_ABSMAX}, 7, 15, {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7},
     {0, 32639, 127}},
    {"int8", BINQ_BYTES, BINQ_SEARCH_EVEN, {BINQ_ZERO_CODE, BINQ_ZERO_OFFSET},
     {BINQ_MSE, BINQ_ABSMAX}, 127, 255, {-128}, {0, 32639, 127}},
    /* The codes of the OCP microscaling formats' FP4: 8 is -0. */
    {"mxfp4", BINQ_LEVELS, BINQ_SEARCH_LEVELS, {BINQ_ZERO_NONE},
     {BINQ_MSE, BINQ_ABSMAX}, 12, 12, {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12},
     {0, 32639, 127}, 32, BINQ_E8M0, 1},
    /* llama.cpp's IQ4_NL. */
    {"iq4nl", BINQ_LEVELS, BINQ_SEARCH_LEVELS, {BINQ_ZERO_NONE}, {BINQ_MSE, BINQ_ABSMAX}, -127, 127,
     {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113}, {0, 32639, 127}},
};

/* What 32 rows by 8 columns take. */
static inline long binq_block_bytes(int layout) {
    return 32L * binq_layouts[layout].bits;
}

/* What the zero points of 32 rows take: nibbles, or bytes. */
static inline long binq_zero_bytes(int layout) {
    return layout == BINQ_BYTES ? 32 : 16;
}

/* What a stored code stands for where nothing says where zero lies. */
static inline int binq_level(int format, int code) {
    const binq_format *row = &binq_formats[format];
    return row->layout == BINQ_BYTES ? row->levels[0] + code : row->levels[code];
}

/* What the stored code 0 stands for: where something says where zero lies in a group, whole codes
 * count from 0. */
static inline int binq_first_level(int format, int zero) {
    return zero == BINQ_ZERO_NONE || binq_formats[format].layout == BINQ_ONE_PLANE
               ? binq_formats[format].levels[0]
               : 0;
}

/* What the bit of a plane adds to the level. */
static inline int binq_plane_step(int layout, int plane) {
    return layout == BINQ_ONE_PLANE ? 2 : layout == BINQ_TRITS ? 1 : 1 << plane;
}

/* The stored code of each level, as an unsigned byte; the smallest of those with that level. */
static inline void binq_stored_codes(int format, int zero, unsigned char *codes) {
    const binq_format *row = &binq_formats[format];
    const int shift = binq_first_level(format, zero) - row->levels[0];
    int code;
    memset(codes, 0, 256);
    for (code = (1 << binq_layouts[row->layout].bits) - 1; code >= 0; code--)
        codes[(unsigned char)(binq_level(format, code) + shift)] = (unsigned char)code;
}

#endif
