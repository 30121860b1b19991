"""A port that a program of this process owns: what its worker does with it, and how the program waits for frames.

The frames lie in slots that go round between the two (endpoint_slots); a program holds them as bursts (endpoint_burst).
"""

import asyncio
import time

from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport uint32_t, uint64_t

from fastvhost.abi.shared_memory cimport full_fence, load_acquire_u32, store_release_u32
from fastvhost.abi.virtio_net cimport ETHER_HEADER_BYTES, MAX_FRAME_BYTES
from fastvhost.dataplane.door cimport Door
from fastvhost.dataplane.drop_reason cimport GSO_UNSUPPORTED, LINK_DOWN, OVERSIZE
from fastvhost.dataplane.eventfd cimport POLLIN, drain_eventfd, poll, pollfd, wake_eventfd
from fastvhost.dataplane.frame cimport (
    BURST as MOST_FRAMES,
    NEED_USO,
    Chain,
    Delivery,
    Done,
    Frame,
    FrameBurst,
    copy_frame,
)
from fastvhost.dataplane.offload.finish cimport copy_finished
from fastvhost.dataplane.offload.header cimport HOST_NEEDS, give_head, next_head
from fastvhost.dataplane.port cimport PortOps
from fastvhost.dataplane.ports.endpoint_burst cimport Burst, new_burst
from fastvhost.dataplane.ports.endpoint_slots cimport EndpointMemory, EndpointSlots
from fastvhost.dataplane.ports.parcels cimport (
    Parcel,
    Parcels,
    parcels_there,
    put_parcel,
    show_parcels,
    take_parcel,
)
from fastvhost.dataplane.tally cimport Tally, count_drops


cdef enum:
    # The longest sleep of a thread that waits: two may wait on one eventfd, and one consume the wake-up of both.
    WAKE_UP_MS = 100
    SLOT_BYTES = 9216
    SUPER_SLOT_BYTES = 65600     # room for MAX_FRAME_BYTES, and the most that a slot has


class EndpointClosedError(Exception):
    """The forwarder of an endpoint has ended: no frame can be sent or received any more."""


# The worker's side

cdef void wake_program(EndpointMemory *side) noexcept nogil:
    full_fence()  # pairs with Endpoint.wait_for: one of the two sees the other
    if load_acquire_u32(&side.program_waits):
        store_release_u32(&side.program_waits, 0)
        wake_eventfd(side.program_fd)


cdef uint32_t receive_burst(PortOps *port, uint32_t pair, FrameBurst *burst) noexcept nogil:
    cdef EndpointMemory *side = <EndpointMemory *>port.state
    cdef uint32_t i, n = min(parcels_there(&side.leaving), <uint32_t>MOST_FRAMES)
    cdef Parcel parcel
    for i in range(n):
        parcel = take_parcel(&side.leaving)
        burst.frames[i] = Chain(
            data=side.memory + <uint64_t>parcel.slot * side.slot_bytes, bytes=parcel.bytes, ticket=parcel.slot,
            first_segment=0, n_segments=1, head=0,
        )
        burst.done[i] = Done(parcel.slot, 0)
        port.rx[pair].bytes += parcel.bytes
    port.rx[pair].frames += n
    burst.n_frames = n
    return n


cdef uint32_t receive_headed_burst(PortOps *port, uint32_t pair, FrameBurst *burst) noexcept nogil:
    """The same with offloads. What is dropped here, Burst.set_offload refuses; C code can still write it."""
    cdef EndpointMemory *side = <EndpointMemory *>port.state
    cdef uint32_t n = 0, there = min(parcels_there(&side.leaving), <uint32_t>MOST_FRAMES)
    cdef Parcel parcel
    burst.n_heads = burst.needs = 0
    for _ in range(there):
        parcel = take_parcel(&side.leaving)
        burst.frames[n] = Chain(
            data=side.memory + <uint64_t>parcel.slot * side.slot_bytes, bytes=parcel.bytes, ticket=parcel.slot,
            first_segment=0, n_segments=1, head=0,
        )
        next_head(burst).net = side.headers[parcel.slot]
        if parcel.bytes > MAX_FRAME_BYTES:
            count_drops(&port.rx[pair], OVERSIZE, 1)
            put_parcel(&side.returned, parcel.slot, 0)
            continue
        if not give_head(burst, &burst.frames[n], parcel.bytes, HOST_NEEDS | NEED_USO):
            count_drops(&port.rx[pair], GSO_UNSUPPORTED, 1)
            put_parcel(&side.returned, parcel.slot, 0)
            continue
        burst.done[n] = Done(parcel.slot, 0)
        port.rx[pair].bytes += parcel.bytes
        n += 1
    if side.returned.staged:
        show_parcels(&side.returned)
        wake_program(side)
    port.rx[pair].frames += n
    burst.n_frames = n
    return n


