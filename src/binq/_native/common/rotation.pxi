# Rows in a rotated basis: signs, a Walsh-Hadamard transform of blocks, a scale. Bit for bit as
# binq.reference.rotation: the stages of a block in the order 1, 2, 4, ..., each number one sum.

cdef extern from "common/lanes.h" nogil:
    floats minus_floats "binq_sub_floats"(floats a, floats b)


cdef inline void eight_points(float *x) noexcept nogil:
    # The stages 1, 2 and 4 of eight numbers side by side.
    cdef float a0 = x[0] + x[1], a1 = x[0] - x[1], a2 = x[2] + x[3], a3 = x[2] - x[3]
    cdef float a4 = x[4] + x[5], a5 = x[4] - x[5], a6 = x[6] + x[7], a7 = x[6] - x[7]
    cdef float b0 = a0 + a2, b1 = a1 + a3, b2 = a0 - a2, b3 = a1 - a3
    cdef float b4 = a4 + a6, b5 = a5 + a7, b6 = a4 - a6, b7 = a5 - a7
    x[0] = b0 + b4
    x[1] = b1 + b5
    x[2] = b2 + b6
    x[3] = b3 + b7
    x[4] = b0 - b4
    x[5] = b1 - b5
    x[6] = b2 - b6
    x[7] = b3 - b7


cdef inline void two_stages(float *x, Py_ssize_t block, Py_ssize_t h) noexcept nogil:
    # The stages h and 2 h, h being a multiple of 8: each number is read and written once.
    cdef Py_ssize_t i = 0, j
    cdef floats a, b, c, d, e, f
    while i < block:
        j = i
        while j < i + h:
            a = load_floats_at(x + j)
            b = load_floats_at(x + j + h)
            c = load_floats_at(x + j + 2 * h)
            d = load_floats_at(x + j + 3 * h)
            e = plus_floats(a, b)
            f = minus_floats(a, b)
            a = plus_floats(c, d)
            b = minus_floats(c, d)
            store_floats(x + j, plus_floats(e, a))
            store_floats(x + j + h, plus_floats(f, b))
            store_floats(x + j + 2 * h, minus_floats(e, a))
            store_floats(x + j + 3 * h, minus_floats(f, b))
            j += FLOATS
        i += 4 * h


cdef inline void one_stage(float *x, Py_ssize_t block, Py_ssize_t h) noexcept nogil:
    cdef Py_ssize_t i = 0, j
    cdef float a, b
    while i < block:
        for j in range(i, i + h):
            a = x[j]
            b = x[j + h]
            x[j] = a + b
            x[j + h] = a - b
        i += 2 * h


cdef void walsh_hadamard(float *x, Py_ssize_t block) noexcept nogil:
    cdef Py_ssize_t i = 0, h = 1
    if block >= 8:
        while i < block:
            eight_points(x + i)
            i += 8
        h = 8
        while 4 * h <= block:
            two_stages(x, block, h)
            h *= 4
    while h < block:
        one_stage(x, block, h)
        h *= 2


cdef void rotate(const float *x, const float *signs, Py_ssize_t size, Py_ssize_t block,
                 float scale, int back, float *out,
                 Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    cdef Py_ssize_t row, k, at
    cdef float *y
    for row in range(begin, end):
        at = 0
        while at < size:
            y = out + row * size + at
            if back:
                if x != out:
                    memcpy(y, x + row * size + at, block * sizeof(float))
                walsh_hadamard(y, block)
                for k in range(block):
                    y[k] = (y[k] * scale) * signs[at + k]
            else:
                for k in range(block):
                    y[k] = x[row * size + at + k] * signs[at + k]
                walsh_hadamard(y, block)
                for k in range(block):
                    y[k] = y[k] * scale
            at += block
