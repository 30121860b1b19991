"""The door through which control changes what workers see. See door.pxd for the handshake."""

import os

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset
from posix.unistd cimport close, usleep

from fastvhost.abi.shared_memory cimport (
    add_u32,
    clear_bits_u64,
    cpu_pause,
    full_fence,
    load_acquire_u32,
    load_acquire_u64,
    replace_u64,
    set_bits_u64,
    store_release_u32,
    store_release_u64,
)
from fastvhost.dataplane.clock cimport monotonic_ns
from fastvhost.dataplane.delivery_lock cimport give_lock, take_lock
from fastvhost.dataplane.eventfd cimport wake_eventfd

# A worker comes between two bursts, within microseconds; where it shares its core with others, later.
cdef enum:
    SPINS = 2000
    NAP_MICROSECONDS = 20
    # The longest time that a worker that has come waits for one that has not.
    TOGETHER_NS = 20 * 1000 * 1000
    # The least time that a change stays posted, however short the control thread waits.
    LEAST_NS = 1000 * 1000
    # After which the control thread comes in the place of those that only deliver to its port.
    STAND_IN_NS = 5 * 1000 * 1000

# Bits of `missing` beside those of the workers.
cdef uint64_t COUNTING = <uint64_t>1 << 62        # the control thread checks which workers run: until then none comes
cdef uint64_t NOTHING_POSTED = <uint64_t>1 << 63

# What stands at a place of a gate that a port left.
cdef Posting left_place
memset(&left_place, 0, sizeof(left_place))
left_place.missing = NOTHING_POSTED


class WorkerStuckError(RuntimeError):
    """A worker did not come to the door in time: it is blocked in the kernel, or its core is taken away."""


# A posting: which workers have come, and which is the last


cdef bint join(Posting *posting, uint64_t who) noexcept nogil:
    """Set own bits in `missing`. False: nothing is posted, or all have come."""
    cdef uint64_t missing = load_acquire_u64(&posting.missing)
    while missing and missing != NOTHING_POSTED:
        if replace_u64(&posting.missing, missing, missing | who):
            return True
        missing = load_acquire_u64(&posting.missing)
    return False


cdef void come(Gate *gates, Posting *posting, uint64_t who) noexcept nogil:
    """Clear own bits in `missing`, and then wait. The last one to come puts the change into effect."""
    cdef uint64_t missing = clear_bits_u64(&posting.missing, who)
    if missing == who:
        posting.apply(posting.what)
        store_release_u64(&posting.missing, NOTHING_POSTED)  # pairs with held, enter and passed
    elif missing & who:
        call_again(gates, posting)


cdef void call_again(Gate *gates, Posting *posting) noexcept nogil:
    """Call the workers that went on again, once only they are missing."""
    cdef uint64_t missing
    full_fence()  # between coming and reading `waited`; and between setting `waited` and reading `missing`
    missing = load_acquire_u64(&posting.missing)
    if not missing & ~load_acquire_u64(&posting.waited):
        call(gates, missing)


cdef void call(Gate *gates, uint64_t who) noexcept nogil:
    """Have workers look at their postings."""
    cdef uint32_t i
    full_fence()  # pairs with the one in stand: post first, then call
    for i in range(<uint32_t>MOST_WORKERS):
        if who >> i & 1:
            store_release_u32(&gates[i].asked, 1)
    full_fence()  # pairs with the one before a worker sleeps
    for i in range(<uint32_t>MOST_WORKERS):
        if who >> i & 1:
            wake(&gates[i])


# The worker's side


cdef bint held(Gate *gate, Posting *posting, bint gives_up) noexcept nogil:
    """Come to a posting. Returns whether the worker is to wait; gives_up: it no longer waits for others."""
    cdef uint64_t me = <uint64_t>1 << gate.number, missing = load_acquire_u64(&posting.missing)
    cdef Gate *gates = gate - gate.number
    if missing & me and not missing & COUNTING:
        if not load_acquire_u64(&posting.waited) & me or not missing & ~load_acquire_u64(&posting.waited):
            come(gates, posting, me)
            missing = load_acquire_u64(&posting.missing)
    if missing == NOTHING_POSTED or missing & me:
        return False
    if missing and gives_up:
        set_bits_u64(&posting.waited, me)
        if join(posting, me):
            call_again(gates, posting)
            return False
    return True


