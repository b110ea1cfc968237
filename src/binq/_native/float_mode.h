/* How this thread rounds and what becomes of denormal floats: the processor's control register.
 * A library built with -ffast-math may have set it to flush denormals to zero. */
#ifndef BINQ_FLOAT_MODE_H
#define BINQ_FLOAT_MODE_H

/* The numbers are defined bit for bit, and NaN and infinity among them: no flag may reorder sums or
 * assume that there are none. Every native module includes this file. */
#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__) \
    || defined(__ASSOCIATIVE_MATH__) || defined(__RECIPROCAL_MATH__) \
    || defined(__NO_SIGNED_ZEROS__) || defined(_M_FP_FAST)
#error "binq cannot be compiled with -ffast-math or its parts: take it out of CFLAGS"
#endif

#if defined(__x86_64__) || defined(__i386__) || defined(_M_X64) || defined(_M_IX86)
#include <xmmintrin.h>
/* All exceptions masked, halves to even, denormals kept; the low six bits only record
 * what came up. */
#define BINQ_STANDARD_FLOATS 0x1F80u
static inline unsigned int binq_float_mode(void) { return _mm_getcsr() & ~0x3Fu; }
static inline void binq_set_float_mode(unsigned int mode) { _mm_setcsr(mode); }

#elif defined(__aarch64__)
#define BINQ_STANDARD_FLOATS 0u
static inline unsigned int binq_float_mode(void) {
    unsigned long long mode;
    __asm__ __volatile__("mrs %0, fpcr" : "=r"(mode));
    return (unsigned int)mode;
}
static inline void binq_set_float_mode(unsigned int mode) {
    unsigned long long wide = mode;
    __asm__ __volatile__("msr fpcr, %0" : : "r"(wide));
}

#elif defined(_M_ARM64)
#include <intrin.h>
#ifndef ARM64_FPCR
#define ARM64_FPCR ARM64_SYSREG(3, 3, 4, 4, 0)
#endif
#define BINQ_STANDARD_FLOATS 0u
static inline unsigned int binq_float_mode(void) {
    return (unsigned int)_ReadStatusReg(ARM64_FPCR);
}
static inline void binq_set_float_mode(unsigned int mode) {
    _WriteStatusReg(ARM64_FPCR, (__int64)mode);
}

#else
#define BINQ_STANDARD_FLOATS 0u
static inline unsigned int binq_float_mode(void) { return BINQ_STANDARD_FLOATS; }
static inline void binq_set_float_mode(unsigned int mode) { (void)mode; }
#endif

#endif
