# The engines of x86 as rows of a kernel table; which is the fastest for how many rows is measured.

cdef Engine PLANES = Engine(plane_prepared, plane_prepare, plane_scratch, plane_multiply)
cdef Engine LUT_GEMM = Engine(
    lut_gemm_prepared, lut_gemm_prepare, lut_gemm_scratch, lut_gemm_multiply)
