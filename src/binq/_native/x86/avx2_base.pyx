"""The kernels of AVX2, FMA and F16C that are no products, exported as the capsule ``table``.

The tables of all kernel sets of x86 begin with it. A module of its own, since it compiles beside
the products and both take less time apart.
"""

from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from binq._native.x86.immintrin cimport *
from binq._native.table cimport *

include "../common/float16.pxi"
include "../common/quantizers.pxi"
include "activations.pxi"
include "scales.pxi"
include "avx2_arrays.pxi"
include "../common/measure.pxi"
include "../common/decode.pxi"
include "../common/layers.pxi"
include "../common/rotation.pxi"
include "../common/attention.pxi"

cdef KernelTable kernel_table
kernel_table.version = TABLE_VERSION
kernel_table.name = "avx2_base"
kernel_table.quantize_scratch_bytes = quantize_scratch_bytes
kernel_table.quantize = quantize
kernel_table.dequantize = dequantize
kernel_table.reads_rows_alone = True
kernel_table.unpack = unpack
kernel_table.pack = pack
kernel_table.measure = measure
kernel_table.decode = decode
kernel_table.whole_codes = whole_codes
set_layers(&kernel_table)

table = PyCapsule_New(&kernel_table, "binq.KernelTable", NULL)
