# What every search does to make of the best scale of a group the one that is stored; float16.pxi is
# included before.

cdef double LARGEST_LEVEL = 3.4e38


cdef inline int greatest_divisor(int a, int b) noexcept nogil:
    # Common to both, of 0 and another the other.
    cdef int rest
    while b:
        rest = a % b
        a = b
        b = rest
    return a


cdef inline bint two_around(double scale, int type, float *near, float *other) noexcept nogil:
    # The nearest number of a type of 16 bits, and the one on the other side of the scale. False of
    # other types, and where a scale is such a number or beyond them.
    cdef uint16_t bits
    if SCALE_SPECS[type].bytes != 2:
        return False
    bits = narrowed(scale, type)
    near[0] = widened(bits, type)
    if near[0] == scale or not (SCALE_SPECS[type].smallest <= near[0] <= LARGEST_LEVEL):
        return False
    other[0] = widened(<uint16_t>(bits + 1 if near[0] < scale else bits - 1), type)
    return True