cdef void stand(Gate *gate) noexcept nogil:
    """Come to all postings, and wait until they have taken effect or were withdrawn, or the worker is to end."""
    cdef uint64_t end = 0, now
    cdef uint32_t i, spins = 0
    cdef bint stands = True, gives_up = False
    store_release_u32(&gate.asked, 0)
    full_fence()  # pairs with those in call: the worker sees the posting, or is asked again
    while stands and not load_acquire_u32(&gate.stopping):
        stands = False
        for i in range(load_acquire_u32(&gate.n_postings)):
            stands = held(gate, posting_at(gate, i), gives_up) or stands
        if stands and spins < SPINS:
            spins += 1
            cpu_pause()
        elif stands:
            usleep(NAP_MICROSECONDS)
            now = monotonic_ns()
            end = end or now + <uint64_t>TOGETHER_NS
            gives_up = now >= end


cdef void enter(Gate *gate) noexcept nogil:
    """The worker runs from now on: changes posted at its gate wait for it, or have taken effect."""
    cdef uint32_t i
    cdef uint64_t me = <uint64_t>1 << gate.number, missing
    cdef Posting *posting
    store_release_u32(&gate.running, 1)
    full_fence()  # pairs with those in post and count: the control thread sees that it runs, or it sees the posting
    for i in range(load_acquire_u32(&gate.n_postings)):
        posting = posting_at(gate, i)
        missing = load_acquire_u64(&posting.missing)
        while missing != NOTHING_POSTED and not missing & me and not join(posting, me):
            usleep(NAP_MICROSECONDS)  # all have come: it is taking effect
            missing = load_acquire_u64(&posting.missing)
    stand(gate)


cdef void leave(Gate *gate) noexcept nogil:
    """The worker uses no lane any more."""
    store_release_u32(&gate.running, 0)  # pairs with count


cdef void wake(Gate *gate) noexcept nogil:
    """End a worker's sleep, if it sleeps. After a full fence, so that one of the two sees the other."""
    if load_acquire_u32(&gate.asleep):
        wake_eventfd(gate.wake_fd)


# The control thread's side


cdef void write_place(Gate *gate, uint32_t place, Posting *posting) noexcept nogil:
    store_release_u64(<uint64_t *>&gate.postings[place], <uint64_t>posting)  # pairs with posting_at


cdef class Door:
    """What ports and workers of one forwarder share: which workers own lanes of which port."""

    def __cinit__(self) -> None:
        cdef uint32_t i
        self.owners, self.kept = [None] * MOST_WORKERS, set()
        for i in range(<uint32_t>MOST_WORKERS):
            self.gates[i].number, self.gates[i].wake_fd = i, -1

    def __dealloc__(self) -> None:
        cdef uint32_t i
        for i in range(<uint32_t>MOST_WORKERS):
            free(self.gates[i].postings)
            if self.gates[i].wake_fd >= 0:
                close(self.gates[i].wake_fd)

    cdef Gate *add(self, object owner) except NULL:
        cdef Gate *gate
        if None not in self.owners:
            raise ValueError(f"door: {MOST_WORKERS} workers are the most")
        gate = &self.gates[self.owners.index(None)]
        if gate.postings == NULL:
            gate.postings = <Posting **>calloc(MOST_POSTINGS, sizeof(Posting *))
        if gate.postings == NULL:
            raise MemoryError
        gate.wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        gate.asked = gate.stopping = gate.running = gate.asleep = 0
        self.owners[gate.number] = owner
        return gate

    cdef int owns(self, Gate *gate, PortDoor port) except -1:
        """A worker gets lanes from or to this port: changes posted from now on wait for it.

        Where it runs, it may have them only after await_owners() of the port.
        """
        if load_acquire_u64(&port.owners) >> gate.number & 1:
            return 0
        self.enter_posting(gate, port)
        set_bits_u64(&port.owners, <uint64_t>1 << gate.number)
        return self.count_version()

    cdef int delivers(self, Gate *gate, PortDoor port) except -1:
        """A worker delivers to this port from now on, and to each of its queues under that queue's lock."""
        return self.count_version() if self.enter_posting(gate, port) else 0

    cdef int parts_with(self, Gate *gate, PortDoor port, bint delivers) except -1:
        """A worker has lost its lanes from and to this port, at a door. delivers: and goes on to deliver to it."""
        cdef uint32_t i
        clear_bits_u64(&port.owners, <uint64_t>1 << gate.number)
        for i in range(gate.n_postings):
            if gate.postings[i] == &port.posting and not delivers:
                write_place(gate, i, &left_place)
        return self.count_version()

    cdef int count_version(self) except -1:
        add_u32(&self.version, 1)
        full_fence()  # pairs with the one in post: the port's thread sees the version, or await_owners its posting
        return 0

    cdef int enter_posting(self, Gate *gate, PortDoor port) except -1:
        """Where the worker finds what is posted. Returns 0 where it has one already."""
        cdef uint32_t i, place = gate.n_postings
        for i in range(gate.n_postings):
            if gate.postings[i] == &port.posting:
                return 0
            if gate.postings[i] == &left_place:
                place = min(place, i)
        if place == <uint32_t>MOST_POSTINGS:
            raise ValueError(f"door: a worker takes lanes of {MOST_POSTINGS - 1} ports at most; start more workers")
        self.kept.add(port)
        write_place(gate, place, &port.posting)
        store_release_u32(&gate.n_postings, max(gate.n_postings, place + 1))
        return 1

    cdef int disown(self, PortDoor port) except -1:
        """No worker has lanes of this port any more. One may look at its posting until it next comes to a change."""
        cdef uint32_t i, k
        for i in range(<uint32_t>MOST_WORKERS):
            for k in range(self.gates[i].n_postings):
                if self.gates[i].postings[k] == &port.posting:
                    write_place(&self.gates[i], k, &left_place)
        self.kept.discard(port)
        add_u32(&self.version, 1)
        return 0

    cdef int remove(self, Gate *gate) except -1:
        """The worker has ended for good."""
        gate.n_postings = 0
        self.owners[gate.number] = None
        add_u32(&self.version, 1)
        fd, gate.wake_fd = gate.wake_fd, -1
        os.close(fd)
        return 0