cdef void release_burst(PortOps *port, uint32_t pair, const Done *done, uint32_t n) noexcept nogil:
    cdef EndpointMemory *side = <EndpointMemory *>port.state
    cdef uint32_t i
    for i in range(n):
        put_parcel(&side.returned, done[i].ticket, 0)
    show_parcels(&side.returned)
    wake_program(side)


cdef uint32_t deliver_burst(PortOps *port, uint32_t pair, const Delivery *delivery) noexcept nogil:
    cdef EndpointMemory *side = <EndpointMemory *>port.state
    cdef Tally *tally = &port.tx[pair]
    cdef const Frame *frames = delivery.frames
    cdef uint32_t i = 0, n = delivery.n, room = parcels_there(&side.vacant), slot
    while i < n:
        if frames[i].bytes > side.slot_bytes:
            count_drops(tally, OVERSIZE, 1)
            i += 1
            continue
        if room == 0:
            break
        room -= 1
        slot = take_parcel(&side.vacant).slot
        if side.headers == NULL:
            copy_finished(side.memory + <uint64_t>slot * side.slot_bytes, delivery, &frames[i])
        else:
            copy_frame(side.memory + <uint64_t>slot * side.slot_bytes, &frames[i], delivery.segments)
            side.headers[slot] = delivery.heads[frames[i].head].net
        put_parcel(&side.arrived, slot, frames[i].bytes)
        tally.frames += 1
        tally.bytes += frames[i].bytes
        i += 1
    if side.arrived.staged:
        show_parcels(&side.arrived)
        wake_program(side)
    return i


cdef uint32_t drop_after_end(PortOps *port, uint32_t pair, const Delivery *delivery) noexcept nogil:
    count_drops(&port.tx[pair], LINK_DOWN, delivery.n)
    return delivery.n


cdef int wait_fd(PortOps *port, uint32_t pair, bint *kicked) noexcept nogil:
    cdef EndpointMemory *side = <EndpointMemory *>port.state
    if drain_eventfd(side.worker_fd):
        kicked[0] = True
    return side.worker_fd


cdef void want_kicks(PortOps *port, uint32_t pair, bint wanted) noexcept nogil:
    store_release_u32(&(<EndpointMemory *>port.state).worker_waits, wanted)


cdef bint has_work(PortOps *port, uint32_t pair) noexcept nogil:
    return parcels_there(&(<EndpointMemory *>port.state).leaving) != 0


# The program's side

cdef double seconds_of(object timeout) except -2:
    """A timeout as wait_for takes it: -1 for None, which is for ever."""
    cdef double seconds = -1 if timeout is None else timeout
    if timeout is not None and not seconds >= 0:
        raise ValueError(f"a timeout of {seconds} seconds; give 0 or more, or None to wait for ever")
    return seconds


