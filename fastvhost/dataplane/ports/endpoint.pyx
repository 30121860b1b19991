"""A port that a program of this process owns: four rings of parcels between its thread and the worker's.

Slots of one memory go round: lent by the program's share, filled, leaving, returned; or vacant, filled by the worker,
arrived, released. A received slot that the program sends back returns to the program's half; rebalance() moves the
surplus to the worker's half again.
"""

import asyncio
import mmap
import os
import time

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy
from posix.unistd cimport close

from fastvhost.abi.shared_memory cimport full_fence, load_acquire_u32, store_release_u32
from fastvhost.abi.virtio_net cimport ETHER_HEADER_BYTES
from fastvhost.dataplane.door cimport Door
from fastvhost.dataplane.drop_reason cimport LINK_DOWN, OVERSIZE
from fastvhost.dataplane.eventfd cimport POLLIN, drain_eventfd, poll, pollfd, wake_eventfd
from fastvhost.dataplane.frame cimport BURST as MOST_FRAMES, Chain, Done, Frame, FrameBurst, Segment, copy_frame
from fastvhost.dataplane.port cimport Port, PortOps
from fastvhost.dataplane.ports.parcels cimport (
    Parcel,
    Parcels,
    free_parcels,
    make_parcels,
    parcels_there,
    put_parcel,
    show_parcels,
    take_parcel,
)
from fastvhost.dataplane.tally cimport Tally, count_drops


# How long a program that waits sleeps at most: two threads may wait on one eventfd, and one take the wake-up of both.
cdef enum:
    WAKE_UP_MS = 100


class EndpointClosedError(Exception):
    """The forwarder behind an endpoint has ended: nothing comes from it any more, nothing gets through."""


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
            first_segment=0, n_segments=1,
        )
        burst.done[i] = Done(parcel.slot, 0)
        port.rx[pair].bytes += parcel.bytes
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


cdef uint32_t deliver_burst(
    PortOps *port, uint32_t pair, const Frame *frames, const Segment *segments, uint32_t n
) noexcept nogil:
    cdef EndpointMemory *side = <EndpointMemory *>port.state
    cdef Tally *tally = &port.tx[pair]
    cdef uint32_t i = 0, room = parcels_there(&side.vacant), slot
    while i < n:
        if frames[i].bytes > side.slot_bytes:
            count_drops(tally, OVERSIZE, 1)
            i += 1
            continue
        if room == 0:
            break
        room -= 1
        slot = take_parcel(&side.vacant).slot
        copy_frame(side.memory + <uint64_t>slot * side.slot_bytes, &frames[i], segments)
        put_parcel(&side.arrived, slot, frames[i].bytes)
        tally.frames += 1
        tally.bytes += frames[i].bytes
        i += 1
    if side.arrived.staged:
        show_parcels(&side.arrived)
        wake_program(side)
    return i


cdef uint32_t drop_after_end(
    PortOps *port, uint32_t pair, const Frame *frames, const Segment *segments, uint32_t n
) noexcept nogil:
    count_drops(&port.tx[pair], LINK_DOWN, n)
    return n


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

cdef object BY_ENDPOINT = object()  # what makes a burst: no program has it


