# Unpack, dequantize and pack as the kernel table names them: the loops, one format each.

cdef void unpack_binary(const Weights *w, int8_t *codes, Py_ssize_t codes_stride,
                        Py_ssize_t tile_begin, Py_ssize_t tile_end) noexcept nogil:
    unpack_tiles(w, codes, codes_stride, tile_begin, tile_end, FORMAT_BINARY)


cdef void unpack_ternary(const Weights *w, int8_t *codes, Py_ssize_t codes_stride,
                         Py_ssize_t tile_begin, Py_ssize_t tile_end) noexcept nogil:
    unpack_tiles(w, codes, codes_stride, tile_begin, tile_end, FORMAT_TERNARY)


cdef void unpack_int4(const Weights *w, int8_t *codes, Py_ssize_t codes_stride,
                      Py_ssize_t tile_begin, Py_ssize_t tile_end) noexcept nogil:
    unpack_tiles(w, codes, codes_stride, tile_begin, tile_end, FORMAT_INT4)


cdef void dequantize_binary(const Weights *w, float *out, Py_ssize_t out_stride,
                            Py_ssize_t tile_begin, Py_ssize_t tile_end) noexcept nogil:
    dequantize_tiles(w, out, out_stride, tile_begin, tile_end, FORMAT_BINARY)


cdef void dequantize_ternary(const Weights *w, float *out, Py_ssize_t out_stride,
                             Py_ssize_t tile_begin, Py_ssize_t tile_end) noexcept nogil:
    dequantize_tiles(w, out, out_stride, tile_begin, tile_end, FORMAT_TERNARY)


cdef void dequantize_int4(const Weights *w, float *out, Py_ssize_t out_stride,
                          Py_ssize_t tile_begin, Py_ssize_t tile_end) noexcept nogil:
    dequantize_tiles(w, out, out_stride, tile_begin, tile_end, FORMAT_INT4)


cdef void pack_binary(const Weights *w, const int8_t *codes, Py_ssize_t codes_stride,
                      uint8_t *packed,
                      Py_ssize_t tile_begin, Py_ssize_t tile_end) noexcept nogil:
    pack_tiles(w, codes, codes_stride, packed, tile_begin, tile_end, FORMAT_BINARY)


cdef void pack_ternary(const Weights *w, const int8_t *codes, Py_ssize_t codes_stride,
                       uint8_t *packed,
                       Py_ssize_t tile_begin, Py_ssize_t tile_end) noexcept nogil:
    pack_tiles(w, codes, codes_stride, packed, tile_begin, tile_end, FORMAT_TERNARY)


cdef void pack_int4(const Weights *w, const int8_t *codes, Py_ssize_t codes_stride,
                    uint8_t *packed,
                    Py_ssize_t tile_begin, Py_ssize_t tile_end) noexcept nogil:
    pack_tiles(w, codes, codes_stride, packed, tile_begin, tile_end, FORMAT_INT4)
