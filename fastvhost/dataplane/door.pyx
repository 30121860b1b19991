"""The door through which control changes what workers see. See door.pxd for the handshake."""

from libc.stdint cimport uint32_t, uint64_t
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec
from posix.unistd cimport usleep, write

from fastvhost.abi.shared_memory cimport add_u32, cpu_pause, full_fence, load_acquire_u32, store_release_u32
from fastvhost.dataplane.debug cimport DEBUG, check

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len
    ssize_t preadv2(int fd, const iovec *parts, int n, long offset, int flags)
    const int RWF_NOWAIT

# A worker comes by between two bursts, which is microseconds; a core it shares with others may hold it for a while.
cdef enum:
    SPINS = 2000
    # Control spins longer than a round takes: if it napped, and another thread had its CPU by then, the workers that
    # came would stand still for a time slice of that thread.
    CONTROL_SPINS = 20000
    NAP_MICROSECONDS = 20
    # So long at most do workers that came stand still for one that did not.
    TOGETHER_NS = 20 * 1000 * 1000


class WorkerStuckError(RuntimeError):
    """A worker did not come to the door in time: it is blocked in the kernel, or its core is taken away."""


cdef class Door:
    """What ports and workers of one forwarder share: which workers own lanes of which port."""

    def __cinit__(self) -> None:
        self.n_gates = 0
        self.owners, self.ports = [], []

    cdef int add(self, Gate *gate, object owner) except -1:
        if self.n_gates == MOST_WORKERS:
            raise ValueError(f"door: {MOST_WORKERS} workers are the most")
        self.gates[self.n_gates] = gate
        self.n_gates += 1
        self.owners.append(owner)
        self.ports.append(set())
        return 0

    cdef int owns(self, Gate *gate, const void *port) except -1:
        """A worker that does not run gets lanes from or to this port: from now on the port waits for it."""
        cdef int i
        for i in range(self.n_gates):
            if self.gates[i] == gate:
                self.ports[i].add(<size_t>port)
                add_u32(&self.roll.version, 1)
        return 0

    cdef int remove(self, Gate *gate, object owner) except -1:
        cdef int i
        for i in range(self.n_gates):
            if self.gates[i] == gate:
                self.n_gates -= 1
                self.gates[i] = self.gates[self.n_gates]
                self.owners[i], self.ports[i] = self.owners[self.n_gates], self.ports[self.n_gates]
                self.owners.pop()
                self.ports.pop()
                add_u32(&self.roll.version, 1)
                break
        return 0

    cdef void wait_for_changes(self) noexcept nogil:
        """Until every change that may not know of the calling worker has taken effect: some fields are copied."""
        full_fence()  # pairs with the one in shut
        while load_acquire_u32(&self.roll.changing):
            cpu_pause()


