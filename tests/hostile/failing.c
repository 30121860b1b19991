/* Preloaded into fwd: lets calls for resources of its own fail, as a board says that a test shares with it.

For each function an entry {skip, fail}: of the calls from now on, `skip` succeed, then `fail` do not, then all do again.
FAILING_BOARD names the file. A process without one is left alone. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

struct entry { int64_t skip, fail, failed; };

enum {
    MMAP, MMAP_OVER, MEMFD_CREATE, IO_SETUP, PTHREAD_CREATE, ACCEPT4, EVENTFD, SOCKET, DUP, FORK, RECVMSG, SENDMSG,
    FIRST_FRAME, ENTRIES
};

static struct entry *board;

static long raw(long number, long a, long b, long c, long d, long e, long f)
{
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

static long answer(long result)
{
    if (result < 0 && result > -4096) {
        errno = (int)-result;
        return -1;
    }
    return result;
}

__attribute__((constructor)) static void find_board(void)
{
    const char *path = getenv("FAILING_BOARD");
    long fd = path ? raw(SYS_open, (long)path, O_RDWR | O_CLOEXEC, 0, 0, 0, 0) : -1;
    if (fd < 0)
        return;
    long at = raw(SYS_mmap, 0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    raw(SYS_close, fd, 0, 0, 0, 0, 0);
    if (at > 0)
        board = (struct entry *)at;
}

static int fails(int which)
{
    if (!board || __atomic_load_n(&board[which].fail, __ATOMIC_ACQUIRE) <= 0)
        return 0;
    if (__atomic_fetch_sub(&board[which].skip, 1, __ATOMIC_ACQ_REL) > 0)
        return 0;
    if (__atomic_fetch_sub(&board[which].fail, 1, __ATOMIC_ACQ_REL) <= 0)
        return 0;
    __atomic_fetch_add(&board[which].failed, 1, __ATOMIC_ACQ_REL);
    return 1;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define REFUSE(which, error) do { if (fails(which)) { errno = error; return -1; } } while (0)

void *mmap(void *addr, size_t length, int prot, int flags, int fd, off_t offset)
{
    /* Of files, and what replaces a mapping: what the interpreter's own allocator asks for is another matter. */
    if (flags & MAP_FIXED ? fails(MMAP_OVER) : fd >= 0 && fails(MMAP)) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    /* What CPython maps for the first frame of a thread (DATA_STACK_CHUNK_SIZE). */
    if (fd < 0 && length == 16384 && !(flags & MAP_FIXED) && fails(FIRST_FRAME)) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    return (void *)answer(raw(SYS_mmap, (long)addr, (long)length, prot, flags, fd, offset));
}

void *mmap64(void *addr, size_t length, int prot, int flags, int fd, off_t offset)
{
    return mmap(addr, length, prot, flags, fd, offset);
}

int memfd_create(const char *name, unsigned int flags)
{
    REFUSE(MEMFD_CREATE, EMFILE);
    return (int)answer(raw(SYS_memfd_create, (long)name, flags, 0, 0, 0, 0));
}

long syscall(long number, ...)
{
    long a[6];
    va_list words;
    va_start(words, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(words, long);
    va_end(words);
    if (number == SYS_io_setup)
        REFUSE(IO_SETUP, EAGAIN);
    if (number == SYS_memfd_create)
        REFUSE(MEMFD_CREATE, EMFILE);
    return answer(raw(number, a[0], a[1], a[2], a[3], a[4], a[5]));
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *), void *argument)
{
    if (fails(PTHREAD_CREATE))
        return EAGAIN;
    return REAL(pthread_create)(thread, attributes, start, argument);
}

int accept4(int fd, struct sockaddr *address, socklen_t *length, int flags)
{
    REFUSE(ACCEPT4, EMFILE);
    return REAL(accept4)(fd, address, length, flags);
}

int eventfd(unsigned int value, int flags)
{
    REFUSE(EVENTFD, EMFILE);
    return (int)answer(raw(SYS_eventfd2, value, flags, 0, 0, 0, 0));
}

int socket(int domain, int type, int protocol)
{
    REFUSE(SOCKET, EMFILE);
    return (int)answer(raw(SYS_socket, domain, type, protocol, 0, 0, 0));
}

int socketpair(int domain, int type, int protocol, int pair[2])
{
    REFUSE(SOCKET, EMFILE);
    return (int)answer(raw(SYS_socketpair, domain, type, protocol, (long)pair, 0, 0));
}

int dup(int fd)
{
    REFUSE(DUP, EMFILE);
    return (int)answer(raw(SYS_dup, fd, 0, 0, 0, 0, 0));
}

int fcntl(int fd, int command, ...)
{
    va_list words;
    va_start(words, command);
    long argument = va_arg(words, long);
    va_end(words);
    if (command == F_DUPFD || command == F_DUPFD_CLOEXEC)
        REFUSE(DUP, EMFILE);
    return (int)answer(raw(SYS_fcntl, fd, command, argument, 0, 0, 0));
}

int fcntl64(int fd, int command, ...)
{
    va_list words;
    va_start(words, command);
    long argument = va_arg(words, long);
    va_end(words);
    return fcntl(fd, command, argument);
}

/* FAILING_REPLACE: whoever may write the directory puts a link to this file where a fresh socket was, at once. */
int bind(int fd, const struct sockaddr *address, socklen_t length)
{
    int result = REAL(bind)(fd, address, length);
    const char *secret = getenv("FAILING_REPLACE");
    if (result == 0 && secret && address->sa_family == AF_UNIX && address->sa_data[0]) {
        char path[sizeof(struct sockaddr_un)] = "";
        memcpy(path, address->sa_data, length - sizeof(sa_family_t));
        if (strstr(path, "replaced") && (unlink(path) || symlink(secret, path)))
            abort();
    }
    return result;
}

pid_t fork(void)
{
    REFUSE(FORK, EAGAIN);
    return REAL(fork)();
}

ssize_t recvmsg(int fd, struct msghdr *message, int flags)
{
    REFUSE(RECVMSG, ENOMEM);
    return REAL(recvmsg)(fd, message, flags);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
    REFUSE(SENDMSG, ENOBUFS);
    return REAL(sendmsg)(fd, message, flags);
}
