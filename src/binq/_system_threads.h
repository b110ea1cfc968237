/* Mutex, condition variable, thread and counter under one name each, for POSIX and Windows.
 * Only what the pool of _threads.pyx needs; nothing here knows binq. */
#ifndef BINQ_THREADS_H
#define BINQ_THREADS_H

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#include <process.h>

typedef SRWLOCK binq_mutex;
typedef CONDITION_VARIABLE binq_condition;
typedef void (*binq_entry)(void *);

static inline void binq_mutex_init(binq_mutex *m) { InitializeSRWLock(m); }
static inline void binq_mutex_lock(binq_mutex *m) { AcquireSRWLockExclusive(m); }
static inline int binq_mutex_try(binq_mutex *m) { return TryAcquireSRWLockExclusive(m) != 0; }
static inline void binq_mutex_unlock(binq_mutex *m) { ReleaseSRWLockExclusive(m); }
static inline void binq_condition_init(binq_condition *c) { InitializeConditionVariable(c); }
static inline void binq_condition_wait(binq_condition *c, binq_mutex *m) {
    SleepConditionVariableSRW(c, m, INFINITE, 0);
}
static inline void binq_condition_wake_all(binq_condition *c) { WakeAllConditionVariable(c); }

static binq_entry binq_entry_point;
static unsigned __stdcall binq_thread_main(void *argument) {
    binq_entry_point(argument);
    return 0;
}
static inline int binq_thread_start(binq_entry entry, void *argument) {
    uintptr_t handle;
    binq_entry_point = entry;
    handle = _beginthreadex(NULL, 0, binq_thread_main, argument, 0, NULL);
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
static inline void binq_pause(void) { YieldProcessor(); }

#else
#include <pthread.h>
#include <signal.h>

typedef pthread_mutex_t binq_mutex;
typedef pthread_cond_t binq_condition;
typedef void (*binq_entry)(void *);

static inline void binq_mutex_init(binq_mutex *m) { pthread_mutex_init(m, NULL); }
static inline void binq_mutex_lock(binq_mutex *m) { pthread_mutex_lock(m); }
static inline int binq_mutex_try(binq_mutex *m) { return pthread_mutex_trylock(m) == 0; }
static inline void binq_mutex_unlock(binq_mutex *m) { pthread_mutex_unlock(m); }
static inline void binq_condition_init(binq_condition *c) { pthread_cond_init(c, NULL); }
static inline void binq_condition_wait(binq_condition *c, binq_mutex *m) {
    pthread_cond_wait(c, m);
}
static inline void binq_condition_wake_all(binq_condition *c) { pthread_cond_broadcast(c); }

static binq_entry binq_entry_point;
static void *binq_thread_main(void *argument) {
    binq_entry_point(argument);
    return NULL;
}
static inline int binq_thread_start(binq_entry entry, void *argument) {
    /* Workers take no signals: Ctrl-C belongs to Python's main thread. */
    pthread_t thread;
    sigset_t all, before;
    int failed;
    binq_entry_point = entry;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    failed = pthread_create(&thread, NULL, binq_thread_main, argument);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed) return 0;
    pthread_detach(thread);
    return 1;
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
static inline void binq_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}
#endif

#endif
