# The kernel table of vnni_gemm.pxi: AVX2's, with its products of codes of two bits and more.
# Ternary is as fast by tables: 120 against 124 G products/s with 96 rows of x, 121 against 112 with
# 32 (Xeon, Emerald Rapids).

cdef Engine VNNI = Engine(plane_prepared, plane_prepare, vnni_scratch, vnni_multiply)

cdef KernelTable kernel_table = (
    <const KernelTable *>PyCapsule_GetPointer(avx2.table, "binq.KernelTable"))[0]


cdef void fill_table(const char *name) noexcept:
    cdef MatmulKernel[ACTIVATION_MODES][TIERS] *product = kernel_table.matmul
    cdef int format, mode
    kernel_table.name = name
    for format in range(FORMATS):
        if format != FORMAT_BINARY and format != FORMAT_TERNARY:
            for mode in (ACTIVATIONS_INT16, ACTIVATIONS_INT8):
                #        product                engine, rows of x, at once: rows, tiles
                if has_plane_tables(format, mode):
                    add_tier(product[format][mode], 5, VNNI, 1, 1)
                else:
                    set_tier(product[format][mode], VNNI, ANY_ROWS, 1, 1)
