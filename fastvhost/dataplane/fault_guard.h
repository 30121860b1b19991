/* SIGBUS on guest memory ends one port, not the process.
 *
 * A front-end may shorten the file behind a region, or the file system behind it may be full: the next access traps.
 * The handler lays memory of its own over the whole mapping, marks the guard and wakes the port's control thread through
 * an eventfd; the port then closes. A SIGBUS elsewhere goes where it would have gone without us.
 *
 * Guards form a list that only grows: the handler walks it without a lock. A guard is used again only after no thread
 * that might have seen it as it was is in the handler any more, however long that was kept from running.
 */
#ifndef FASTVHOST_FAULT_GUARD_H
#define FASTVHOST_FAULT_GUARD_H

#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#ifndef FAULT_GUARD_PAUSE       /* where a test stops the handler */
#define FAULT_GUARD_PAUSE() ((void)0)
#endif

struct fault_guard {
    uint8_t *base;              /* written by guard_mapping and unguard_mapping, read by the handler; NULL: no mapping */
    size_t bytes;
    int taken;                  /* until it may be used again */
    int attention_fd;
    int faulted;                /* written by the handler */
    struct fault_guard *next;
};

static struct fault_guard *fault_guards;
static struct sigaction fault_previous;
static int fault_handlers;      /* threads in the handler; written by them, awaited by unguard_mapping */

static struct fault_guard *fault_guard_of(const uint8_t *address)
{
    for (struct fault_guard *g = __atomic_load_n(&fault_guards, __ATOMIC_ACQUIRE); g; g = g->next) {
        uint8_t *base = __atomic_load_n(&g->base, __ATOMIC_ACQUIRE);
        FAULT_GUARD_PAUSE();
        if (base && (size_t)(address - base) < g->bytes)
            return g;
    }
    return NULL;
}

/* A memfd's pages count as they are touched. An anonymous mapping counts whole where the kernel promises only what it
 * has (vm.overcommit_memory=2), and where it refuses one, kernels before 6.12 have unmapped what was there already. */
static int lay_memory_over(const struct fault_guard *g)
{
    int fd = memfd_create("fastvhost-lost", MFD_CLOEXEC);
    if (fd >= 0 && ftruncate(fd, g->bytes)) {
        close(fd);
        fd = -1;
    }
    int kind = fd >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    int laid = mmap(g->base, g->bytes, PROT_READ | PROT_WRITE, kind | MAP_FIXED, fd, 0) == g->base;
    if (fd >= 0)
        close(fd);
    return laid;
}

static void on_sigbus(int signal_number, siginfo_t *info, void *context)
{
    (void)signal_number;
    (void)context;
    int saved = errno;
    __atomic_add_fetch(&fault_handlers, 1, __ATOMIC_SEQ_CST);   /* before a guard is read; pairs with unguard_mapping */
    struct fault_guard *g = fault_guard_of(info->si_addr);
    if (g && lay_memory_over(g)) {
        __atomic_store_n(&g->faulted, 1, __ATOMIC_RELEASE);
        int fd = __atomic_load_n(&g->attention_fd, __ATOMIC_RELAXED);
        uint64_t one = 1;
        if (fd >= 0 && write(fd, &one, sizeof one) < 0) { /* full means: it will be read anyway */ }
    } else {
        sigaction(SIGBUS, &fault_previous, NULL);   /* not ours: the access repeats and meets the earlier action */
    }
    __atomic_sub_fetch(&fault_handlers, 1, __ATOMIC_SEQ_CST);
    errno = saved;
}

/* Make sure that our handler is the one in place; another library may have put its own there meanwhile. */
static int arm_fault_guards(void)
{
    struct sigaction now, ours;
    if (sigaction(SIGBUS, NULL, &now))
        return -1;
    if ((now.sa_flags & SA_SIGINFO) && now.sa_sigaction == on_sigbus)
        return 0;
    memset(&ours, 0, sizeof ours);
    ours.sa_sigaction = on_sigbus;
    ours.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigemptyset(&ours.sa_mask);
    fault_previous = now;
    return sigaction(SIGBUS, &ours, NULL);
}

/* Called with the GIL held, so that there is one writer of the list. NULL: out of memory. */
static struct fault_guard *guard_mapping(uint8_t *base, size_t bytes)
{
    struct fault_guard *g = fault_guards;
    while (g && __atomic_load_n(&g->taken, __ATOMIC_ACQUIRE))
        g = g->next;
    if (!g) {
        g = calloc(1, sizeof *g);
        if (!g)
            return NULL;
        g->next = fault_guards;
        __atomic_store_n(&fault_guards, g, __ATOMIC_RELEASE);
    }
    g->taken = 1;
    g->bytes = bytes;
    g->attention_fd = -1;
    g->faulted = 0;
    __atomic_store_n(&g->base, base, __ATOMIC_RELEASE);
    return g;
}

/* Before the mapping is unmapped: then no handler lays memory over what comes in its place. */
static void unguard_mapping(struct fault_guard *g)
{
    const struct timespec a_little = {0, 50 * 1000};
    __atomic_store_n(&g->base, NULL, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&fault_handlers, __ATOMIC_SEQ_CST))   /* pairs with on_sigbus */
        nanosleep(&a_little, NULL);
    __atomic_store_n(&g->taken, 0, __ATOMIC_RELEASE);
}

static int guard_faulted(const struct fault_guard *g) { return __atomic_load_n(&g->faulted, __ATOMIC_ACQUIRE); }
static void guard_attention(struct fault_guard *g, int fd) { __atomic_store_n(&g->attention_fd, fd, __ATOMIC_RELAXED); }

#endif