cdef class PortDoor:
    """The door as one port uses it. Only that port's control thread may use it."""

    def __cinit__(self, Door door not None) -> None:
        self.door, self.version = door, 0xFFFFFFFF
        memset(&self.posting, 0, sizeof(self.posting))
        self.posting.missing = NOTHING_POSTED

    cdef bint pass_through(self, Apply apply, void *what, uint64_t wait_ns) except -1:
        """Post a change, and wait up to wait_ns until it has taken effect. False: it has not, and stays posted.

        Then `what` must stay unchanged until the change has taken effect, or withdraw() has returned True. True: no
        worker uses the old state any more.
        """
        cdef uint64_t end = monotonic_ns() + wait_ns
        cdef Passage passage = OWNERS_CHANGED
        while passage == OWNERS_CHANGED:
            self.prepare()
            with nogil:
                passage = self.attempt(apply, what, end)
        return passage == PASSED

    cdef int prepare(self) except -1:
        """Find out which workers own lanes now. A change posted for other workers is withdrawn, to be posted anew."""
        cdef uint32_t i, k
        cdef uint32_t version = load_acquire_u32(&self.door.version)
        if version == self.version:
            return 0
        with nogil:
            self.withdraw()
        self.workers, self.version = 0, version
        for i in range(<uint32_t>MOST_WORKERS):
            for k in range(self.door.gates[i].n_postings):
                if self.door.gates[i].postings[k] == &self.posting:
                    self.workers |= <uint64_t>1 << i
        return 0

    cdef Passage attempt(self, Apply apply, void *what, uint64_t end) noexcept nogil:
        cdef uint32_t spins = 0
        if not self.posted:
            end = max(end, monotonic_ns() + <uint64_t>LEAST_NS)
            if self.post(apply, what) == OWNERS_CHANGED:
                return OWNERS_CHANGED
        while not self.passed():
            if spins < SPINS:
                spins += 1
                cpu_pause()
                continue
            if load_acquire_u32(&self.door.version) != self.version and not self.passed():
                return OWNERS_CHANGED  # one that left finds no posting at its gate any more
            self.count()
            if not self.passed() and monotonic_ns() >= self.posted_at + <uint64_t>STAND_IN_NS:
                self.stand_in()
            if not self.passed():
                if monotonic_ns() >= end:
                    return LATE
                usleep(NAP_MICROSECONDS)
        self.posted = False
        self.passages += 1
        return PASSED

    cdef Passage post(self, Apply apply, void *what) noexcept nogil:
        self.posting.apply, self.posting.what, self.posting.owners = apply, what, self.version
        store_release_u64(&self.posting.waited, 0)
        store_release_u64(&self.posting.missing, self.workers | COUNTING)
        self.posted, self.posted_at = True, monotonic_ns()
        full_fence()  # pairs with the one in enter
        if load_acquire_u32(&self.door.version) != self.version:
            self.withdraw()
            return OWNERS_CHANGED
        self.count()
        return PASSED

    cdef bint await_owners(self, uint64_t wait_ns) noexcept nogil:
        """Wait until no change is posted for those who owned lanes before. For any thread, after Door.owns()."""
        cdef uint64_t end = monotonic_ns() + wait_ns
        cdef uint32_t version = load_acquire_u32(&self.door.version)
        while load_acquire_u64(&self.posting.missing) != NOTHING_POSTED:
            if load_acquire_u32(&self.posting.owners) == version:
                return True
            if monotonic_ns() >= end:
                return False
            usleep(NAP_MICROSECONDS)
        return True

    cdef void count(self) noexcept nogil:
        """Come in the place of workers that do not run, and call the others."""
        cdef Gate *gates = self.door.gates
        cdef uint64_t missing = load_acquire_u64(&self.posting.missing), one
        cdef uint32_t i
        cdef bint someone = missing & COUNTING != 0
        for i in range(<uint32_t>MOST_WORKERS):
            someone = someone or (missing >> i & 1 and not load_acquire_u32(&gates[i].running))
        if not someone or not join(&self.posting, COUNTING):
            return
        for i in range(<uint32_t>MOST_WORKERS):
            one = <uint64_t>1 << i
            if load_acquire_u64(&self.posting.missing) & one and not load_acquire_u32(&gates[i].running):
                clear_bits_u64(&self.posting.missing, one)
                full_fence()  # pairs with the one in enter
                if load_acquire_u32(&gates[i].running):
                    set_bits_u64(&self.posting.missing, one)
        come(gates, &self.posting, COUNTING)
        missing = load_acquire_u64(&self.posting.missing)
        if missing != NOTHING_POSTED:
            call(gates, missing)

    cdef void stand_in(self) noexcept nogil:
        """Come in the place of workers that are late and only deliver to this port. Not while one is just doing so."""
        cdef uint64_t late = self.late_deliverers()
        cdef uint32_t i, n = 0, n_locks = load_acquire_u32(&self.n_locks)
        while late and n < n_locks and take_lock(&self.locks[n]):
            n += 1
        if late and n_locks and n == n_locks:
            self.come_instead(late)
        for i in range(n):
            give_lock(&self.locks[i])

    cdef uint64_t late_deliverers(self) noexcept nogil:
        """Those that alone are missing, beside workers that have come and waited for too long; 0: others are, too."""
        cdef uint64_t missing = load_acquire_u64(&self.posting.missing)
        cdef uint64_t late = missing & ~load_acquire_u64(&self.posting.waited)
        if missing == NOTHING_POSTED or late & (COUNTING | load_acquire_u64(&self.owners)):
            return 0
        return late

    cdef void come_instead(self, uint64_t late) noexcept nogil:
        """Those that have waited come again; where one does not, the late are missing again."""
        cdef uint64_t end = monotonic_ns() + <uint64_t>TOGETHER_NS
        if not join(&self.posting, COUNTING):
            return
        late &= clear_bits_u64(&self.posting.missing, late)
        come(self.door.gates, &self.posting, COUNTING)
        while not self.passed() and monotonic_ns() < end:
            cpu_pause()
        while not self.passed() and not join(&self.posting, late):
            cpu_pause()  # all have come: it is taking effect

    cdef bint passed(self) noexcept nogil:
        return load_acquire_u64(&self.posting.missing) == NOTHING_POSTED

    cdef bint withdraw(self) noexcept nogil:
        """Withdraw the change. False: it has taken effect, and pass_through() returns True from now on."""
        cdef uint64_t missing
        while self.posted:
            missing = load_acquire_u64(&self.posting.missing)
            if missing == NOTHING_POSTED:
                return False
            if missing == 0:
                usleep(NAP_MICROSECONDS)  # it is taking effect: some fields are copied
            elif replace_u64(&self.posting.missing, missing, NOTHING_POSTED):
                self.posted = False
        return True

    cdef object who_is_late(self):
        """One sentence that names the late workers. To be called while a change is posted."""
        cdef uint64_t missing = load_acquire_u64(&self.posting.missing)
        cdef uint64_t late = missing & ~load_acquire_u64(&self.posting.waited)
        names = [
            owner.name for number, owner in enumerate(self.door.owners) if owner is not None and late >> number & 1
        ] or ["a worker"]
        do = "does" if len(names) == 1 else "do"
        return f"{' and '.join(names)} {do} not come to the door: blocked in the kernel, or without a core to run on"
