# Activations as integers for the products by tables and by dot products: int8 in one plane of
# signed bytes, int16 in two, x = 256 * high + low with low in -128..127, as on x86
# (x86/activations.pxi).
#
# A prepared buffer of planes holds, in this order (high before low),
#   codes int8 [group][row][plane][group_size], scales float32 [group][row], sums int32 [group][row]

cdef inline uint32_t load_group(const float *x, Py_ssize_t count, Py_ssize_t group_size,
                                float *padded) noexcept nogil:
    # Copies one group behind zeros and returns the bits of its largest |x|. As integers they order
    # like the floats, and inf and NaN come above every finite number.
    cdef Py_ssize_t i
    cdef uint32x4_t bits_u32x4 = vdupq_n_u32(0)
    memcpy(padded, x, count * sizeof(float))
    memset(padded + count, 0, (group_size - count) * sizeof(float))
    for i in range(0, group_size, 4):
        bits_u32x4 = vmaxq_u32(bits_u32x4,
                               vreinterpretq_u32_f32(vabsq_f32(vld1q_f32(padded + i))))
    return vmaxvq_u32(bits_u32x4)


cdef inline Py_ssize_t planes_of(int mode) noexcept nogil:
    return 1 if mode == ACTIVATIONS_INT8 else 2


cdef inline bint round_group(const float *x, Py_ssize_t count, Py_ssize_t group_size,
                             int16_t *codes, float levels, float *scale, int32_t *absolute,
                             int32_t *total) noexcept nogil:
    # One row and kernel group of x, as binq.reference.quantize_activations; false where the integer
    # modes cannot carry it.
    cdef float padded[256]
    cdef float amax, inverse
    cdef Py_ssize_t k
    cdef uint32_t largest = load_group(x, count, group_size, padded)
    cdef int16x8_t codes_s16x8
    cdef int32x4_t totals_s32x4 = vdupq_n_s32(0)
    cdef int32x4_t absolutes_s32x4 = vdupq_n_s32(0)
    if largest >= BITS_LARGEST or 0 < largest < BITS_SMALLEST:
        return False
    memcpy(&amax, &largest, sizeof(float))
    scale[0] = amax / levels
    inverse = levels / amax if largest else 0.0
    for k in range(0, group_size, 8):
        codes_s16x8 = vcombine_s16(
            vmovn_s32(vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(padded + k), inverse))),
            vmovn_s32(vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(padded + k + 4), inverse))))
        totals_s32x4 = vpadalq_s16(totals_s32x4, codes_s16x8)
        absolutes_s32x4 = vpadalq_s16(absolutes_s32x4, vabsq_s16(codes_s16x8))
        vst1q_s16(codes + k, codes_s16x8)
    total[0] = vaddvq_s32(totals_s32x4)
    absolute[0] = vaddvq_s32(absolutes_s32x4)
    return True


cdef Py_ssize_t plane_prepared(const Weights *w, Py_ssize_t rows, int mode) noexcept nogil:
    return w.groups * rows * (w.group_size * planes_of(mode) + 8)


cdef inline int8x8_t high_bytes(int16x8_t codes_s16x8) noexcept nogil:
    # 32639 + 128 is the largest int16: no addition wraps.
    return vshrn_n_s16(vaddq_s16(codes_s16x8, vdupq_n_s16(128)), 8)


cdef inline void store_planes(const int16_t *codes, Py_ssize_t group_size, int8_t *target,
                              Py_ssize_t planes) noexcept nogil:
    # The low byte of a code is what remains of it modulo 256 once the high one is taken off.
    cdef Py_ssize_t k
    cdef int16x8_t codes_s16x8
    for k in range(0, group_size, 8):
        codes_s16x8 = vld1q_s16(codes + k)
        if planes == 2:
            vst1_s8(target + k, high_bytes(codes_s16x8))
        vst1_s8(target + (planes - 1) * group_size + k, vmovn_s16(codes_s16x8))


cdef void plane_prepare(const Weights *w, const float *x, Py_ssize_t x_stride, Py_ssize_t rows,
                        void *prepared, uint8_t *unfit, Py_ssize_t row_begin, Py_ssize_t row_end,
                        int mode) noexcept nogil:
    cdef float levels = SPECS[w.format].activation_levels[mode]
    cdef Py_ssize_t planes = planes_of(mode)
    cdef int8_t *planes_s8 = <int8_t *>prepared
    cdef Py_ssize_t size = w.group_size * planes
    cdef float *scales = <float *>(planes_s8 + w.groups * rows * size)
    cdef int32_t *sums = <int32_t *>(scales + w.groups * rows)
    cdef int16_t codes[256]
    cdef int32_t absolute
    cdef Py_ssize_t row, group, at, count
    cdef bint fits
    for row in range(row_begin, row_end):
        fits = True
        for group in range(w.groups):
            at = group * rows + row
            count = min(w.group_size, w.in_features - group * w.group_size)
            if not round_group(x + row * x_stride + group * w.group_size, count, w.group_size,
                               codes, levels, scales + at, &absolute, sums + at):
                fits = False
                break
            store_planes(codes, w.group_size, planes_s8 + at * size, planes)
        unfit[row] = not fits
        if not fits:
            for group in range(w.groups):
                at = group * rows + row
                memset(planes_s8 + at * size, 0, size)
                scales[at] = 0.0
                sums[at] = 0
