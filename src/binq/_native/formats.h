/* The formats, one row each: all that kernels, the quantizers and Python know of them.
 * docs/formats.md defines the bytes, binq.reference keeps a table of its own to check this one. */
#ifndef BINQ_FORMATS_H
#define BINQ_FORMATS_H

enum { BINQ_BINARY, BINQ_TERNARY, BINQ_INT2, BINQ_INT4, BINQ_FORMATS };

/* What may say where zero lies in a group, beside nothing (binq.formats.zeros). */
enum { BINQ_ZERO_NONE = 0, BINQ_ZERO_CODE = 1, BINQ_ZERO_OFFSET = 2 };

/* The rules that choose scales (binq.reference.quantizers). */
enum { BINQ_MSE, BINQ_ABSMAX, BINQ_ABSMEAN, BINQ_METHODS };

typedef struct {
    const char *name;
    int bits;                 /* of a stored code */
    int planes;               /* bit planes, [k / 8][plane][32 rows] bytes; 1 for whole codes */
    int row_bytes;            /* adjacent bytes of one row in 8 k: 1 for planes, 4 for nibbles */
    int zero_kinds[2];        /* beside none, the default first; filled up with none */
    int methods[2];           /* the default first */
    int largest;              /* the largest magnitude of what multiplies a scale */
    signed char levels[16];   /* what a stored code stands for, in units of the scale */
    float activation_levels[3];  /* of float32, int16 and int8: the largest integer for x */
} binq_format;

/* int16 activations: 8191, so that the sum of four fits 16 bits (tables of four), or
 * 32639 = 127 * 257, which is 256 * high + low with signed bytes. */
static const binq_format binq_formats[BINQ_FORMATS] = {
    {"binary", 1, 1, 1, {BINQ_ZERO_OFFSET}, {BINQ_MSE, BINQ_ABSMEAN}, 1,
     {-1, 1}, {0, 8191, 127}},
    {"ternary", 2, 2, 1, {BINQ_ZERO_NONE}, {BINQ_MSE, BINQ_ABSMEAN}, 1,
     {-1, 0, 0, 1}, {0, 8191, 127}},
    {"int2", 2, 2, 1, {BINQ_ZERO_NONE}, {BINQ_MSE, BINQ_ABSMAX}, 2,
     {-2, -1, 0, 1}, {0, 32639, 127}},
    {"int4", 4, 1, 4, {BINQ_ZERO_CODE, BINQ_ZERO_OFFSET}, {BINQ_MSE, BINQ_ABSMAX}, 15,
     {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7}, {0, 32639, 127}},
};

/* What 32 rows by 8 columns take. */
static inline long binq_block_bytes(int format) {
    return 32L * binq_formats[format].planes * binq_formats[format].row_bytes;
}

#endif
