# Conversions between float16, bfloat16, float32 and float64: to the nearest, ties to even, as numpy
# does them. Nothing here depends on the flush-to-zero mode of the caller's thread.

from libc.math cimport frexp
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy


cdef inline float float_from_bits(uint32_t bits) noexcept nogil:
    cdef float value
    memcpy(&value, &bits, 4)
    return value


cdef inline uint32_t float_to_bits(float value) noexcept nogil:
    cdef uint32_t bits
    memcpy(&bits, &value, 4)
    return bits


cdef inline float half_to_float(uint16_t half) noexcept nogil:
    # Exact. The exponent moves from bias 15 to 127; a subnormal is its bits above 2^-14, less
    # 2^-14.
    cdef uint32_t bits = <uint32_t>(half & 0x7fff) << 13
    cdef uint32_t exponent = bits & 0x0f800000
    cdef uint32_t sign = <uint32_t>(half & 0x8000) << 16
    cdef float value
    bits += 0x38000000
    if exponent == 0x0f800000:
        bits += 0x38000000
    elif exponent == 0:
        value = float_from_bits(bits + 0x00800000) - float_from_bits(0x38800000)
        bits = float_to_bits(value)
    return float_from_bits(bits | sign)


cdef inline uint16_t float_to_half(float value) noexcept nogil:
    # Overflow becomes infinity, NaN a quiet NaN.
    cdef uint32_t bits = float_to_bits(value)
    cdef uint32_t sign = (bits >> 16) & 0x8000
    cdef uint32_t half
    bits &= 0x7fffffff
    if bits > 0x7f800000:
        half = 0x7e00
    elif bits >= 0x47800000:
        half = 0x7c00
    elif bits < 0x38800000:
        # The sum with 0.5 rounds to a multiple of 2^-24, the unit of subnormal halves.
        half = float_to_bits(float_from_bits(bits) + <float>0.5) - 0x3f000000
    else:
        half = (bits - 0x38000000 + 0x0fff + ((bits >> 13) & 1)) >> 13
    return <uint16_t>(half | sign)


cdef inline uint32_t sticky_bits(double value) noexcept nogil:
    # A float32 of which the next rounding makes what it would make of the float64: the bits that
    # float32 drops are kept as a sticky last bit.
    cdef float narrow = <float>value
    cdef uint32_t bits = float_to_bits(narrow)
    if <double>narrow != value and (bits & 1) == 0 and (bits & 0x7fffffff) < 0x7f800000:
        if (narrow < value) == (value > 0):
            bits |= 1
        else:
            bits -= 1
    return bits


cdef inline uint16_t double_to_half(double value) noexcept nogil:
    return float_to_half(float_from_bits(sticky_bits(value)))


cdef inline uint16_t double_to_bfloat16(double value) noexcept nogil:
    # Of a number: overflow becomes infinity.
    cdef uint32_t bits = sticky_bits(value)
    return <uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)


cdef inline float bfloat16_to_float(uint16_t bits) noexcept nogil:
    return float_from_bits(<uint32_t>bits << 16)


# Scales and offsets by type (scale_types.h).

cdef inline float widened(uint16_t bits, int type) noexcept nogil:
    # Of a type of 16 bits.
    return bfloat16_to_float(bits) if type == SCALE_BFLOAT16 else half_to_float(bits)


cdef inline uint16_t narrowed(double value, int type) noexcept nogil:
    # To the nearest of a type of 16 bits.
    return double_to_bfloat16(value) if type == SCALE_BFLOAT16 else double_to_half(value)


cdef inline float power_of(uint8_t byte, int bias) noexcept nogil:
    # 2^(byte - bias), of which the smallest are subnormal.
    cdef int exponent = byte - bias + 127
    if exponent > 0:
        return float_from_bits(<uint32_t>exponent << 23)
    return float_from_bits(<uint32_t>0x00400000 >> -exponent)


cdef inline uint8_t nearest_power(double value, int bias) noexcept nogil:
    # The byte of the nearest power of two, the larger one halfway; the next that there is where
    # the type does not hold it.
    cdef int exponent = 0
    cdef double fraction = frexp(value, &exponent)
    exponent += bias - (0 if fraction >= 0.75 else 1)
    return <uint8_t>(0 if fraction <= 0.0 or exponent < 0 else 254 if exponent > 254 else exponent)


cdef inline float stored_float(const void *stored, Py_ssize_t index, int type) noexcept nogil:
    cdef uint16_t bits
    cdef float value
    if type == SCALE_FLOAT32:
        memcpy(&value, <const char *>stored + index * 4, 4)
        return value
    if SCALE_SPECS[type].bias:
        return power_of((<const uint8_t *>stored)[index], SCALE_SPECS[type].bias)
    memcpy(&bits, <const char *>stored + index * 2, 2)
    return widened(bits, type)


cdef inline float store_float(void *stored, Py_ssize_t index, int type,
                              double value) noexcept nogil:
    # Stores the nearest number of the type; returns it.
    cdef uint16_t bits
    cdef float narrow
    if type == SCALE_FLOAT32:
        narrow = <float>value
        memcpy(<char *>stored + index * 4, &narrow, 4)
        return narrow
    if SCALE_SPECS[type].bias:
        (<uint8_t *>stored)[index] = nearest_power(value, SCALE_SPECS[type].bias)
        return power_of((<uint8_t *>stored)[index], SCALE_SPECS[type].bias)
    bits = narrowed(value, type)
    memcpy(<char *>stored + index * 2, &bits, 2)
    return widened(bits, type)
