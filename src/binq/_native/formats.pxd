# The table of formats (formats.h), as every native module reads it.

from libc.stdint cimport int8_t

cdef extern from "formats.h" nogil:
    enum:                     # Format: index into the arrays of KernelTable
        FORMAT_BINARY "BINQ_BINARY"
        FORMAT_TERNARY "BINQ_TERNARY"
        FORMAT_INT4 "BINQ_INT4"
        FORMAT_INT2 "BINQ_INT2"
        FORMATS "BINQ_FORMATS"
    enum:
        ZERO_NONE "BINQ_ZERO_NONE"
        ZERO_CODE "BINQ_ZERO_CODE"
        ZERO_OFFSET "BINQ_ZERO_OFFSET"
    enum:
        METHOD_MSE "BINQ_MSE"
        METHOD_ABSMAX "BINQ_ABSMAX"
        METHOD_ABSMEAN "BINQ_ABSMEAN"
    ctypedef struct binq_format:
        const char *name
        int bits
        int planes
        int row_bytes
        int zero_kinds[2]
        int methods[2]
        int largest
        int8_t levels[16]
        float activation_levels[3]
    const binq_format *SPECS "binq_formats"
    Py_ssize_t block_bytes "binq_block_bytes"(int format) noexcept

cdef extern from "scale_types.h" nogil:
    enum:                     # ScaleType: of stored scales and offsets
        SCALE_FLOAT16 "BINQ_FLOAT16"
        SCALE_FLOAT32 "BINQ_FLOAT32"
        SCALE_BFLOAT16 "BINQ_BFLOAT16"
        SCALE_E8M0 "BINQ_E8M0"
        SCALE_E8M0_HALVES "BINQ_E8M0_HALVES"
        SCALE_TYPES "BINQ_SCALE_TYPES"
    ctypedef struct binq_scale_type:
        const char *name
        int bytes
        double smallest
        int bias
    const binq_scale_type *SCALE_SPECS "binq_scale_types"
