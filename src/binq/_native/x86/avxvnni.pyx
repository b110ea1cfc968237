"""The kernels for AVX-VNNI (Intel since Alder Lake, AMD since Zen 5), as the capsule ``table``.

The table is that of AVX2, with the products that ``vpdpbusd`` makes faster in place of its own.
"""

from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_New
from libc.stdint cimport int8_t, int16_t, int32_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset

from binq._native.x86.immintrin cimport *
from binq._native.table cimport *

from binq._native.x86 import avx2

cdef extern from "immintrin.h" nogil:
    __m256i dpbusd "_mm256_dpbusd_avx_epi32"(
        __m256i acc, __m256i unsigned_a, __m256i signed_b) noexcept

include "activations.pxi"
include "scales.pxi"
include "avx2_code_tile.pxi"
include "vnni_gemm.pxi"
include "../common/engine.pxi"
include "vnni_table.pxi"

fill_table("avxvnni")
table = PyCapsule_New(&kernel_table, "binq.KernelTable", NULL)
