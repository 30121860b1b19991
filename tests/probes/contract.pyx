"""What a worker does with a port, one call at a time, for tests of what every kind of port promises (port.pxd)."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset

from fastvhost.abi.virtio_net cimport NetHeader
from fastvhost.dataplane.drop_reason cimport N_DROP_REASONS
from fastvhost.dataplane.frame cimport BURST, MAX_SEGMENTS, Chain, Delivery, Frame, FrameBurst, Segment, begin_heads, copy_frame, delivery_of
from fastvhost.dataplane.offload.cut cimport CUT_NEEDS, Cutter, Super, deliver_cut, discard_cutter, make_cutter
from fastvhost.dataplane.offload.header cimport give_head, next_head
from fastvhost.dataplane.port cimport Port, PortOps
from fastvhost.dataplane.ports.endpoint cimport Endpoint
from fastvhost.dataplane.ports.endpoint_slots cimport header_of, slot_at
from fastvhost.dataplane.ports.parcels cimport Parcel
from fastvhost.dataplane.tally cimport Tally


cdef enum:
    EVERYTHING = 0xffff


cdef uint64_t drops_of(const Tally *tally) noexcept:
    cdef uint32_t reason
    cdef uint64_t total = 0
    for reason in range(N_DROP_REASONS):
        total += tally.dropped[reason]
    return total


cdef class Caller:
    """Calls a port as the worker of its pair 0 does. The port stays whole as long as this is there."""

    cdef Port port
    cdef PortOps *ops
    cdef FrameBurst burst
    cdef Super super
    cdef Cutter *cutter

    def __init__(self, Port port not None) -> None:
        begin_heads(&self.burst)
        self.cutter = make_cutter()
        self.port, self.ops = port, &port.ops
        self.burst.segments = <Segment *>malloc(MAX_SEGMENTS * sizeof(Segment))
        if self.burst.segments == NULL or self.cutter == NULL:
            raise MemoryError

    def __dealloc__(self) -> None:
        free(self.burst.segments)
        discard_cutter(self.cutter)

    @property
    def pairs(self) -> tuple[int, int]:
        return self.ops.n_pairs, self.ops.active_pairs

    @property
    def counted(self) -> tuple[int, int, int]:
        return self.ops.rx[0].frames, self.ops.rx[0].bytes, drops_of(&self.ops.rx[0])

    def receive(self) -> int:
        cdef uint32_t n
        self.burst.n_frames = 0
        with nogil:
            n = self.ops.receive_burst(self.ops, 0, &self.burst)
        if n != self.burst.n_frames or n > BURST:
            raise AssertionError(f"{n} frames, and the burst says {self.burst.n_frames}")
        return n

    def frames(self) -> list[bytes]:
        cdef uint32_t i
        cdef bytearray copy
        cdef uint8_t *at
        found = []
        for i in range(self.burst.n_frames):
            copy = bytearray(self.burst.frames[i].bytes)
            at = copy
            copy_frame(at, &self.burst.frames[i], self.burst.segments)
            found.append(bytes(copy))
        return found

    def heads(self) -> list:
        cdef uint32_t i
        cdef NetHeader net
        found = []
        for i in range(self.burst.n_frames):
            net = self.burst.heads[self.burst.frames[i].head].net
            asked = net.flags, net.gso_type, net.hdr_len, net.gso_size, net.csum_start, net.csum_offset
            found.append(asked if self.burst.frames[i].head else None)
        return found

    def release(self, uint32_t first, uint32_t n) -> None:
        if first + n > BURST:
            raise ValueError("no burst has so many frames")
        if n == 0:
            return  # as forward_burst
        with nogil:
            self.ops.release_burst(self.ops, 0, &self.burst.done[first], n)

    def deliver(self, list frames, heads=()) -> tuple[int, int, int, int, int]:
        cdef FrameBurst given
        cdef Delivery delivery
        cdef Frame before[BURST]
        cdef Segment *pieces = self.burst.segments
        cdef Tally was = self.ops.tx[0]
        cdef uint32_t n = <uint32_t>len(frames), n_pieces = 0, done
        cdef bytes piece
        cdef const uint8_t *at
        if n > BURST:
            raise ValueError("no burst has so many frames")
        memset(&given, 0, sizeof(given))
        begin_heads(&given)
        given.segments, given.n_frames = pieces, n
        for i, one in enumerate(frames):
            given.frames[i] = Chain(NULL, sum(map(len, one)), i, n_pieces, <unsigned short>len(one), 0)
            for piece in one:
                at = piece
                given.frames[i].data = <uint8_t *>at
                pieces[n_pieces] = Segment(<uint8_t *>at, <uint32_t>len(piece))
                n_pieces += 1
        for i, asked in enumerate(heads):
            flags, gso_type, hdr_len, gso_size, csum_start, csum_offset = asked
            next_head(&given).net = NetHeader(flags, gso_type, hdr_len, gso_size, csum_start, csum_offset, 1)
            if not give_head(&given, &given.frames[i], given.frames[i].bytes, <uint32_t>EVERYTHING):
                raise ValueError(f"no port would give frame {i} such a head")
        memcpy(before, given.frames, sizeof(before))
        delivery = delivery_of(&given, 0, n)
        with nogil:
            if self.super.begun or given.needs & ~self.ops.accepts & CUT_NEEDS:
                done = deliver_cut(self.cutter, &self.super, self.ops, 0, &delivery)
            else:
                done = self.ops.deliver_burst(self.ops, 0, &delivery)
        if n and memcmp(before, given.frames, n * sizeof(Frame)):
            raise AssertionError("frames that were delivered are others afterwards")
        return (
            done, self.ops.tx[0].frames - was.frames, self.ops.tx[0].bytes - was.bytes,
            drops_of(&self.ops.tx[0]) - drops_of(&was), self.ops.tx[0].spent - was.spent,
        )

    def is_open(self) -> bool:
        return self.ops.is_open(self.ops, 0)

    def may_receive(self) -> bool:
        return self.ops.may_receive(self.ops, 0)

    def wait_fd(self) -> tuple[int, bool]:
        cdef bint kicked = False
        cdef int fd = self.ops.wait_fd(self.ops, 0, &kicked)
        return fd, kicked

    def want_kicks(self, bint wanted) -> None:
        self.ops.want_kicks(self.ops, 0, wanted)

    def has_silent_work(self) -> bool:
        return self.ops.has_silent_work(self.ops, 0)


def send_unchecked(Endpoint endpoint not None, bytes frame, head) -> None:
    """As a program in Cython sends: nobody looks at what it asks for."""
    cdef Parcel parcel
    flags, gso_type, hdr_len, gso_size, csum_start, csum_offset = head
    cdef NetHeader header = NetHeader(flags, gso_type, hdr_len, gso_size, csum_start, csum_offset, 1)
    if endpoint.lend_slots(&parcel, 1) != 1 or len(frame) > endpoint.slot_bytes:
        raise ValueError("there is no buffer for it")
    memcpy(slot_at(endpoint, &parcel), <const uint8_t *>frame, len(frame))
    parcel.bytes = <uint32_t>len(frame)
    header_of(endpoint, &parcel)[0] = header
    endpoint.pass_on(&parcel, 1)