cdef class PortDoor:
    """The door as one port uses it: the workers that own a lane of it stand still, and no others."""

    def __cinit__(self, Door door not None) -> None:
        self.door, self.owners = door, []
        self.version = 0xFFFFFFFF

    cdef int prepare(self) except -1:
        """Find out who owns lanes now. Before shut(), which runs without the GIL."""
        cdef int i
        cdef uint32_t version = load_acquire_u32(&self.door.roll.version)
        if version == self.version:
            return 0
        self.open()
        self.n_gates, owners = 0, []
        for i in range(self.door.n_gates):
            if <size_t>self.port in self.door.ports[i]:
                self.gates[self.n_gates] = self.door.gates[i]
                self.n_gates += 1
                owners.append(self.door.owners[i])
        self.owners, self.version = owners, version
        return 0

    cdef Passage shut(self, uint64_t wait_ns) noexcept nogil:
        """Have every worker that owns a lane of this port stand still, and keep it so until open().

        LATE: one did not within this time, so the others go on, and stand still no more than TOGETHER_NS for it. It
        stays asked, so that it stops when it is back; whoever does not try again opens.
        """
        cdef uint32_t i
        cdef uint64_t now = monotonic_ns(), end = now + wait_ns
        cdef bint came = True
        for i in range(self.n_gates):
            if self.asks[i] and not wait_parked(self.gates[i], end):
                return LATE
        for i in range(self.n_gates):
            if not self.asks[i]:
                self.asks[i] = True
                add_u32(&self.gates[i].asked, 1)
        full_fence()  # pairs with those in park, before a worker sleeps, and before it starts
        for i in range(self.n_gates):
            wake(self.gates[i])
        end = max(now + min(wait_ns, <uint64_t>TOGETHER_NS), monotonic_ns() + <uint64_t>1000000)
        for i in range(self.n_gates):
            came = wait_parked(self.gates[i], end) and came
        if not came:
            for i in range(self.n_gates):
                if stands(self.gates[i]):
                    self.let_go(i)
            return LATE
        self.shuts = True
        self.passages += 1
        add_u32(&self.door.roll.changing, 1)
        full_fence()  # pairs with the one in wait_for_changes
        if load_acquire_u32(&self.door.roll.version) != self.version:
            self.open()
            return ROLL_CHANGED
        return PASSED

    cdef void let_go(self, uint32_t i) noexcept nogil:
        if self.asks[i]:
            self.asks[i] = False
            if DEBUG:
                check(load_acquire_u32(&self.gates[i].asked) > 0, "door: who lets go has asked")
            add_u32(&self.gates[i].asked, <uint32_t>-1)  # a release: what was changed is seen by who goes on

    cdef void open(self) noexcept nogil:
        """Every worker goes on. Idempotent."""
        cdef uint32_t i
        if self.shuts:
            self.shuts = False
            add_u32(&self.door.roll.changing, <uint32_t>-1)
        for i in range(self.n_gates):
            self.let_go(i)

    cdef int close(self, uint64_t wait_ns) except -1:
        """Shut it, or raise WorkerStuckError with nothing shut. For changes that are made under the GIL."""
        cdef uint64_t end = monotonic_ns() + wait_ns, now
        cdef Passage passage = LATE
        while passage != PASSED:
            self.prepare()
            with nogil:
                now = monotonic_ns()
                passage = self.shut(end - now if now < end else 0)
            if passage == LATE and now >= end:
                late = self.who_is_late()
                self.open()
                raise WorkerStuckError(late)
        return 0

    cdef object who_is_late(self):
        """One sentence. After shut() said LATE, before open()."""
        cdef uint32_t i
        names = [
            self.owners[i].name for i in range(self.n_gates) if self.asks[i] and not stands(self.gates[i])
        ] or ["a worker"]
        do = "does" if len(names) == 1 else "do"
        return f"{' and '.join(names)} {do} not come to the door: blocked in the kernel, or without a core to run on"


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


cdef inline bint stands(const Gate *gate) noexcept nogil:
    """One that does not run stands, too: when it starts, it comes by the gate first."""
    return load_acquire_u32(&gate.parked) or not load_acquire_u32(&gate.running)


cdef bint wait_parked(const Gate *gate, uint64_t end) noexcept nogil:
    """Whether it stands still before this time."""
    cdef int spins = 0
    while not stands(gate):
        if spins < CONTROL_SPINS:
            spins += 1
            cpu_pause()
        elif monotonic_ns() >= end:
            return False
        else:
            usleep(NAP_MICROSECONDS)
    return True


cdef uint64_t monotonic_ns() noexcept nogil:
    cdef timespec clock
    clock_gettime(CLOCK_MONOTONIC, &clock)
    return <uint64_t>clock.tv_sec * 1000000000 + <uint64_t>clock.tv_nsec


cdef void park(Gate *gate) noexcept nogil:
    """Say that we stand still, until nobody asks for it any more, or we are to end."""
    cdef int spins = 0
    while True:
        store_release_u32(&gate.parked, 1)  # pairs with stands
        while load_acquire_u32(&gate.asked) and not load_acquire_u32(&gate.stopping):
            if spins < SPINS:
                spins += 1
                cpu_pause()
            else:
                usleep(NAP_MICROSECONDS)
        if load_acquire_u32(&gate.stopping):
            return  # still parked: a worker that ends touches no lane any more
        store_release_u32(&gate.parked, 0)
        full_fence()  # pairs with the one in shut: it sees that we have gone, or we see that it asks again
        if not load_acquire_u32(&gate.asked):
            return
