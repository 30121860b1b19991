"""The door through which control changes what workers see. See door.pxd for the handshake."""

from libc.stdint cimport uint32_t, uint64_t
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec
from posix.unistd cimport usleep, write

from fastvhost.abi.shared_memory cimport cpu_pause, full_fence, load_acquire_u32, store_release_u32

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len
    ssize_t preadv2(int fd, const iovec *parts, int n, long offset, int flags)
    const int RWF_NOWAIT

# A worker comes by between two bursts, which is microseconds; a core it shares with others may hold it for a while.
cdef enum:
    SPINS = 2000
    NAP_MICROSECONDS = 20
    MOST_SECONDS = 5
    # Once that was in vain: whoever asks again, and holds the GIL meanwhile, looks only whether it is back.
    LATE_NS = 200 * 1000 * 1000


class WorkerStuckError(RuntimeError):
    """A worker did not come to the door in time: it is blocked in the kernel, or its core is taken away."""


cdef class Door:
    """Parks every worker between two bursts while a few fields are swapped."""

    def __cinit__(self) -> None:
        self.n_gates = 0
        self.owners = []

    cdef int add(self, Gate *gate, object owner) except -1:
        if self.n_gates == 64:
            raise ValueError("door: 64 workers are the most")
        self.gates[self.n_gates] = gate
        self.n_gates += 1
        self.owners.append(owner)
        return 0

    cdef int remove(self, Gate *gate, object owner) except -1:
        cdef int i
        for i in range(self.n_gates):
            if self.gates[i] == gate:
                self.n_gates -= 1
                self.gates[i] = self.gates[self.n_gates]
                self.owners = [kept for kept in self.owners if kept is not owner]
                break
        return 0

    cdef int close(self) except -1:
        """Returns once every running worker is parked. The GIL is held on purpose: nothing may come in between."""
        cdef int i
        for i in range(self.n_gates):
            store_release_u32(&self.gates[i].asked, self.gates[i].asked + 1)
        full_fence()  # pairs with the one before a worker sleeps
        for i in range(self.n_gates):
            wake(self.gates[i])
        for i in range(self.n_gates):
            if not wait_parked(self.gates[i]):
                self.gates[i].late = True
                self.open()
                raise WorkerStuckError(f"a worker did not park within {MOST_SECONDS} s; its core may be overloaded")
            self.gates[i].late = False
        return 0

    cdef void open(self) noexcept:
        cdef int i
        for i in range(self.n_gates):
            store_release_u32(&self.gates[i].asked, self.gates[i].asked + 1)


cdef void wake(Gate *gate) noexcept nogil:
    """End a worker's sleep, if it sleeps. After a full fence, so that one of the two sees the other."""
    cdef uint64_t one = 1
    if load_acquire_u32(&gate.asleep):
        write(gate.wake_fd, &one, sizeof(one))  # full: it will wake anyway


cdef uint64_t drain_eventfd(int fd) noexcept nogil:
    """Take what an eventfd has counted, and return it. Never blocks, whatever its flags say: they are shared."""
    cdef uint64_t count = 0
    cdef iovec part = iovec(&count, sizeof(count))
    if preadv2(fd, &part, 1, -1, RWF_NOWAIT) != sizeof(count):
        return 0
    return count


cdef bint wait_parked(Gate *gate) noexcept:
    cdef int spins = 0
    cdef uint64_t end = 0
    while load_acquire_u32(&gate.running) and load_acquire_u32(&gate.parked) != gate.asked:
        if spins < SPINS:
            spins += 1
            cpu_pause()
        elif end == 0:
            end = monotonic_ns() + (LATE_NS if gate.late else <uint64_t>MOST_SECONDS * 1000000000)
        elif monotonic_ns() < end:
            usleep(NAP_MICROSECONDS)
        else:
            return False
    return True


cdef uint64_t monotonic_ns() noexcept nogil:
    cdef timespec clock
    clock_gettime(CLOCK_MONOTONIC, &clock)
    return <uint64_t>clock.tv_sec * 1000000000 + <uint64_t>clock.tv_nsec


cdef void park(Gate *gate, uint32_t ticket) noexcept nogil:
    """Say that we stand still and wait for the door to open. pairs with wait_parked."""
    cdef int spins = 0
    store_release_u32(&gate.parked, ticket)
    while load_acquire_u32(&gate.asked) == ticket:
        if spins < SPINS:
            spins += 1
            cpu_pause()
        else:
            usleep(NAP_MICROSECONDS)
