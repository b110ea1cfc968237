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
include "quads.pxi"
include "dotprod_gemv.pxi"
include "dotprod_gemm.pxi"
include "dotprod_multiply.pxi"
include "../common/engine.pxi"

cdef Engine FEW_NIBBLES = Engine(plane_prepared, plane_prepare, plane_scratch, nibble_multiply)
cdef Engine FEW_LEVELS = Engine(plane_prepared, plane_prepare, plane_scratch, level_multiply)
cdef Engine FEW_BYTES = Engine(plane_prepared, plane_prepare, plane_scratch, byte_multiply)
cdef Engine PLANES = Engine(plane_prepared, plane_prepare, plane_scratch, plane_multiply)

cdef KernelTable kernel_table = (
    <const KernelTable *>PyCapsule_GetPointer(neon.table, "binq.KernelTable"))[0]
cdef MatmulKernel[ACTIVATION_MODES][TIERS] *product = kernel_table.matmul
kernel_table.name = "dotprod"

# From which rows of x on each is the fastest is reckoned from the operations of each.

cdef void fill_products() noexcept:
    # Few rows of bit planes are left to NEON's tables.
    #        product                                   engine, rows of x, at once: rows, tiles
    cdef int format, layout
    cdef Engine few
    for format in range(FORMATS):
        layout = SPECS[format].layout
        if layout == NIBBLES:
            set_tier(product[format][ACTIVATIONS_INT16], FEW_NIBBLES, ANY_ROWS, 1, 2)
            add_tier(product[format][ACTIVATIONS_INT16], 4, PLANES, 1, 1)
            set_tier(product[format][ACTIVATIONS_INT8], FEW_NIBBLES, ANY_ROWS, 1, 2)
            add_tier(product[format][ACTIVATIONS_INT8], 7, PLANES, 1, 1)
        elif layout == LEVELS or layout == BYTES:
            few = FEW_LEVELS if layout == LEVELS else FEW_BYTES
            set_tier(product[format][ACTIVATIONS_INT16], few, ANY_ROWS, 1, 2)
            add_tier(product[format][ACTIVATIONS_INT16], 2, PLANES, 1, 1)
            set_tier(product[format][ACTIVATIONS_INT8], few, ANY_ROWS, 1, 2)
            add_tier(product[format][ACTIVATIONS_INT8], 4, PLANES, 1, 1)
        elif layout == ONE_PLANE:
            # Three look-ups of int16 are less than two products, however many rows there are.
            add_tier(product[format][ACTIVATIONS_INT8], 11, PLANES, 1, 1)
        else:
            add_tier(product[format][ACTIVATIONS_INT16], 2 if layout == THREE_PLANES else 3,
                     PLANES, 1, 1)
            add_tier(product[format][ACTIVATIONS_INT8], 2 if layout == THREE_PLANES else 3,
                     PLANES, 1, 1)


fill_products()
table = PyCapsule_New(&kernel_table, "binq.KernelTable", NULL)
