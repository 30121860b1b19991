"""How ports share a worker: ports whose visits take what the test says, by a clock that only they move on."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastvhost.dataplane.frame cimport Delivery, FrameBurst, Done
from fastvhost.dataplane.port cimport Port, PortOps
from fastvhost.dataplane.roster cimport LEAD_US, MOST_US, start_afresh
from fastvhost.dataplane.worker cimport Worker
from fastvhost.driver.load cimport Load as GuestLoad

TICKS_PER_US = 1000
cdef uint64_t time = 0


cdef uint64_t read_test_clock() noexcept nogil:
    return time


cdef struct Load:
    uint8_t frame[60]
    uint32_t frames          # that each visit finds; 0: it finds nothing
    uint32_t cost            # of such a visit, in ticks
    uint32_t bytes           # of each frame
    uint32_t frame_cost      # of each that is moved on, in ticks
    bint full                # takes no frame
    bint bad                 # looks as if there were frames, always
    uint32_t visits[128]     # by pair, those that found something
    uint64_t spent


cdef uint32_t receive_at_a_cost(PortOps *port, uint32_t pair, FrameBurst *burst) noexcept nogil:
    global time
    cdef Load *load = <Load *>port.state
    cdef uint32_t i
    for i in range(load.frames):
        burst.frames[i].data, burst.frames[i].bytes, burst.frames[i].n_segments = load.frame, load.bytes, 1
        burst.done[i] = Done(i, 0)
    burst.n_frames, burst.n_segments = load.frames, 0
    port.rx[pair].bytes += <uint64_t>load.frames * load.bytes
    time += load.cost
    load.spent += load.cost
    load.visits[pair] += load.frames != 0
    return load.frames


cdef void release_at_a_cost(PortOps *port, uint32_t pair, const Done *done, uint32_t n) noexcept nogil:
    global time
    cdef Load *load = <Load *>port.state
    time += <uint64_t>n * load.frame_cost
    load.spent += <uint64_t>n * load.frame_cost


cdef bint may_receive(PortOps *port, uint32_t pair) noexcept nogil:
    return (<Load *>port.state).frames != 0 or (<Load *>port.state).bad


cdef uint32_t deliver_or_not(PortOps *port, uint32_t pair, const Delivery *delivery) noexcept nogil:
    return 0 if (<Load *>port.state).full else delivery.n


cdef class BusyPort(Port):
    """Each visit of a pair finds so many frames and takes so many ticks, and so many more for each that it moves on."""

    cdef Load load

    def __init__(
        self, name: str, *, uint32_t pairs=1, uint32_t frames=64, uint32_t cost=1000, uint32_t bytes=60,
        uint32_t frame_cost=0, bint bad=False
    ) -> None:
        self.name = name
        self.allot(pairs)
        self.load.frames, self.load.cost, self.load.bad = frames, cost, bad
        self.load.bytes, self.load.frame_cost = bytes, frame_cost
        self.ops.state = &self.load
        self.ops.receive_burst = receive_at_a_cost
        self.ops.may_receive = may_receive
        self.ops.release_burst = release_at_a_cost
        self.ops.deliver_burst = deliver_or_not

    def set_load(self, uint32_t frames, uint32_t cost) -> None:
        self.load.frames, self.load.cost = frames, cost

    def set_full(self, bint full) -> None:
        self.load.full = full

    @property
    def visits(self) -> list[int]:
        return [self.load.visits[pair] for pair in range(self.ops.n_pairs)]

    @property
    def spent(self) -> int:
        return self.load.spent


def start_rounds(Worker worker not None) -> None:
    """Gather its lanes, and let it look at the test's clock from now on."""
    worker.roster.read_ticks = read_test_clock
    worker.roster.lead, worker.roster.most = LEAD_US * TICKS_PER_US, MOST_US * TICKS_PER_US
    worker.enlist_lanes()
    start_afresh(&worker.roster)


def pass_time(uint64_t microseconds) -> None:
    """On the test's clock."""
    global time
    time += microseconds * TICKS_PER_US


def rounds(Worker worker not None, uint32_t n) -> int:
    """So many rounds, one behind the other, as a running worker makes them. Returns the frames moved."""
    cdef uint32_t _round, moved = 0
    with nogil:
        for _round in range(n):
            moved += worker.round()
    return moved


def take_turns(Worker worker not None, GuestLoad load not None, uint32_t n) -> int:
    """Guests and worker, one behind the other, so many times. Returns the frames moved."""
    cdef uint32_t _turn, moved = 0
    with nogil:
        for _turn in range(n):
            load.take_turn()
            moved += worker.round()
    return moved


def regather(Worker worker not None) -> None:
    """What a worker does after control was there."""
    worker.enlist_lanes()