cdef class Burst:
    """Frames in the endpoint's memory: a sequence of writable memoryviews, the program's until release() or send()."""

    def __cinit__(self, maker=None) -> None:
        if maker is not BY_ENDPOINT:
            raise TypeError("a Burst is not made by itself; Endpoint.recv and Endpoint.lend return one")

    def __len__(self) -> int:
        return self.n

    cdef Parcel *at(self, Py_ssize_t index) except NULL:
        """The one place that turns a number, from the end where it is negative, into a frame of the burst."""
        if index < 0:
            index += self.n
        if self.gone or not 0 <= index < self.n:
            raise IndexError("the burst was given back" if self.gone else "no frame of that number in the burst")
        return &self.parcels[index]

    def __getitem__(self, Py_ssize_t index) -> memoryview:
        cdef Parcel *parcel = self.at(index)
        cdef Py_ssize_t start = <Py_ssize_t>parcel.slot * self.endpoint.slot_bytes
        return self.endpoint.view[start:start + parcel.bytes]

    def __iter__(self):
        cdef uint32_t i
        for i in range(self.n):
            yield self[i]

    def resize(self, Py_ssize_t index, Py_ssize_t bytes) -> memoryview:
        cdef Parcel *parcel = self.at(index)
        if not ETHER_HEADER_BYTES <= bytes <= self.endpoint.slot_bytes:
            raise ValueError(f"a frame of {bytes} bytes; 14 to {self.endpoint.slot_bytes} are possible")
        parcel.bytes = <uint32_t>bytes
        return self[index]

    def fill(self, frame) -> None:
        cdef Py_buffer source
        cdef uint32_t i
        cdef Parcel *parcel
        PyObject_GetBuffer(frame, &source, PyBUF_SIMPLE)
        try:
            if not ETHER_HEADER_BYTES <= source.len <= self.endpoint.slot_bytes:
                raise ValueError(f"a frame of {source.len} bytes; 14 to {self.endpoint.slot_bytes} are possible")
            if self.gone:
                raise IndexError("the burst was given back")
            for i in range(self.n):
                parcel = &self.parcels[i]
                memcpy(
                    self.endpoint.side.memory + <uint64_t>parcel.slot * self.endpoint.slot_bytes,
                    source.buf, source.len,
                )
                parcel.bytes = <uint32_t>source.len
        finally:
            PyBuffer_Release(&source)

    def stamp(self, uint32_t at, uint32_t first) -> None:
        cdef uint32_t i
        if self.gone:
            raise IndexError("the burst was given back")
        for i in range(self.n):
            if <uint64_t>at + 4 > self.parcels[i].bytes:
                raise ValueError(f"no room for a number at {at} in a frame of {self.parcels[i].bytes} bytes")
        for i in range(self.n):
            store_big_endian(
                self.endpoint.side.memory + <uint64_t>self.parcels[i].slot * self.endpoint.slot_bytes + at, first + i
            )

    def numbers(self, frame, uint32_t at) -> list:
        cdef Py_buffer model
        cdef const uint8_t *wanted
        cdef const uint8_t *there
        cdef uint32_t i
        if self.gone:
            raise IndexError("the burst was given back")
        found = [-1] * self.n
        PyObject_GetBuffer(frame, &model, PyBUF_SIMPLE)
        try:
            if <uint64_t>model.len < <uint64_t>at + 4:
                raise ValueError(f"no number at {at} in a frame of {model.len} bytes")
            wanted = <const uint8_t *>model.buf
            for i in range(self.n):
                there = self.endpoint.side.memory + <uint64_t>self.parcels[i].slot * self.endpoint.slot_bytes
                if (
                    self.parcels[i].bytes == model.len
                    and memcmp(there, wanted, at) == 0
                    and memcmp(there + at + 4, wanted + at + 4, model.len - at - 4) == 0
                ):
                    found[i] = load_big_endian(there + at)
        finally:
            PyBuffer_Release(&model)
        return found

    def release(self) -> None:
        if not self.gone:
            self.gone = True
            self.endpoint.put_back(self.parcels, self.n, self.lent)

    def __enter__(self) -> "Burst":
        return self

    def __exit__(self, *exc) -> None:
        self.release()

    def __dealloc__(self) -> None:
        if not self.gone and self.endpoint is not None and self.parcels != NULL:
            self.endpoint.put_back(self.parcels, self.n, self.lent)
        free(self.parcels)


cdef void store_big_endian(uint8_t *at, uint32_t number) noexcept nogil:
    at[0], at[1], at[2], at[3] = number >> 24, (number >> 16) & 255, (number >> 8) & 255, number & 255


cdef uint32_t load_big_endian(const uint8_t *at) noexcept nogil:
    return <uint32_t>at[0] << 24 | <uint32_t>at[1] << 16 | <uint32_t>at[2] << 8 | at[3]


cdef Burst new_burst(Endpoint endpoint, uint32_t most, bint lent):
    cdef Burst burst = Burst.__new__(Burst, BY_ENDPOINT)
    burst.endpoint, burst.lent = endpoint, lent
    burst.parcels = <Parcel *>malloc((most or 1) * sizeof(Parcel))
    if burst.parcels == NULL:
        raise MemoryError
    return burst


cdef double seconds_of(object timeout) except -2:
    """A timeout as wait_for takes it: -1 for None, which is for ever."""
    cdef double seconds = -1 if timeout is None else timeout
    if timeout is not None and not seconds >= 0:
        raise ValueError(f"a timeout of {seconds} seconds; give 0 or more, or None to wait for ever")
    return seconds


