"""Who counts what: ports that return any number they like, and a ring whose every take, untake and complete is counted."""

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport calloc, free

from fastvhost.dataplane.frame cimport BURST, Chain, Delivery, Done, FrameBurst, Segment, begin_heads, delivery_of
from fastvhost.dataplane.port cimport Port, PortOps
from fastvhost.dataplane.ring cimport Ring
from fastvhost.dataplane.virtio_port cimport VirtioPort

FRAME_BYTES = 60


cdef struct Script:
    uint8_t frame[60]
    uint32_t supply          # frames that receive_burst still has
    uint32_t fills           # frames that it puts into the burst at once
    int excess               # how many more it says than it put there
    uint32_t answer          # what deliver_burst returns
    uint32_t asked           # frames that the last deliver_burst was given
    uint32_t released
    uint32_t out_of_order    # frames released in another order than received


cdef uint32_t receive_scripted(PortOps *port, uint32_t pair, FrameBurst *burst) noexcept nogil:
    cdef Script *script = <Script *>port.state
    cdef uint32_t i, n = min(script.fills, script.supply), first = script.released
    for i in range(n):
        burst.frames[i].data, burst.frames[i].bytes, burst.frames[i].n_segments = script.frame, 60, 1
        burst.done[i] = Done(first + i, 0)
    script.supply -= n
    burst.n_frames, burst.n_segments = n, 0
    port.rx[pair].frames += n
    return n + script.excess


cdef uint32_t deliver_scripted(PortOps *port, uint32_t pair, const Delivery *delivery) noexcept nogil:
    cdef Script *script = <Script *>port.state
    script.asked = delivery.n
    port.tx[pair].frames += min(delivery.n, script.answer)
    return script.answer


cdef void release_scripted(PortOps *port, uint32_t pair, const Done *done, uint32_t n) noexcept nogil:
    cdef Script *script = <Script *>port.state
    cdef uint32_t i
    for i in range(min(n, 1000)):
        script.out_of_order += done[i].ticket != script.released + i
    script.released += n


cdef class ScriptedPort(Port):
    """Sends `supply` frames, `fills` at once, and says `excess` more; returns `answer` for whatever is delivered to it."""

    cdef Script script

    def __init__(self, name: str, *, uint32_t supply=0, uint32_t fills=64, int excess=0, uint32_t answer=0) -> None:
        self.name = name
        self.allot(1)
        self.script.supply, self.script.fills, self.script.excess = supply, fills, excess
        self.script.answer = answer
        self.ops.state = &self.script
        self.ops.receive_burst = receive_scripted
        self.ops.deliver_burst = deliver_scripted
        self.ops.release_burst = release_scripted

    def set_answer(self, uint32_t answer) -> None:
        self.script.answer = answer

    def set_active_pairs(self, uint32_t pairs) -> None:
        self.ops.active_pairs = pairs

    @property
    def asked(self) -> int:
        return self.script.asked

    @property
    def released(self) -> int:
        return self.script.released

    @property
    def out_of_order(self) -> int:
        return self.script.out_of_order


# One ring at a time is counted.
cdef struct Counted:
    Ring *ring
    uint32_t (*take)(Ring *, Chain *, uint32_t, Segment *, uint32_t *) noexcept nogil
    void (*untake)(Ring *, const Chain *, uint32_t) noexcept nogil
    void (*complete)(Ring *, const Done *, uint32_t) noexcept nogil
    uint32_t takes
    uint32_t taken
    uint32_t given_back
    uint32_t completed
    uint32_t too_many        # times when more was given back or completed than was taken


cdef Counted counted
after_take = None


cdef uint32_t take_counted(
    Ring *ring, Chain *chains, uint32_t most, Segment *segments, uint32_t *n_segments
) noexcept nogil:
    cdef uint32_t n = counted.take(ring, chains, most, segments, n_segments)
    counted.taken += n
    counted.takes += 1
    with gil:
        if after_take is not None:
            after_take(counted.takes)
    return n


cdef void untake_counted(Ring *ring, const Chain *chains, uint32_t n) noexcept nogil:
    counted.given_back += n
    counted.too_many += counted.completed + counted.given_back > counted.taken
    counted.untake(ring, chains, n)


cdef void complete_counted(Ring *ring, const Done *done, uint32_t n) noexcept nogil:
    counted.completed += n
    counted.too_many += counted.completed + counted.given_back > counted.taken
    counted.complete(ring, done, n)


def count_ring(VirtioPort port not None, uint32_t index, object call) -> None:
    """From now on count what this ring takes, gives back and completes, and call `call(number)` after each take."""
    global after_take
    cdef Ring *ring = &port.queue(index).ring
    counted.ring, counted.take, counted.untake, counted.complete = ring, ring.take, ring.untake, ring.complete
    counted.takes = counted.taken = counted.given_back = counted.completed = counted.too_many = 0
    ring.take, ring.untake, ring.complete = take_counted, untake_counted, complete_counted
    after_take = call


def counts() -> dict[str, int]:
    return {
        "taken": counted.taken,
        "given back": counted.given_back,
        "completed": counted.completed,
        "too many": counted.too_many,
    }


def outstanding(VirtioPort port not None, uint32_t index) -> int:
    return port.queue(index).ring.outstanding


def complete_unasked(VirtioPort port not None, uint32_t index, uint32_t n, uint32_t slots=1, bint publish=True) -> None:
    """Complete chains that nobody took, of so many descriptors each."""
    cdef Ring *ring = &port.queue(index).ring
    cdef Done done[1024]
    cdef uint32_t i
    for i in range(1024):
        done[i] = Done(i % ring.size | slots << 16, 0xffff)
    ring.complete(ring, done, n)
    if publish:
        ring.publish(ring)


def untake_unasked(VirtioPort port not None, uint32_t index, uint32_t n, uint32_t slots=1) -> None:
    """Give back chains that nobody took."""
    cdef Ring *ring = &port.queue(index).ring
    cdef Chain chains[1024]
    cdef uint32_t i
    for i in range(1024):
        chains[i].ticket = slots << 16
    ring.untake(ring, chains, n)


def take_some(VirtioPort port not None, uint32_t index, uint32_t most) -> int:
    """Take chains and keep them."""
    cdef Ring *ring = &port.queue(index).ring
    cdef Chain chains[64]
    cdef Segment segments[64]
    cdef uint32_t n_segments = 0
    return ring.take(ring, chains, min(most, 64), segments, &n_segments)


def deliver(Port port not None, uint32_t n, uint32_t bytes) -> int:
    """Hand a port's first pair n frames of so many bytes at once, as if it had sent them. Returns how many it dealt with."""
    cdef uint8_t *data = <uint8_t *>calloc(1, bytes)
    cdef FrameBurst *burst = <FrameBurst *>calloc(1, sizeof(FrameBurst))
    cdef Delivery delivery
    cdef uint32_t i, done
    if data == NULL or burst == NULL:
        raise MemoryError
    begin_heads(burst)
    burst.n_frames = min(n, <uint32_t>BURST)
    for i in range(burst.n_frames):
        burst.frames[i].data, burst.frames[i].bytes, burst.frames[i].n_segments = data, bytes, 1
    delivery = delivery_of(burst, 0, n)
    done = port.ops.deliver_burst(&port.ops, 0, &delivery)
    port.ops.rx[0].frames += done
    free(burst)
    free(data)
    return done
