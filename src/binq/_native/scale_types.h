/* The types in which scales and offsets are stored, one row each. docs/formats.md defines them. */
#ifndef BINQ_SCALE_TYPES_H
#define BINQ_SCALE_TYPES_H

enum { BINQ_FLOAT16, BINQ_FLOAT32, BINQ_BFLOAT16, BINQ_E8M0, BINQ_E8M0_HALVES, BINQ_SCALE_TYPES };

typedef struct {
    const char *name;
    int bytes;
    double smallest;          /* below, the scale of a group has too few significant bits */
    int bias;                 /* of powers of two: a byte e is 2^(e - bias); 0 for other types */
} binq_scale_type;

static const binq_scale_type binq_scale_types[BINQ_SCALE_TYPES] = {
    {"float16", 2, 1.9073486328125e-06, 0},       /* 2^-19: 5 bits */
    {"float32", 4, 0, 0},
    {"bfloat16", 2, 1.1754943508222875e-38, 0},   /* 2^-126: 8 bits */
    {"e8m0", 1, 0, 127},
    /* Where levels are twice the numbers that the scales were made for. */
    {"e8m0 of halves", 1, 0, 128},
};

#endif
