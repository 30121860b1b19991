/* Signalling through a descriptor that somebody else also holds, without ever waiting.
 *
 * O_NONBLOCK belongs to the open file, so a hostile front-end can clear it behind our back, fill the counter of an
 * eventfd, and have the next write(2) wait for ever; to look first and then to write leaves it the time in between.
 * Linux AIO can signal an eventfd when an operation completes (io_submit(2), IOCB_FLAG_RESFD), and that only ever adds:
 * a full counter stays full. The operation is a read of nothing from an empty memfd, complete at once; where a sandbox
 * forbids memfd_create, from /dev/null. A socket is told with each send(2) not to wait.
 *
 * One context a worker, so that no two share the lock of one; another for all control threads.
 */
#ifndef FASTVHOST_SIGNAL_FOREIGN_H
#define FASTVHOST_SIGNAL_FOREIGN_H

#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#define SIGNAL_EVENTS 64

struct signals {
    aio_context_t context;      /* 0: there is none, because the kernel refused it */
    int nothing;                /* a file that every read of is empty and at once */
    uint32_t untimed;           /* notifications until one is timed */
};

/* The machine's own /dev/null, or -1: another file in its place might make a read wait. null(4) */
static int open_null(void)
{
    struct stat found;
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd >= 0 && (fstat(fd, &found) || !S_ISCHR(found.st_mode) || found.st_rdev != makedev(1, 3))) {
        close(fd);
        fd = -1;
    }
    return fd;
}

/* 0, or the error number. A context that was made costs 30 ms to destroy (a grace period of the kernel's). */
static int make_signals(struct signals *made)
{
    static int nothing = -1;
    memset(made, 0, sizeof *made);
    if (nothing < 0)
        nothing = memfd_create("fastvhost nothing", MFD_CLOEXEC);
    int refused = errno;
    if (nothing < 0)
        nothing = open_null();
    made->nothing = nothing;
    if (nothing < 0)
        return refused;
    return syscall(SYS_io_setup, (long)SIGNAL_EVENTS, &made->context) == 0 ? 0 : errno;
}

static void discard_signals(struct signals *made)
{
    if (made->context)
        syscall(SYS_io_destroy, made->context);
    made->context = 0;
}

static int submit_signal(const struct signals *with, int fd)
{
    struct iocb operation, *list = &operation;
    memset(&operation, 0, sizeof operation);
    operation.aio_lio_opcode = IOCB_CMD_PREAD;
    operation.aio_fildes = with->nothing;
    operation.aio_flags = IOCB_FLAG_RESFD;
    operation.aio_resfd = fd;
    return syscall(SYS_io_submit, with->context, 1L, &list) == 1;
}

/* Whether the counter was added to, or is full. 0: it takes somebody who may wait. */
static int signal_eventfd(const struct signals *with, int fd)
{
    if (!with->context)
        return 0;
    if (submit_signal(with, fd))
        return 1;
    if (errno != EAGAIN)
        return 0;
    /* The ring of completions is full: nobody needs them. */
    struct io_event events[SIGNAL_EVENTS];
    struct timespec now = {0, 0};
    syscall(SYS_io_getevents, with->context, 0L, (long)SIGNAL_EVENTS, events, &now);
    return submit_signal(with, fd);
}

/* Whether it is a socket. One without room has been signalled often enough, one without peer has nobody to tell. */
static int signal_socket(int fd)
{
    uint64_t one = 1;
    return send(fd, &one, sizeof one, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0 || errno != ENOTSOCK;
}

/* For a thread that may wait, and does where a front-end wants it to. */
static void signal_and_wait(int fd)
{
    uint64_t one = 1;
    if (!signal_socket(fd) && write(fd, &one, sizeof one) < 0)
        return;                 /* a full counter that does not block; there is nothing to add */
}

/* AF_UNIX, AF_INET, ...; -1 for what is no socket. Asks the socket layer only, never a protocol or a file system. */
static int socket_domain(int fd)
{
    int domain = -1;
    socklen_t bytes = sizeof domain;
    return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &bytes) == 0 ? domain : -1;
}

#endif