cdef class Endpoint(EndpointSlots):
    """A port whose other end is the program itself."""

    def __init__(
        self, str name, Door door not None, *, uint32_t slots=1024, slot_bytes=None, bint offloads=False
    ) -> None:
        cdef uint32_t usual = SUPER_SLOT_BYTES if offloads else SLOT_BYTES
        cdef uint32_t room = usual if slot_bytes is None else slot_bytes
        if not 4 <= slots <= 65536 or slots & (slots - 1):
            raise ValueError(f"port {name}: {slots} slots; a power of two from 4 to 65536 is wanted")
        if not 64 <= room <= SUPER_SLOT_BYTES:
            raise ValueError(f"port {name}: slots of {room} bytes; 64 to {SUPER_SLOT_BYTES} are possible")
        if offloads and room < MAX_FRAME_BYTES:
            raise ValueError(
                f"port {name}: slots of {room} bytes hold no super-frame; with offloads=True leave slot_bytes out"
            )
        self.allot(1)
        self.name = name
        self.use_door(door)
        self.make_slots(slots, (room + 63) & ~63, offloads)
        self.offloads = offloads
        self.ops.state = &self.side
        self.ops.receive_burst, self.ops.deliver_burst = receive_burst, deliver_burst
        self.ops.release_burst = release_burst
        if offloads:
            self.ops.receive_burst, self.ops.accepts = receive_headed_burst, HOST_NEEDS | NEED_USO
        self.ops.wait_fd, self.ops.want_kicks, self.ops.has_silent_work = wait_fd, want_kicks, has_work

    cdef bint wait_for(self, Parcels *ring, double timeout) except -1:
        """Wait until a ring has a parcel. False: it has none after `timeout` seconds. Negative: for ever."""
        cdef double deadline = time.monotonic() + timeout if timeout >= 0 else 0
        cdef pollfd one
        cdef int ms = WAKE_UP_MS
        while not parcels_there(ring):
            if self.closed:
                raise EndpointClosedError(f"endpoint {self.name}: the forwarder has ended")
            if timeout >= 0:
                ms = <int>max(0.0, min(<double>WAKE_UP_MS, (deadline - <double>time.monotonic()) * 1e3 + 0.999))
            one = pollfd(self.side.program_fd, POLLIN, 0)
            if not load_acquire_u32(&self.side.program_waits):
                drain_eventfd(self.side.program_fd)
                store_release_u32(&self.side.program_waits, 1)
            full_fence()  # pairs with wake_program
            # The worker may wait for buffers that have returned. With the GIL: two threads must not move slots at once.
            self.rebalance()
            with nogil:
                if not parcels_there(ring) and not self.closed and ms:
                    poll(&one, 1, ms)
            PyErr_CheckSignals()
            if ms == 0 and not parcels_there(ring):
                return False
        return True

    def recv(self, uint32_t most=64, timeout=None) -> Burst:
        cdef Burst burst
        most = min(most, self.slots)
        cdef double seconds = seconds_of(timeout)
        if not parcels_there(&self.side.arrived):
            self.wait_for(&self.side.arrived, seconds)
        most = min(most, parcels_there(&self.side.arrived))
        burst = new_burst(self, most, False)
        burst.n = self.take(burst.parcels, most)
        return burst

    def wait(self, timeout) -> bool:
        cdef double seconds = seconds_of(timeout)
        return self.wait_for(&self.side.arrived, seconds)

    def lend(self, uint32_t n, Py_ssize_t bytes=64, timeout=None) -> Burst:
        cdef Burst burst
        cdef uint32_t i
        cdef double seconds = seconds_of(timeout)
        n = min(n, self.slots)
        if not ETHER_HEADER_BYTES <= bytes <= self.slot_bytes:
            raise ValueError(f"a frame of {bytes} bytes; 14 to {self.slot_bytes} are possible")
        if self.closed:
            raise EndpointClosedError(f"endpoint {self.name}: the forwarder has ended")
        if not self.n_spare and not parcels_there(&self.side.returned):
            self.wait_for(&self.side.returned, seconds)
        burst = new_burst(self, n, True)
        burst.n = self.lend_slots(burst.parcels, n)
        for i in range(burst.n):
            burst.parcels[i].bytes = <uint32_t>bytes
        return burst

    def send(self, burst, timeout=None) -> int:
        cdef Burst own
        if not isinstance(burst, Burst):
            return self._send_copies(list(burst), timeout)
        own = burst
        if own.endpoint is not self or own.gone:
            raise ValueError(f"endpoint {self.name}: the burst is another endpoint's, or was given back or sent before")
        if self.closed:
            raise EndpointClosedError(f"endpoint {self.name}: the forwarder has ended")
        own.check_offloads()
        own.gone = True
        self.pass_on(own.parcels, own.n)
        return own.n

    def _send_copies(self, frames, timeout) -> int:
        cdef Burst lent
        deadline = None if timeout is None else time.monotonic() + timeout
        sent = 0
        views = [memoryview(frame).cast("B") for frame in frames]
        for view in views:
            if not ETHER_HEADER_BYTES <= len(view) <= self.slot_bytes:
                raise ValueError(f"a frame of {len(view)} bytes; 14 to {self.slot_bytes} are possible")
        while sent < len(views):
            lent = self.lend(
                min(64, len(views) - sent), 64, None if deadline is None else max(0.0, deadline - time.monotonic())
            )
            if not lent.n:
                break
            for i in range(lent.n):
                lent.resize(i, len(views[sent + i]))[:] = views[sent + i]
            sent += self.send(lent)
        return sent

    async def recv_async(self, uint32_t most=64):
        while True:
            burst = self.recv(most, 0)
            if burst.n:
                return burst
            await self._readable()

    async def lend_async(self, uint32_t n, Py_ssize_t bytes=64):
        while True:
            burst = self.lend(n, bytes, 0)
            if burst.n:
                return burst
            await self._readable()

    async def _readable(self):
        loop = asyncio.get_running_loop()
        happened = loop.create_future()
        loop.add_reader(self.side.program_fd, _settle, happened)
        try:
            await happened
        finally:
            loop.remove_reader(self.side.program_fd)

    def fileno(self) -> int:
        return self.side.program_fd

    def end(self) -> None:
        self.closed = True
        self.ops.deliver_burst = drop_after_end  # one pointer, for good: no door
        full_fence()
        wake_eventfd(self.side.program_fd)

    @property
    def link_up(self) -> bool:
        return not self.closed

    def close(self) -> None:
        self.end()


def _settle(future) -> None:
    if not future.done():
        future.set_result(None)
