/* What this CPU and its operating system can run: asked before any kernel module is imported,
 * since even the initialisation of a module compiled for more is an illegal instruction. */
#ifndef BINQ_CPU_H
#define BINQ_CPU_H

#if defined(__x86_64__) || defined(_M_X64) || defined(__i386__) || defined(_M_IX86)
#if defined(_MSC_VER)
#include <intrin.h>
static void binq_cpuid(int leaf, int subleaf, int r[4]) { __cpuidex(r, leaf, subleaf); }
static unsigned long long binq_xgetbv(void) { return _xgetbv(0); }
#else
#include <cpuid.h>
static void binq_cpuid(int leaf, int subleaf, int r[4]) {
    unsigned a = 0, b = 0, c = 0, d = 0;
    __get_cpuid_count((unsigned)leaf, (unsigned)subleaf, &a, &b, &c, &d);
    r[0] = (int)a; r[1] = (int)b; r[2] = (int)c; r[3] = (int)d;
}
static unsigned long long binq_xgetbv(void) {
    unsigned low, high;
    __asm__ volatile(".byte 0x0f, 0x01, 0xd0" : "=a"(low), "=d"(high) : "c"(0));
    return ((unsigned long long)high << 32) | low;
}
#endif

/* Bits: 1 AVX2, 2 FMA, 4 F16C, 8 AVX-512 F+BW+VL, 16 AVX-512 VNNI. The operating system must save
 * the registers too, or the bit is not set. */
static int binq_x86_features(void) {
    int r[4], leaf1, found = 0;
    unsigned long long saved;
    binq_cpuid(0, 0, r);
    if (r[0] < 7) return 0;
    binq_cpuid(1, 0, r);
    leaf1 = r[2];
    if (!((leaf1 >> 27) & 1)) return 0;
    saved = binq_xgetbv();
    if ((saved & 6) != 6) return 0;
    if ((leaf1 >> 12) & 1) found |= 2;
    if ((leaf1 >> 29) & 1) found |= 4;
    binq_cpuid(7, 0, r);
    if ((r[1] >> 5) & 1) found |= 1;
    if ((saved & 0xe0) == 0xe0) {
        if (((r[1] >> 16) & 1) && ((r[1] >> 30) & 1) && ((r[1] >> 31) & 1)) found |= 8;
        if ((r[2] >> 11) & 1) found |= 16;
    }
    return found;
}
static int binq_is_x86(void) { return 1; }
#else
static int binq_x86_features(void) { return 0; }
static int binq_is_x86(void) { return 0; }
#endif

static int binq_is_aarch64(void) {
#if defined(__aarch64__) || defined(_M_ARM64)
    return 1;
#else
    return 0;
#endif
}

#endif
