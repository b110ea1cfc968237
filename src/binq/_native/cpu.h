/* What this CPU and its operating system can run: asked before any kernel module is imported,
 * since even the initialisation of a module compiled for more is an illegal instruction.
 *
 * binq_machine() is a key of MACHINES in isas.py, or ""; bit i of binq_cpu_features() is feature i
 * of that machine's row. */
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

static const char *binq_machine(void) { return "x86_64"; }

/* The operating system must save the registers too, or the bit is not set. */
static int binq_cpu_features(void) {
    enum { AVX2 = 1, FMA = 2, F16C = 4, AVX512 = 8, AVX512_VNNI = 16, AVX_VNNI = 32 };
    int r[4], leaf1, found = 0;
    unsigned long long saved;
    binq_cpuid(0, 0, r);
    if (r[0] < 7) return 0;
    binq_cpuid(1, 0, r);
    leaf1 = r[2];
    if (!((leaf1 >> 27) & 1)) return 0;
    saved = binq_xgetbv();
    if ((saved & 6) != 6) return 0;
    if ((leaf1 >> 12) & 1) found |= FMA;
    if ((leaf1 >> 29) & 1) found |= F16C;
    binq_cpuid(7, 0, r);
    if ((r[1] >> 5) & 1) found |= AVX2;
    if ((saved & 0xe0) == 0xe0) {
        /* F, BW and VL */
        if (((r[1] >> 16) & 1) && ((r[1] >> 30) & 1) && ((r[1] >> 31) & 1)) found |= AVX512;
        if ((r[2] >> 11) & 1) found |= AVX512_VNNI;
    }
    binq_cpuid(7, 1, r);
    if ((r[0] >> 4) & 1) found |= AVX_VNNI;
    return found;
}

#elif defined(__aarch64__) || defined(_M_ARM64)
#if defined(__linux__)
#include <sys/auxv.h>
#elif defined(__APPLE__)
#include <sys/types.h>
#include <sys/sysctl.h>
static int binq_sysctl(const char *name) {
    int value = 0;
    size_t size = sizeof value;
    return sysctlbyname(name, &value, &size, 0, 0) == 0 && value != 0;
}
#elif defined(_WIN32)
#include <windows.h>
#endif

static const char *binq_machine(void) { return "aarch64"; }

/* NEON is part of the architecture. What this file itself is compiled for is there: Apple's
 * compiler takes DotProd for granted, and macOS 11 has no name to ask by. Other systems than these
 * are not asked. */
static int binq_cpu_features(void) {
    enum { NEON = 1, DOTPROD = 2, I8MM = 4 };
    int found = NEON;
#if defined(__linux__)
    /* HWCAP_ASIMDDP and HWCAP2_I8MM, which old headers do not name. */
    if ((getauxval(AT_HWCAP) >> 20) & 1) found |= DOTPROD;
    if ((getauxval(AT_HWCAP2) >> 13) & 1) found |= I8MM;
#elif defined(__APPLE__)
    if (binq_sysctl("hw.optional.arm.FEAT_DotProd")) found |= DOTPROD;
    if (binq_sysctl("hw.optional.arm.FEAT_I8MM")) found |= I8MM;
#elif defined(_WIN32)
    /* PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE and PF_ARM_V82_I8MM_INSTRUCTIONS_AVAILABLE, which old
     * headers do not name; systems that do not know a number say no. */
    if (IsProcessorFeaturePresent(43)) found |= DOTPROD;
    if (IsProcessorFeaturePresent(66)) found |= I8MM;
#endif
#if defined(__ARM_FEATURE_DOTPROD)
    found |= DOTPROD;
#endif
#if defined(__ARM_FEATURE_MATMUL_INT8)
    found |= I8MM;
#endif
    return found;
}

#else
static const char *binq_machine(void) { return ""; }
static int binq_cpu_features(void) { return 0; }
#endif

#endif
