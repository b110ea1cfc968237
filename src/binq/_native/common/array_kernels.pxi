# Unpack, dequantize and pack as the kernel table names them: a loop of its own for each layout.

cdef void unpack(const Weights *w, int8_t *codes, Py_ssize_t codes_stride,
                 Py_ssize_t tile_begin, Py_ssize_t tile_end) noexcept nogil:
    by_layout(SPECS[w.format].layout, unpack_tiles, w, codes, codes_stride, tile_begin, tile_end)


cdef void dequantize(const Weights *w, float *out, Py_ssize_t out_stride,
                     Py_ssize_t tile_begin, Py_ssize_t tile_end) noexcept nogil:
    by_layout(SPECS[w.format].layout, dequantize_tiles, w, out, out_stride, tile_begin, tile_end)


cdef void pack(const Weights *w, const int8_t *codes, Py_ssize_t codes_stride, uint8_t *packed,
               Py_ssize_t tile_begin, Py_ssize_t tile_end) noexcept nogil:
    by_layout(SPECS[w.format].layout, pack_tiles, w, codes, codes_stride, packed, tile_begin,
              tile_end)
