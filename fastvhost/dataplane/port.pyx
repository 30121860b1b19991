"""Ports: the base that every kind shares, and the kind without a peer."""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from fastvhost.abi.shared_memory cimport store_release_u32
from fastvhost.dataplane.delivery_lock cimport DeliveryLock
from fastvhost.dataplane.door cimport Door, PortDoor
from fastvhost.dataplane.drop_reason cimport N_DROP_REASONS, NO_RECEIVE_BUFFERS
from fastvhost.dataplane.frame cimport Delivery, FrameBurst, Done
from fastvhost.dataplane.tally cimport Tally

from fastvhost.dataplane.drop_reason import NAMES


class Counters:
    """A snapshot of one port's counters. rx: from the VM, tx: towards the VM, as the forwarder sees them."""

    __slots__ = (
        "calls",
        "copies",
        "cut",
        "rx_bytes",
        "rx_dropped",
        "rx_frames",
        "segmented",
        "tx_bytes",
        "tx_dropped",
        "tx_frames",
    )

    def __init__(
        self, rx_frames, rx_bytes, tx_frames, tx_bytes, rx_dropped, tx_dropped, calls, cut=0, segmented=0, copies=0
    ) -> None:
        self.rx_frames, self.rx_bytes, self.tx_frames, self.tx_bytes = rx_frames, rx_bytes, tx_frames, tx_bytes
        self.rx_dropped, self.tx_dropped, self.calls = rx_dropped, tx_dropped, calls
        self.cut, self.segmented, self.copies = cut, segmented, copies


cdef uint32_t receive_nothing(PortOps *port, uint32_t pair, FrameBurst *burst) noexcept nogil:
    return 0


cdef uint32_t count_as_delivered(PortOps *port, uint32_t pair, const Delivery *delivery) noexcept nogil:
    cdef uint32_t i
    for i in range(delivery.n):
        port.tx[pair].bytes += delivery.frames[i].bytes
    port.tx[pair].frames += delivery.n
    return delivery.n


cdef void release_nothing(PortOps *port, uint32_t pair, const Done *done, uint32_t n) noexcept nogil:
    pass


cdef bint always(PortOps *port, uint32_t pair) noexcept nogil:
    return True


cdef int no_wait_fd(PortOps *port, uint32_t pair, bint *kicked) noexcept nogil:
    return NOTHING_TO_WAIT_FOR


cdef void want_no_kicks(PortOps *port, uint32_t pair, bint wanted) noexcept nogil:
    pass


cdef bint no_work(PortOps *port, uint32_t pair) noexcept nogil:
    return False


cdef class Port:
    """What every kind of port has. A kind fills in the functions of PortOps (port.pxd)."""

    def __cinit__(self, *args, **kwargs) -> None:
        self.delivering = {}
        self.ops.receive_burst = receive_nothing
        self.ops.deliver_burst = count_as_delivered
        self.ops.release_burst = release_nothing
        self.ops.is_open = self.ops.may_receive = always
        self.ops.wait_fd = no_wait_fd
        self.ops.want_kicks = want_no_kicks
        self.ops.has_silent_work = no_work

    cdef int allot(self, uint32_t n_pairs) except -1:
        """Make room for the counters of this many pairs. Called once, by the kind's constructor."""
        if self.ops.rx != NULL:
            raise ValueError(f"port {self.name}: a port is made once")
        self.ops.rx = <Tally *>calloc(n_pairs, sizeof(Tally))
        self.ops.tx = <Tally *>calloc(n_pairs, sizeof(Tally))
        self.ops.locks = <DeliveryLock *>calloc(n_pairs, sizeof(DeliveryLock))
        self.ops.stops = <uint32_t *>calloc(n_pairs, sizeof(uint32_t))
        if self.ops.rx == NULL or self.ops.tx == NULL or self.ops.locks == NULL or self.ops.stops == NULL:
            raise MemoryError
        self.ops.n_pairs = n_pairs
        self.ops.active_pairs = 1
        return 0

    cdef int use_door(self, Door door) except -1:
        """Workers of this port use this door. Called once, by the kind's constructor."""
        self.door, self.entrance = door, PortDoor(door)
        return 0

    cdef int share(self) except -1:
        """From now on several workers may deliver to the same pair, each under its lock."""
        self.ops.shared = True
        if self.entrance is not None:
            self.entrance.locks = self.ops.locks
            store_release_u32(&self.entrance.n_locks, self.ops.n_pairs)
        return 0

    def __dealloc__(self) -> None:
        free(self.ops.rx)
        free(self.ops.tx)
        free(self.ops.locks)
        free(self.ops.stops)

    @property
    def link_up(self) -> bool:
        return True

    @property
    def calls(self) -> int:
        return 0

    def counters(self) -> Counters:
        cdef uint32_t pair, reason
        cdef Tally rx, tx
        total = [0] * 7
        rx_dropped, tx_dropped = dict.fromkeys(NAMES, 0), dict.fromkeys(NAMES, 0)
        for pair in range(self.ops.n_pairs):
            rx, tx = self.ops.rx[pair], self.ops.tx[pair]
            counts = rx.frames, rx.bytes, tx.frames, tx.bytes, tx.cut, tx.segmented, rx.copies
            total = [a + b for a, b in zip(total, counts)]
            tx.dropped[<int>NO_RECEIVE_BUFFERS] += self.ops.locks[pair].missed
            for reason in range(N_DROP_REASONS):
                rx_dropped[NAMES[reason]] += rx.dropped[reason]
                tx_dropped[NAMES[reason]] += tx.dropped[reason]
        return Counters(*total[:4], rx_dropped, tx_dropped, self.calls, *total[4:])

    def totals(self) -> tuple[int, int, int, int, int, int]:
        cdef uint64_t rx_frames = 0, rx_bytes = 0, tx_frames = 0, tx_bytes = 0, rx_dropped = 0, tx_dropped = 0
        cdef uint32_t pair, reason
        cdef const Tally *rx
        cdef const Tally *tx
        for pair in range(self.ops.n_pairs):
            rx, tx = &self.ops.rx[pair], &self.ops.tx[pair]
            rx_frames, rx_bytes = rx_frames + rx.frames, rx_bytes + rx.bytes
            tx_frames, tx_bytes = tx_frames + tx.frames, tx_bytes + tx.bytes
            tx_dropped += self.ops.locks[pair].missed
            for reason in range(N_DROP_REASONS):
                rx_dropped += rx.dropped[reason]
                tx_dropped += tx.dropped[reason]
        return rx_frames, rx_bytes, tx_frames, tx_bytes, rx_dropped, tx_dropped

    def rings(self) -> list[object]:
        return []

    def close(self) -> None:
        pass


cdef class NullPort(Port):
    """Takes and forgets every frame, and sends none."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.allot(1)
        self.ops.takes_starts = True
