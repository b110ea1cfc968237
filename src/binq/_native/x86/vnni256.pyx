"""The kernels of AVX-VNNI as AVX-512 VNNI encodes them, as the capsule ``table``.

The same source in another encoding, so that it is tested on every processor with AVX-512 VNNI,
which has faster kernels of its own.
"""

from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_New
from libc.stdint cimport int8_t, int16_t, int32_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset

from binq._native.x86.immintrin cimport *
from binq._native.table cimport *

from binq._native.x86 import avx2

cdef extern from "immintrin.h" nogil:
    __m256i dpbusd "_mm256_dpbusd_epi32"(
        __m256i acc, __m256i unsigned_a, __m256i signed_b) noexcept

include "activations.pxi"
include "scales.pxi"
include "avx2_code_tile.pxi"
include "vnni_gemm.pxi"
include "../common/engine.pxi"
include "vnni_table.pxi"

fill_table("vnni256")
table = PyCapsule_New(&kernel_table, "binq.KernelTable", NULL)
