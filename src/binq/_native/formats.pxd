# The table of formats (formats.h), as every native module reads it.

from libc.stdint cimport int8_t, uint8_t

cdef extern from "formats.h" nogil:
    enum:                     # Format: index into the arrays of KernelTable
        FORMAT_BINARY "BINQ_BINARY"     # those with engines of their own; others by their layout
        FORMAT_TERNARY "BINQ_TERNARY"
        FORMATS "BINQ_FORMATS"
    enum:
        ONE_PLANE "BINQ_ONE_PLANE"
        TRITS "BINQ_TRITS"
        TWO_PLANES "BINQ_TWO_PLANES"
        THREE_PLANES "BINQ_THREE_PLANES"
        NIBBLES "BINQ_NIBBLES"
        LEVELS "BINQ_LEVELS"
        BYTES "BINQ_BYTES"
        LAYOUT_COUNT "BINQ_LAYOUTS"
    enum:
        ZERO_NONE "BINQ_ZERO_NONE"
        ZERO_CODE "BINQ_ZERO_CODE"
        ZERO_OFFSET "BINQ_ZERO_OFFSET"
    enum:
        METHOD_MSE "BINQ_MSE"
        METHOD_ABSMAX "BINQ_ABSMAX"
        METHOD_ABSMEAN "BINQ_ABSMEAN"
    enum:
        SEARCH_TWO_LEVELS "BINQ_SEARCH_TWO_LEVELS"
        SEARCH_TERNARY "BINQ_SEARCH_TERNARY"
        SEARCH_EVEN "BINQ_SEARCH_EVEN"
        SEARCH_LEVELS "BINQ_SEARCH_LEVELS"
        SEARCHES "BINQ_SEARCHES"
    ctypedef struct binq_layout:
        int bits
        int planes
        int row_bytes
    const binq_layout *LAYOUTS "binq_layouts"
    ctypedef struct binq_format:
        const char *name
        int layout
        int search
        int zero_kinds[2]
        int methods[2]
        int absmax
        int largest
        int8_t levels[16]
        float activation_levels[3]
        int group_size
        int scale_type
        int halves
    const binq_format *SPECS "binq_formats"
    Py_ssize_t block_bytes "binq_block_bytes"(int layout) noexcept
    Py_ssize_t zero_bytes "binq_zero_bytes"(int layout) noexcept
    int level_of "binq_level"(int format, int code) noexcept
    int first_level "binq_first_level"(int format, int zero) noexcept
    int plane_step "binq_plane_step"(int layout, int plane) noexcept
    void stored_codes "binq_stored_codes"(int format, int zero, uint8_t *codes) noexcept
    # Macros: loop(..., layout), with the layout a constant in each.
    void by_layout "BINQ_BY_LAYOUT"(int layout, ...) noexcept
    void by_codes "BINQ_BY_CODES"(int layout, ...) noexcept

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
