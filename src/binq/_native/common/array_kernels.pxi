# Unpack, dequantize and pack as the kernel table names them: a loop of its own for each format.

cdef void unpack(const Weights *w, int8_t *codes, Py_ssize_t codes_stride,
                 Py_ssize_t tile_begin, Py_ssize_t tile_end) noexcept nogil:
    if w.format == FORMAT_BINARY:
        unpack_tiles(w, codes, codes_stride, tile_begin, tile_end, FORMAT_BINARY)
    elif w.format == FORMAT_TERNARY:
        unpack_tiles(w, codes, codes_stride, tile_begin, tile_end, FORMAT_TERNARY)
    elif w.format == FORMAT_INT2:
        unpack_tiles(w, codes, codes_stride, tile_begin, tile_end, FORMAT_INT2)
    else:
        unpack_tiles(w, codes, codes_stride, tile_begin, tile_end, FORMAT_INT4)


cdef void dequantize(const Weights *w, float *out, Py_ssize_t out_stride,
                     Py_ssize_t tile_begin, Py_ssize_t tile_end) noexcept nogil:
    if w.format == FORMAT_BINARY:
        dequantize_tiles(w, out, out_stride, tile_begin, tile_end, FORMAT_BINARY)
    elif w.format == FORMAT_TERNARY:
        dequantize_tiles(w, out, out_stride, tile_begin, tile_end, FORMAT_TERNARY)
    elif w.format == FORMAT_INT2:
        dequantize_tiles(w, out, out_stride, tile_begin, tile_end, FORMAT_INT2)
    else:
        dequantize_tiles(w, out, out_stride, tile_begin, tile_end, FORMAT_INT4)


cdef void pack(const Weights *w, const int8_t *codes, Py_ssize_t codes_stride, uint8_t *packed,
               Py_ssize_t tile_begin, Py_ssize_t tile_end) noexcept nogil:
    if w.format == FORMAT_BINARY:
        pack_tiles(w, codes, codes_stride, packed, tile_begin, tile_end, FORMAT_BINARY)
    elif w.format == FORMAT_TERNARY:
        pack_tiles(w, codes, codes_stride, packed, tile_begin, tile_end, FORMAT_TERNARY)
    elif w.format == FORMAT_INT2:
        pack_tiles(w, codes, codes_stride, packed, tile_begin, tile_end, FORMAT_INT2)
    else:
        pack_tiles(w, codes, codes_stride, packed, tile_begin, tile_end, FORMAT_INT4)
