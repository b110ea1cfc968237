"""The kernels that every CPU runs, in plain loops, exported as the capsule ``table``."""

from cpython.pycapsule cimport PyCapsule_New
from libc.math cimport rintf
from libc.stdint cimport int8_t, int16_t, int32_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset

from binq._native.table cimport *

include "../common/float16.pxi"
include "../common/quantizers.pxi"
include "tile.pxi"
include "../common/tile.pxi"
include "gemm.pxi"
include "../common/arrays.pxi"
include "../common/measure.pxi"
include "../common/decode.pxi"
include "../common/layers.pxi"
include "../common/rotation.pxi"
include "../common/attention.pxi"
include "../common/one_engine.pxi"

cdef KernelTable kernel_table
fill_table(&kernel_table, "portable")

table = PyCapsule_New(&kernel_table, "binq.KernelTable", NULL)
