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
include "../common/arrays.pxi"
include "../common/measure.pxi"
include "../common/decode.pxi"
include "../common/layers.pxi"
include "../common/rotation.pxi"
include "../common/attention.pxi"
include "../common/one_engine.pxi"
include "../common/engine.pxi"

cdef Engine LUT_GEMV = Engine(
    lut_gemv_prepared, lut_gemv_prepare, lut_gemv_scratch, lut_gemv_multiply)

cdef KernelTable kernel_table
cdef MatmulKernel[ACTIVATION_MODES][TIERS] *product = kernel_table.matmul
fill_table(&kernel_table, "neon")

#        product                                       engine, rows of x, at once: rows, tiles
set_tier(product[FORMAT_BINARY][ACTIVATIONS_INT16], LUT_GEMV, ANY_ROWS, 1, 1)
set_tier(product[FORMAT_BINARY][ACTIVATIONS_INT8], LUT_GEMV, ANY_ROWS, 1, 1)
set_tier(product[FORMAT_TERNARY][ACTIVATIONS_INT16], LUT_GEMV, ANY_ROWS, 1, 1)
set_tier(product[FORMAT_TERNARY][ACTIVATIONS_INT8], LUT_GEMV, ANY_ROWS, 1, 1)

table = PyCapsule_New(&kernel_table, "binq.KernelTable", NULL)
