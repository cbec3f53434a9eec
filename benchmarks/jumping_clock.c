/* A wall clock that is off by what a file says, for the one process that this is preloaded into.

   As when the clock of a machine is set: readings jump, waits until a time of the wall clock end
   earlier or later, also those that have begun; the monotonic clock goes on as it was.
   JUMPING_CLOCK names the file: a whole number of seconds, 64 bits, which may change at any time. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { SECOND_NS = 1000000000, SLICE_NS = 50000000, AGES = 1000000000 };

static const volatile int64_t *off;
static int (*true_gettime)(clockid_t, struct timespec *);
static long (*true_syscall)(long, ...);
static int (*true_sem_timedwait)(sem_t *, const struct timespec *);

__attribute__((constructor)) static void begin(void) {
    true_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    true_syscall = dlsym(RTLD_NEXT, "syscall");
    true_sem_timedwait = dlsym(RTLD_NEXT, "sem_timedwait");
    const char *name = getenv("JUMPING_CLOCK");
    int file = name ? open(name, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0)
        return;
    void *page = mmap(NULL, sizeof *off, PROT_READ, MAP_SHARED, file, 0);
    if (page != MAP_FAILED)
        off = page;
    close(file);
}

static int64_t jump(void) { return off ? *off : 0; }

int clock_gettime(clockid_t clock, struct timespec *now) {
    if (!true_gettime)
        begin(); /* another library's start asks before ours has run */
    int result = true_gettime(clock, now);
    if (!result && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += jump();
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    (void)zone;
    struct timespec precise;
    int result = clock_gettime(CLOCK_REALTIME, &precise);
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return result;
}

time_t time(time_t *copy) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (copy)
        *copy = now.tv_sec;
    return now.tv_sec;
}

/* The true time at which to look again: at the jumped time `until`, or a slice from now. Whether it
   is only a slice. */
static int look_again(const struct timespec *until, struct timespec *end) {
    struct timespec soon;
    true_gettime(CLOCK_REALTIME, &soon);
    soon.tv_nsec += SLICE_NS;
    soon.tv_sec += soon.tv_nsec / SECOND_NS;
    soon.tv_nsec %= SECOND_NS;
    *end = *until;
    end->tv_sec -= jump();
    if (end->tv_sec < soon.tv_sec || (end->tv_sec == soon.tv_sec && end->tv_nsec <= soon.tv_nsec))
        return 0;
    *end = soon;
    return 1;
}

int pthread_cond_timedwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict until) {
    if (until->tv_sec < AGES) /* of the monotonic clock, which counts from the machine's start */
        return pthread_cond_clockwait(condition, mutex, CLOCK_MONOTONIC, until);
    struct timespec end;
    int sliced = look_again(until, &end);
    int result = pthread_cond_clockwait(condition, mutex, CLOCK_REALTIME, &end);
    return result == ETIMEDOUT && sliced ? 0 : result; /* a spurious wake-up, which may always be */
}

int sem_timedwait(sem_t *restrict semaphore, const struct timespec *restrict until) {
    struct timespec end;
    int sliced, result;
    do {
        sliced = look_again(until, &end);
        result = true_sem_timedwait(semaphore, &end);
    } while (result && errno == ETIMEDOUT && sliced);
    return result;
}

long syscall(long number, ...) {
    va_list list;
    va_start(list, number);
    long a = va_arg(list, long), b = va_arg(list, long), c = va_arg(list, long);
    long d = va_arg(list, long), e = va_arg(list, long), f = va_arg(list, long);
    va_end(list);
    if (!true_syscall)
        begin();
    if (number != SYS_futex || !(b & FUTEX_CLOCK_REALTIME) || !d)
        return true_syscall(number, a, b, c, d, e, f);
    struct timespec end;
    int sliced = look_again((const struct timespec *)d, &end);
    long result = true_syscall(number, a, b, c, (long)&end, e, f);
    if (result == -1 && errno == ETIMEDOUT && sliced)
        errno = EINTR;
    return result;
}