cdef class Endpoint(Port):
    """A port whose other end is the program itself."""

    def __cinit__(self, *args, **kwargs) -> None:
        self.side.program_fd = self.side.worker_fd = -1

    def __init__(self, str name, Door door not None, *, uint32_t slots=1024, uint32_t slot_bytes=9216) -> None:
        cdef uint32_t i
        cdef Py_buffer buffer
        if not 4 <= slots <= 65536 or slots & (slots - 1):
            raise ValueError(f"port {name}: {slots} slots; a power of two from 4 to 65536 is wanted")
        if not 64 <= slot_bytes <= 65600:
            raise ValueError(f"port {name}: slots of {slot_bytes} bytes; 64 to 65600 are possible")
        self.allot(1)
        self.name = name
        self.use_door(door)
        self.slots, self.slot_bytes, self.share = slots, (slot_bytes + 63) & ~63, slots // 2
        self.spare = <uint32_t *>calloc(slots, sizeof(uint32_t))
        if self.spare == NULL:
            raise MemoryError
        if not (
            make_parcels(&self.side.arrived, slots) and make_parcels(&self.side.returned, slots)
            and make_parcels(&self.side.leaving, slots) and make_parcels(&self.side.vacant, slots)
        ):
            raise MemoryError
        self.memory = mmap.mmap(-1, <uint64_t>slots * self.slot_bytes)
        self.view = memoryview(self.memory)
        PyObject_GetBuffer(self.memory, &buffer, PyBUF_SIMPLE)
        self.side.memory, self.side.slot_bytes = <uint8_t *>buffer.buf, self.slot_bytes
        PyBuffer_Release(&buffer)  # the view keeps the mapping where it is
        self.side.program_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.side.worker_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        for i in range(slots):
            if i < self.share:
                self.spare[self.n_spare] = i
                self.n_spare += 1
            else:
                put_parcel(&self.side.vacant, i, 0)
        show_parcels(&self.side.vacant)
        self.ops.state = &self.side
        self.ops.receive_burst, self.ops.deliver_burst = receive_burst, deliver_burst
        self.ops.release_burst = release_burst
        self.ops.wait_fd, self.ops.want_kicks, self.ops.has_silent_work = wait_fd, want_kicks, has_work

    def __dealloc__(self) -> None:
        free(self.spare)
        free_parcels(&self.side.arrived)
        free_parcels(&self.side.returned)
        free_parcels(&self.side.leaving)
        free_parcels(&self.side.vacant)
        if self.side.program_fd >= 0:
            close(self.side.program_fd)
        if self.side.worker_fd >= 0:
            close(self.side.worker_fd)

    cdef uint32_t take(self, Parcel *parcels, uint32_t most) noexcept nogil:
        """Up to so many frames that arrived. They are the program's until put_back or pass_on."""
        cdef uint32_t i, n = min(most, parcels_there(&self.side.arrived))
        self.rebalance()
        for i in range(n):
            parcels[i] = take_parcel(&self.side.arrived)
        return n

    cdef uint32_t lend_slots(self, Parcel *parcels, uint32_t most) noexcept nogil:
        """Up to so many empty slots. The caller sets their bytes."""
        cdef uint32_t n = 0, there = parcels_there(&self.side.returned)
        while n < most and self.n_spare:
            self.n_spare -= 1
            parcels[n] = Parcel(self.spare[self.n_spare], 0)
            n += 1
        while n < most and there:
            parcels[n] = take_parcel(&self.side.returned)
            there -= 1
            n += 1
        return n

    cdef void put_back(self, const Parcel *parcels, uint32_t n, bint lent) noexcept nogil:
        """Slots that the program does not want any more; lent: they came from lend_slots."""
        cdef uint32_t i
        for i in range(n):
            if lent:
                self.spare[self.n_spare] = parcels[i].slot
                self.n_spare += 1
            else:
                put_parcel(&self.side.vacant, parcels[i].slot, 0)
        show_parcels(&self.side.vacant)

    cdef void pass_on(self, const Parcel *parcels, uint32_t n) noexcept nogil:
        """Send."""
        cdef uint32_t i
        for i in range(n):
            put_parcel(&self.side.leaving, parcels[i].slot, parcels[i].bytes)
        show_parcels(&self.side.leaving)
        self.rebalance()
        full_fence()  # pairs with the one before the worker sleeps
        if load_acquire_u32(&self.side.worker_waits):
            wake_eventfd(self.side.worker_fd)

    cdef void rebalance(self) noexcept nogil:
        """Give the worker back what came home beyond the program's share."""
        cdef uint32_t there = parcels_there(&self.side.returned)
        if there + self.n_spare <= self.share:
            return
        while there and there + self.n_spare > self.share:
            put_parcel(&self.side.vacant, take_parcel(&self.side.returned).slot, 0)
            there -= 1
        show_parcels(&self.side.vacant)

    cdef bint wait_for(self, Parcels *ring, double timeout) except -1:
        """Until there is something in a ring: True. False after so many seconds, less than 0 meaning for ever."""
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
            # The worker may wait for the very buffers that came home. With the GIL: no two threads move slots.
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
