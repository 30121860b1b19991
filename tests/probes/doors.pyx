"""The door step by step: workers that come when a test says so, and ports that post a change without waiting for it."""

from libc.stdint cimport uint32_t, uint64_t
from posix.unistd cimport usleep

from fastvhost.abi.shared_memory cimport cpu_pause, load_acquire_u32, load_acquire_u64, store_release_u32
from fastvhost.dataplane.delivery_lock cimport DeliveryLock, give_lock, take_lock
from fastvhost.dataplane.door cimport (
    MOST_WORKERS,
    Door,
    Gate,
    PortDoor,
    Posting,
    enter,
    held,
    is_called,
    leave,
    stand,
)


cdef struct Fields:
    # written at the door only; looked at by workers within a round
    uint64_t first
    uint64_t second
    uint64_t prepared
    uint64_t n_changes
    # written by the test
    uint32_t halts           # a change stops half-way


cdef void change_both(void *what) noexcept nogil:
    """Not at once: who looked meanwhile would see two different ones."""
    cdef Fields *fields = <Fields *>what
    cdef int _i
    fields.first = fields.prepared
    while load_acquire_u32(&fields.halts):
        cpu_pause()
    for _i in range(20):
        cpu_pause()
    fields.second = fields.prepared
    fields.n_changes += 1


cdef class PostingPort:
    """A port that consists of its door and two numbers, which a change makes the same other number."""

    cdef readonly PortDoor door
    cdef Fields fields
    cdef DeliveryLock locks[2]

    def __init__(self, Door door, uint32_t locks=0) -> None:
        """locks: of so many queues, to which workers deliver that own no lane of this port."""
        self.door = PortDoor(door)
        self.door.locks, self.door.n_locks = &self.locks[0], locks

    def change(self, uint64_t number, uint64_t wait_ms) -> bool:
        """Wait for it, without the GIL."""
        self.fields.prepared = number
        return self.door.pass_through(change_both, &self.fields, wait_ms * 1000000)

    def stand_in(self) -> None:
        with nogil:
            self.door.stand_in()

    def hold(self, uint32_t queue) -> bool:
        """As a worker that is delivering there."""
        return take_lock(&self.locks[queue])

    def let_go(self, uint32_t queue) -> None:
        give_lock(&self.locks[queue])

    def post(self, uint64_t number) -> bool:
        """Post it at the gates, or look again at what is posted. Whether it has taken effect."""
        if not self.door.posted:
            self.fields.prepared = number
        return self.door.pass_through(change_both, &self.fields, 0)

    def withdraw(self) -> bool:
        cdef bint withdrawn
        with nogil:
            withdrawn = self.door.withdraw()
        return withdrawn

    def halt(self, bint halts) -> None:
        """From now on changes stop half-way, or go on."""
        store_release_u32(&self.fields.halts, halts)

    @property
    def half_done(self) -> bool:
        return self.fields.first != self.fields.second

    def count(self) -> None:
        self.door.count()

    def begin_to_count(self, uint64_t number) -> None:
        """As far as control comes until it is interrupted while it looks who is to come."""
        self.door.prepare()
        self.fields.prepared = number
        self.door.posting.apply, self.door.posting.what = change_both, &self.fields
        self.door.posting.missing = self.door.workers | <uint64_t>1 << MOST_WORKERS
        self.door.posted = True

    @property
    def late(self) -> str:
        return self.door.who_is_late()

    @property
    def value(self) -> int:
        return self.fields.second

    @property
    def changes(self) -> int:
        return self.fields.n_changes

    @property
    def missing(self) -> set[int]:
        cdef uint64_t missing = load_acquire_u64(&self.door.posting.missing)
        return {i for i in range(MOST_WORKERS) if missing >> i & 1}


cdef class SteppedWorker:
    """A worker that comes to the door when it is told to."""

    cdef readonly str name
    cdef Door door
    cdef Gate *gate
    cdef list ports
    cdef uint64_t n_torn

    def __init__(self, Door door, str name, *ports: PostingPort, delivers_to=()) -> None:
        self.name, self.door, self.ports = name, door, list(ports)
        self.gate = door.add(self)
        for port in ports:
            door.owns(self.gate, (<PostingPort>port).door)
        for port in delivers_to:
            door.delivers(self.gate, (<PostingPort>port).door)

    def part_with(self, PostingPort port) -> None:
        """As one whose lanes another worker has now."""
        self.door.parts_with(self.gate, port.door, False)

    def enter(self) -> None:
        with nogil:
            enter(self.gate)

    def leave(self) -> None:
        leave(self.gate)

    def look(self, PostingPort port, bint gives_up=False) -> bool:
        """Once at what this port has posted. Whether it stands still for it."""
        cdef Posting *posting = &port.door.posting
        cdef bint stands
        with nogil:
            stands = held(self.gate, posting, gives_up)
        return stands

    def stand(self) -> None:
        with nogil:
            stand(self.gate)

    def stop(self) -> None:
        store_release_u32(&self.gate.stopping, 1)

    def close(self) -> None:
        self.door.remove(self.gate)

    @property
    def called(self) -> bool:
        return self.gate.asked != 0

    @property
    def number(self) -> int:
        return self.gate.number

    @property
    def torn(self) -> int:
        """Times it saw a change of the first of its ports half done."""
        return self.n_torn

    def deliver(self, PostingPort port) -> int:
        """To this port all the time until it is stopped, and without a look at its gate. Returns how often."""
        cdef uint64_t rounds = 0, first
        cdef uint32_t queue
        with nogil:
            while not load_acquire_u32(&self.gate.stopping):
                queue = rounds & 1
                rounds += 1
                if not take_lock(&port.locks[queue]):
                    continue
                first = load_acquire_u64(&port.fields.first)
                cpu_pause()
                if first != load_acquire_u64(&port.fields.second):
                    self.n_torn += 1
                give_lock(&port.locks[queue])
                if rounds % 64 == 0:
                    usleep(100)
        return rounds

    def run(self, uint64_t rounds, uint32_t every) -> None:
        """So many rounds, each with a look at all ports; after so many of them it ends and starts again."""
        cdef uint64_t n
        cdef uint32_t i
        cdef Fields *fields[8]
        cdef uint32_t n_ports = <uint32_t>len(self.ports)
        cdef uint64_t first
        for i in range(n_ports):
            fields[i] = &(<PostingPort>self.ports[i]).fields
        with nogil:
            enter(self.gate)
            for n in range(rounds):
                if load_acquire_u32(&self.gate.stopping):
                    break
                if is_called(self.gate):
                    stand(self.gate)
                for i in range(n_ports):
                    first = load_acquire_u64(&fields[i].first)
                    cpu_pause()
                    if first != load_acquire_u64(&fields[i].second):
                        self.n_torn += 1
                if n % every == 0:
                    leave(self.gate)
                    cpu_pause()
                    enter(self.gate)
            leave(self.gate)
