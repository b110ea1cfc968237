"""The kernels for aarch64 (NEON), exported as the capsule ``table``."""

from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport int8_t, int16_t, int32_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset

from binq._native.arm.arm_neon cimport *
from binq._native.table cimport *

include "../common/float16.pxi"
include "../common/quantizers.pxi"
include "tile.pxi"
include "../common/tile.pxi"
include "activations.pxi"
include "sums.pxi"
include "gemm.pxi"
include "lut_tables.pxi"
include "lut_gemv.pxi"
include "lut_planes.pxi"
include "quads.pxi"
include "arrays.pxi"
include "../common/measure.pxi"
include "../common/decode.pxi"
include "../common/layers.pxi"
include "../common/rotation.pxi"
include "../common/attention.pxi"
include "../common/one_engine.pxi"
include "../common/engine.pxi"

cdef Engine LUT_GEMV = Engine(
    lut_gemv_prepared, lut_gemv_prepare, lut_gemv_scratch, lut_gemv_multiply)


cdef enum:
    PRODUCTS_FROM = 8             # rows of x, from which on int3 and int8 are faster by products

cdef KernelTable kernel_table
cdef MatmulKernel[ACTIVATION_MODES][TIERS] *product = kernel_table.matmul
fill_table(&kernel_table, "neon")


cdef void fill_products() noexcept:
    # By tables whatever is stored in planes.
    #        product                                   engine, rows of x, at once: rows, tiles
    cdef int format, mode
    cdef MatmulKernel products
    for format in range(FORMATS):
        if LAYOUTS[SPECS[format].layout].row_bytes > 1:
            continue
        for mode in (ACTIVATIONS_INT16, ACTIVATIONS_INT8):
            products = product[format][mode][0]
            set_tier(product[format][mode], LUT_GEMV, ANY_ROWS, 1, 2)
            if SPECS[format].layout == THREE_PLANES and mode == ACTIVATIONS_INT8:
                product[format][mode][0].most_rows = PRODUCTS_FROM - 1
                product[format][mode][1] = products


fill_products()
table = PyCapsule_New(&kernel_table, "binq.KernelTable", NULL)
