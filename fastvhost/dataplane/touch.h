/* Touching memory that may keep whoever touches it waiting, or be gone: by a thread that may wait, never by a worker.
 *
 * The kernel reads the memory for us, into an eventfd of ours: where none is mapped, or its file ends before it, that
 * is an error and no signal. Whether it had to wait is told by the kernel's count of the thread's own sleeps: time that
 * the thread only spent without a CPU is not among them.
 */
#ifndef FASTVHOST_TOUCH_H
#define FASTVHOST_TOUCH_H

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#ifndef RUSAGE_THREAD
#define RUSAGE_THREAD 1
#endif

/* What is touched with: an eventfd that never blocks, and a page of our own that nobody else can keep us from. */
struct toucher {
    int sink;
    uint8_t *own;
};

static int open_toucher(struct toucher *t, size_t page)
{
    void *own = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    t->own = own == MAP_FAILED ? NULL : own;
    t->sink = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    return t->own && t->sink >= 0 ? 0 : -1;
}

static void close_toucher(struct toucher *t, size_t page)
{
    if (t->own)
        munmap(t->own, page);
    if (t->sink >= 0)
        close(t->sink);
    t->own = NULL;
    t->sink = -1;
}

static long sleeps_of_this_thread(void)
{
    struct rusage usage;
    return getrusage(RUSAGE_THREAD, &usage) ? 0 : usage.ru_nvcsw;
}

/* Eight bytes of each of these pages. Whether the thread slept over it. */
static int touch_pages(const struct toucher *t, uint8_t *const *pages, uint32_t n)
{
    long before = sleeps_of_this_thread();
    for (uint32_t i = 0; i < n; i++) {
        /* A full counter, an odd value: what it is does not matter, it was read. */
        if (write(t->sink, (const void *)((uintptr_t)pages[i] & ~(uintptr_t)7), 8) < 0)
            continue;
    }
    return sleeps_of_this_thread() != before;
}

/* The same for a page of ours that was not there. Then the kernel keeps everybody waiting, and it is no guest's doing:
 * it is short of memory, or the process's mappings are being changed. */
static int touch_own(const struct toucher *t, size_t page)
{
    long before = sleeps_of_this_thread();
    madvise(t->own, page, MADV_DONTNEED);
    uint8_t *own = t->own;
    touch_pages(t, &own, 1);
    return sleeps_of_this_thread() != before;
}

/* What waits_in_kernel reads; -1: there is no such thread, or no descriptor for it. */
static int open_thread_stat(int thread)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", thread);
    return open(path, O_RDONLY | O_CLOEXEC);
}

/* Whether a thread sleeps in the kernel where no signal reaches it, as in a page fault. fd: its /proc/.../stat, whose
 * state stands behind the name, which is in brackets. */
static int waits_in_kernel(int fd)
{
    char text[128];
    ssize_t n = pread(fd, text, sizeof text - 1, 0);
    if (n <= 0)
        return 0;
    text[n] = 0;
    const char *end = strrchr(text, ')');
    return end && end[1] == ' ' && end[2] == 'D';
}

#endif
