/* SIGBUS on guest memory ends one port, not the process.
 *
 * A front-end may shorten the file behind a region, or the file system behind it may be full: the next access traps.
 * The handler lays memory of its own over the whole mapping, marks the guard and wakes the port's control thread through
 * an eventfd; the port then closes. A SIGBUS elsewhere goes where it would have gone without us.
 *
 * What it lays over is reserved beforehand: each guard has a range of one sparse file, of its own, so that no guest ever
 * sees what another one lost. Nothing is opened or made longer in the handler, and one mmap is left that may fail: of
 * the errors of mmap(2), a file that is open, long enough and unsealed, at a page, over a mapping that is there, leaves
 * ENOMEM alone (no memory for the kernel's own account of it). That passes, so it is tried again, for a tenth of a
 * second; only then the process ends.
 *
 * Guards form a list that only grows: the handler walks it without a lock. A guard is used again only after no thread
 * that might have seen it as it was is in the handler any more, however long that was kept from running.
 */
#ifndef FASTVHOST_FAULT_GUARD_H
#define FASTVHOST_FAULT_GUARD_H

#include <errno.h>
#include <fcntl.h>
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
#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif

enum { FAULT_ATTEMPTS = 100 };  /* a millisecond apart */

struct fault_guard {
    uint8_t *base;              /* written by guard_mapping and unguard_mapping, read by the handler; NULL: no mapping */
    size_t bytes;
    int taken;                  /* until it may be used again */
    int attention_fd;
    int faulted;                /* written by the handler */
    off_t spare;                /* its range of fault_spare, kept while it is nobody's */
    size_t spare_bytes;
    struct fault_guard *next;
};

static struct fault_guard *fault_guards;
static struct sigaction fault_previous;
static int fault_spare = -1;    /* a memfd: its pages count as they are touched, under every vm.overcommit_memory */
static off_t fault_spare_end;
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

/* Its range, as long as the mapping. Without one (no descriptor is left, or a limit of file sizes holds) the handler
 * tries anonymous memory. */
static void reserve_spare(struct fault_guard *g)
{
    if (g->spare_bytes >= g->bytes)
        return;
    if (fault_spare < 0)
        fault_spare = memfd_create("fastvhost-lost", MFD_CLOEXEC);
    if (fault_spare < 0 || ftruncate(fault_spare, fault_spare_end + (off_t)g->bytes))
        return;
    g->spare = fault_spare_end;
    g->spare_bytes = g->bytes;
    fault_spare_end += (off_t)g->bytes;
}

/* What its mapping wrote there is no other's to see. */
static void empty_spare(struct fault_guard *g)
{
    const int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    if (g->faulted && g->spare_bytes && fallocate(fault_spare, mode, g->spare, (off_t)g->spare_bytes))
        g->spare_bytes = 0;
}

/* Where the kernel refuses a mapping, it may have unmapped what was there (before 6.12 it did): from then on the place
 * may be another thread's, and is taken only if it is free. */
static int lay_memory_over(const struct fault_guard *g)
{
    const struct timespec a_little = {0, 1000 * 1000};
    int place = MAP_FIXED;
    for (int i = 0; i < FAULT_ATTEMPTS; i++) {
        int own = g->spare_bytes >= g->bytes && i % 2 == 0;
        int kind = own ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
        if (mmap(g->base, g->bytes, PROT_READ | PROT_WRITE, kind | place, own ? fault_spare : -1, own ? g->spare : 0)
            == g->base)
            return 1;
        if (__atomic_load_n(&g->faulted, __ATOMIC_ACQUIRE))
            return 1;                       /* another thread was here meanwhile */
        if (msync(g->base, g->bytes, MS_ASYNC))
            place = MAP_FIXED_NOREPLACE;    /* not all of it is mapped any more */
        nanosleep(&a_little, NULL);
    }
    return 0;
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
    reserve_spare(g);
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
    empty_spare(g);
    __atomic_store_n(&g->taken, 0, __ATOMIC_RELEASE);
}

static int guard_faulted(const struct fault_guard *g) { return __atomic_load_n(&g->faulted, __ATOMIC_ACQUIRE); }
static void guard_attention(struct fault_guard *g, int fd) { __atomic_store_n(&g->attention_fd, fd, __ATOMIC_RELAXED); }

#endif
