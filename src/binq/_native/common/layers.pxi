# What lies between the products of a transformer, row by row: root mean square norm, rotary
# position embedding, SwiGLU's gate, softmax. Bit for bit as binq.reference.layers: no fused
# operation, sums in 16 lanes.

from libc.math cimport sqrtf
from libc.stdint cimport int32_t
from libc.string cimport memcpy

cdef extern from "common/lanes.h" nogil:
    enum:
        SIXTEENTHS "BINQ_SIXTEENTHS"  # vectors of 16 float32
    floats plus_floats "binq_add_floats"(floats a, floats b)
    floats times_floats "binq_mul_floats"(floats a, floats b)
    floats splat_float "binq_splat_float"(float x)


cdef inline float power_of_e(float x) noexcept nogil:
    # exp as binq.reference.layers.exp: 2^n e^r with |r| below 0.35.
    cdef float t, n, r, y
    cdef float at = x if x > <float>-87.0 else <float>-87.0
    cdef int32_t bits
    at = at if at < <float>88.0 else <float>88.0
    # Adding 1.5 * 2^23 rounds to an integer, which the low bits of the sum then hold.
    t = at * <float>1.44269504 + <float>12582912.0
    n = t - <float>12582912.0
    r = (at - n * <float>0.693359375) - n * <float>-2.12194440e-4
    y = <float>1.9875691500e-4
    y = y * r + <float>1.3981999507e-3
    y = y * r + <float>8.3334519073e-3
    y = y * r + <float>4.1665795894e-2
    y = y * r + <float>1.6666665459e-1
    y = y * r + <float>5.0000001201e-1
    y = (y * (r * r) + r) + <float>1.0
    memcpy(&bits, &t, 4)
    # Unsigned: the high bits are shifted out.
    bits = <int32_t>((<uint32_t>bits << 23) + <uint32_t>0x3F800000)
    memcpy(&t, &bits, 4)
    y = y * t
    # NaN stays what it is; -inf, as of a masked score, gives 0.
    y = y if x > <float>-87.0 else <float>0.0
    return y if x == x else x


cdef inline float fold_sixteen(float *lanes) noexcept nogil:
    # Lane j + 8 is added to j, then j + 4, j + 2, j + 1.
    cdef Py_ssize_t j
    for j in range(8):
        lanes[j] = lanes[j] + lanes[j + 8]
    for j in range(4):
        lanes[j] = lanes[j] + lanes[j + 4]
    return (lanes[0] + lanes[2]) + (lanes[1] + lanes[3])


cdef inline float sum_of_squares(const float *x, Py_ssize_t size) noexcept nogil:
    cdef floats sums[SIXTEENTHS]
    cdef floats v
    cdef float lanes[16]
    cdef Py_ssize_t i = 0, j
    for j in range(SIXTEENTHS):
        sums[j] = splat_float(0.0)
    while i + 16 <= size:
        for j in range(SIXTEENTHS):
            v = load_floats_at(x + i + j * FLOATS)
            sums[j] = plus_floats(sums[j], times_floats(v, v))
        i += 16
    for j in range(SIXTEENTHS):
        store_floats(lanes + j * FLOATS, sums[j])
    for j in range(size - i):
        lanes[j] = lanes[j] + x[i + j] * x[i + j]
    return fold_sixteen(lanes)


cdef void rms_norm(const float *x, const float *weight, Py_ssize_t size, float eps, float *out,
                   Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    cdef Py_ssize_t row, k
    cdef float factor
    for row in range(begin, end):
        factor = <float>1.0 / sqrtf(sum_of_squares(x + row * size, size) / <float>size + eps)
        for k in range(size):
            out[row * size + k] = (x[row * size + k] * factor) * weight[k]


cdef void rope(const float *x, const float *cos, const float *sin, Py_ssize_t heads,
               Py_ssize_t size, float *out, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    cdef Py_ssize_t token, head, k, half = size // 2
    cdef const float *low
    cdef const float *c
    cdef const float *s
    cdef float *to
    cdef float a, b
    for token in range(begin, end):
        c = cos + token * half
        s = sin + token * half
        for head in range(heads):
            low = x + (token * heads + head) * size
            to = out + (token * heads + head) * size
            for k in range(half):
                a = low[k]
                b = low[half + k]
                to[k] = a * c[k] - b * s[k]
                to[half + k] = b * c[k] + a * s[k]


cdef void silu_mul(const float *gate, const float *up, float *out,
                   Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(begin, end):
        out[i] = (gate[i] / (<float>1.0 + power_of_e(-gate[i]))) * up[i]


cdef inline float exponentials(const float *x, Py_ssize_t size, float *out) noexcept nogil:
    # Writes exp(x - max(x)) and returns their sum. size is 1 or more.
    cdef floats most
    cdef floats sums[SIXTEENTHS]
    cdef float lanes[16]
    cdef float largest = x[0]
    cdef Py_ssize_t i = 0, j
    if size >= FLOATS:
        most = load_floats_at(x)
        while i + FLOATS <= size:
            most = max_floats(most, load_floats_at(x + i))
            i += FLOATS
        store_floats(lanes, most)
        for j in range(FLOATS):
            largest = lanes[j] if lanes[j] > largest else largest
    while i < size:
        largest = x[i] if x[i] > largest else largest
        i += 1
    for i in range(size):
        out[i] = power_of_e(x[i] - largest)
    for j in range(SIXTEENTHS):
        sums[j] = splat_float(0.0)
    i = 0
    while i + 16 <= size:
        for j in range(SIXTEENTHS):
            sums[j] = plus_floats(sums[j], load_floats_at(out + i + j * FLOATS))
        i += 16
    for j in range(SIXTEENTHS):
        store_floats(lanes + j * FLOATS, sums[j])
    for j in range(size - i):
        lanes[j] = lanes[j] + out[i + j]
    return fold_sixteen(lanes)


cdef void softmax(const float *x, Py_ssize_t size, float *out,
                  Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    cdef Py_ssize_t row, i
    cdef float total
    for row in range(begin, end):
        total = exponentials(x + row * size, size, out + row * size)
        for i in range(size):
            out[row * size + i] = out[row * size + i] / total
