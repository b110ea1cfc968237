/* Mutex, condition variable, thread and counter under one name each, for POSIX and Windows.
 * Only what the pool of _threads.pyx needs; nothing here knows binq. */
#ifndef BINQ_THREADS_H
#define BINQ_THREADS_H

/* Kernels use some tens of kilobytes; the usual 8 MB a thread counts against a memory limit. */
#define BINQ_STACK_BYTES (1 << 20)

/* Whether the thread at hand does all work by itself. */
#if defined(_MSC_VER)
static __declspec(thread) int binq_alone;
#else
static __thread int binq_alone;
#endif

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#include <process.h>

typedef SRWLOCK binq_mutex;
typedef CONDITION_VARIABLE binq_condition;
typedef void (*binq_entry)(void);

static inline void binq_mutex_init(binq_mutex *m) { InitializeSRWLock(m); }
static inline void binq_mutex_lock(binq_mutex *m) { AcquireSRWLockExclusive(m); }
static inline int binq_mutex_try(binq_mutex *m) { return TryAcquireSRWLockExclusive(m) != 0; }
static inline void binq_mutex_unlock(binq_mutex *m) { ReleaseSRWLockExclusive(m); }
static inline void binq_condition_init(binq_condition *c) { InitializeConditionVariable(c); }
static inline void binq_condition_wait(binq_condition *c, binq_mutex *m) {
    SleepConditionVariableSRW(c, m, INFINITE, 0);
}
static inline void binq_condition_wake(binq_condition *c) { WakeConditionVariable(c); }
static inline void binq_condition_wake_all(binq_condition *c) { WakeAllConditionVariable(c); }

static unsigned __stdcall binq_thread_main(void *entry) {
    ((binq_entry)entry)();
    return 0;
}
static inline int binq_thread_start(binq_entry entry) {
    uintptr_t handle = _beginthreadex(NULL, BINQ_STACK_BYTES, binq_thread_main, (void *)entry,
                                      STACK_SIZE_PARAM_IS_A_RESERVATION, NULL);
    if (handle == 0) return 0;
    CloseHandle((HANDLE)handle);
    return 1;
}
static inline long long binq_fetch_add(volatile long long *p, long long n) {
    return InterlockedExchangeAdd64(p, n);
}
static inline long long binq_load(volatile long long *p) {
    return InterlockedCompareExchange64(p, 0, 0);
}
static inline void binq_store(volatile long long *p, long long v) { InterlockedExchange64(p, v); }
static inline int binq_swap_if(volatile long long *p, long long *expected, long long v) {
    long long found = InterlockedCompareExchange64(p, v, *expected);
    if (found == *expected) return 1;
    *expected = found;
    return 0;
}
static inline void binq_pause(void) { YieldProcessor(); }
static inline void binq_yield(void) { SwitchToThread(); }
static inline void binq_after_fork(void (*reset)(void)) { (void)reset; }

#else
#include <pthread.h>
#include <sched.h>
#include <signal.h>

typedef pthread_mutex_t binq_mutex;
typedef pthread_cond_t binq_condition;
typedef void (*binq_entry)(void);

static inline void binq_mutex_init(binq_mutex *m) { pthread_mutex_init(m, NULL); }
static inline void binq_mutex_lock(binq_mutex *m) { pthread_mutex_lock(m); }
static inline int binq_mutex_try(binq_mutex *m) { return pthread_mutex_trylock(m) == 0; }
static inline void binq_mutex_unlock(binq_mutex *m) { pthread_mutex_unlock(m); }
static inline void binq_condition_init(binq_condition *c) { pthread_cond_init(c, NULL); }
static inline void binq_condition_wait(binq_condition *c, binq_mutex *m) {
    pthread_cond_wait(c, m);
}
static inline void binq_condition_wake(binq_condition *c) { pthread_cond_signal(c); }
static inline void binq_condition_wake_all(binq_condition *c) { pthread_cond_broadcast(c); }

static void *binq_thread_main(void *entry) {
    ((binq_entry)entry)();
    return NULL;
}
static inline int binq_thread_start(binq_entry entry) {
    /* Workers take no signals: Ctrl-C belongs to Python's main thread. Faults are their own, so
     * that faulthandler reports them. */
    pthread_t thread;
    pthread_attr_t attributes;
    sigset_t others, before;
    int failed;
    sigfillset(&others);
    sigdelset(&others, SIGSEGV);
    sigdelset(&others, SIGBUS);
    sigdelset(&others, SIGFPE);
    sigdelset(&others, SIGILL);
    if (pthread_attr_init(&attributes)) return 0;
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, BINQ_STACK_BYTES);
    pthread_sigmask(SIG_SETMASK, &others, &before);
    failed = pthread_create(&thread, &attributes, binq_thread_main, (void *)entry);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return !failed;
}
static inline long long binq_fetch_add(volatile long long *p, long long n) {
    return __atomic_fetch_add(p, n, __ATOMIC_ACQ_REL);
}
static inline long long binq_load(volatile long long *p) {
    return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}
static inline void binq_store(volatile long long *p, long long v) {
    __atomic_store_n(p, v, __ATOMIC_RELEASE);
}
static inline int binq_swap_if(volatile long long *p, long long *expected, long long v) {
    return __atomic_compare_exchange_n(p, expected, v, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}
static inline void binq_yield(void) { sched_yield(); }
/* Also for a fork that Python does not know of, as one by a library. */
static inline void binq_after_fork(void (*reset)(void)) { pthread_atfork(NULL, NULL, reset); }
static inline void binq_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}
#endif

#endif
