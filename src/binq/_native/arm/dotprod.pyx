"""The kernels for aarch64 with dot products of bytes (FEAT_DotProd), as the capsule ``table``.

The table is that of NEON, with the products that ``sdot`` makes faster in place of its own.
"""

from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_New
from libc.stdint cimport int8_t, int16_t, int32_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset

from binq._native.arm.arm_neon cimport *
from binq._native.table cimport *

from binq._native.arm import neon

include "../common/float16.pxi"
include "tile.pxi"
include "../common/tile.pxi"
include "activations.pxi"
include "sums.pxi"
include "dotprod_gemv.pxi"
include "dotprod_gemm.pxi"
include "dotprod_multiply.pxi"
include "../common/engine.pxi"

cdef Engine FEW_NIBBLES = Engine(plane_prepared, plane_prepare, plane_scratch, nibble_multiply)
cdef Engine PLANES = Engine(plane_prepared, plane_prepare, plane_scratch, plane_multiply)

cdef KernelTable kernel_table = (
    <const KernelTable *>PyCapsule_GetPointer(neon.table, "binq.KernelTable"))[0]
cdef MatmulKernel[ACTIVATION_MODES][TIERS] *product = kernel_table.matmul
kernel_table.name = "dotprod"

# From which rows of x on each is the fastest is reckoned from docs/benchmarks-arm.md.

cdef void fill_products() noexcept:
    # Of every format, by its layout; few rows of binary and ternary are left to tables.
    #        product                                   engine, rows of x, at once: rows, tiles
    cdef int format
    for format in range(FORMATS):
        if SPECS[format].layout == BYTES:
            continue              # NEON's: its bytes less 128 would want zero points of 16 bits
        if SPECS[format].layout == NIBBLES:
            set_tier(product[format][ACTIVATIONS_INT16], FEW_NIBBLES, ANY_ROWS, 1, 1)
            add_tier(product[format][ACTIVATIONS_INT16], 4, PLANES, 1, 1)
            set_tier(product[format][ACTIVATIONS_INT8], FEW_NIBBLES, ANY_ROWS, 1, 1)
            add_tier(product[format][ACTIVATIONS_INT8], 7, PLANES, 1, 1)
        elif format != FORMAT_BINARY and format != FORMAT_TERNARY:
            set_tier(product[format][ACTIVATIONS_INT16], PLANES, ANY_ROWS, 1, 1)
            set_tier(product[format][ACTIVATIONS_INT8], PLANES, ANY_ROWS, 1, 1)
    add_tier(product[FORMAT_TERNARY][ACTIVATIONS_INT16], 4, PLANES, 1, 1)
    add_tier(product[FORMAT_TERNARY][ACTIVATIONS_INT8], 4, PLANES, 1, 1)
    add_tier(product[FORMAT_BINARY][ACTIVATIONS_INT8], 10, PLANES, 1, 1)


fill_products()
table = PyCapsule_New(&kernel_table, "binq.KernelTable", NULL)
