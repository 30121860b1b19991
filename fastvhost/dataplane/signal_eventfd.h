/* Writing an eventfd that somebody else also holds, without ever blocking.
 *
 * O_NONBLOCK belongs to the open file, so a hostile front-end can clear it behind our back, fill the counter, and have
 * the next write(2) stop a worker and every port on it. Linux AIO can signal an eventfd when an operation completes
 * (io_submit(2), IOCB_FLAG_RESFD), and that only ever adds: a full counter stays full. The operation is a read of
 * nothing from an empty memfd, complete at once.
 *
 * One context a thread: contexts are shared between no two workers. Where AIO is not to be had (seccomp, aio-max-nr), a
 * write after a look at the flags is all that is left.
 */
#ifndef FASTVHOST_SIGNAL_EVENTFD_H
#define FASTVHOST_SIGNAL_EVENTFD_H

#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SIGNAL_EVENTS 64

static __thread aio_context_t signal_context;
static __thread int signal_without_aio;
static int signal_nothing = -1;     /* the empty memfd */

static void prepare_signals(void) { signal_nothing = memfd_create("fastvhost nothing", MFD_CLOEXEC); }

/* At the end of a worker's thread. */
static void release_signals(void)
{
    if (signal_context)
        syscall(SYS_io_destroy, signal_context);
    signal_context = 0;
}

static int submit_signal(int fd)
{
    struct iocb operation, *list = &operation;
    memset(&operation, 0, sizeof operation);
    operation.aio_lio_opcode = IOCB_CMD_PREAD;
    operation.aio_fildes = signal_nothing;
    operation.aio_flags = IOCB_FLAG_RESFD;
    operation.aio_resfd = fd;
    return syscall(SYS_io_submit, signal_context, 1L, &list) == 1;
}

/* Whether the counter was added to, or is full. */
static int signal_eventfd(int fd)
{
    if (!signal_context && !signal_without_aio)
        signal_without_aio = signal_nothing < 0 || syscall(SYS_io_setup, (long)SIGNAL_EVENTS, &signal_context) != 0;
    if (!signal_without_aio) {
        if (submit_signal(fd))
            return 1;
        if (errno == EAGAIN) {      /* the ring of completions is full: nobody needs them */
            struct io_event events[SIGNAL_EVENTS];
            struct timespec now = {0, 0};
            syscall(SYS_io_getevents, signal_context, 0L, (long)SIGNAL_EVENTS, events, &now);
            return submit_signal(fd);
        }
        return 0;
    }
    uint64_t one = 1;
    int flags = fcntl(fd, F_GETFL);
    return flags >= 0 && (flags & O_NONBLOCK) && (write(fd, &one, sizeof one) == sizeof one || errno == EAGAIN);
}

#endif
