"""The kernels for aarch64 with products of matrices of bytes (FEAT_I8MM), as the capsule ``table``.

The table is that of dot products, with the products of several rows of x that ``smmla`` makes
faster in place of its own.
"""

from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_New
from libc.stdint cimport int8_t, int16_t, int32_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset

from binq._native.arm.arm_neon cimport *
from binq._native.table cimport *

from binq._native.arm import dotprod

include "../common/float16.pxi"
include "tile.pxi"
include "../common/tile.pxi"
include "activations.pxi"
include "sums.pxi"
include "i8mm_gemm.pxi"
include "quads.pxi"
include "../common/engine.pxi"

# Pieces take all rows of x, so that each begins with an even one.
cdef Engine PAIRS = Engine(pair_prepared, pair_prepare, pair_scratch, pair_multiply)

cdef KernelTable kernel_table = (
    <const KernelTable *>PyCapsule_GetPointer(dotprod.table, "binq.KernelTable"))[0]
cdef MatmulKernel[ACTIVATION_MODES][TIERS] *product = kernel_table.matmul
kernel_table.name = "i8mm"

# From which rows of x on each is the fastest is reckoned from the operations of each.

cdef void fill_products() noexcept:
    #        product                                   engine, rows of x, at once: rows, tiles
    cdef int format, layout
    for format in range(FORMATS):
        layout = SPECS[format].layout
        add_tier(product[format][ACTIVATIONS_INT16],
                 6 if layout == ONE_PLANE else 3 if layout == NIBBLES else 2, PAIRS, 1, 1)
        add_tier(product[format][ACTIVATIONS_INT8], 6 if layout == ONE_PLANE else 4, PAIRS, 1, 1)


fill_products()
table = PyCapsule_New(&kernel_table, "binq.KernelTable", NULL)
