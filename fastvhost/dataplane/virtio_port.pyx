"""A port with virtqueues: the control side of a virtio-net device. Virtio 1.2, sections 2.7, 2.8 and 5.1.

What the workers see of it (virtio_device) changes in one step, which one of them takes at the door (virtio_change).
"""

import os

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset
from posix.unistd cimport close

from fastvhost.abi.shared_memory cimport store_release_u32
from fastvhost.abi.virtio_net cimport (
    F_IN_ORDER,
    F_RING_PACKED,
    F_VERSION_1,
    NET_F_MRG_RXBUF,
    NET_HDR_BYTES,
    NET_HDR_LEGACY_BYTES,
    RING_F_EVENT_IDX,
    RING_F_INDIRECT_DESC,
    has_feature,
)
from fastvhost.abi.virtio_ring cimport VIRTQ_DESC_F_WRITE
from fastvhost.dataplane.changing_port cimport ChangingPort
from fastvhost.dataplane.door cimport Door
from fastvhost.dataplane.guest_memory cimport GuestMemory, RegionTable
from fastvhost.dataplane.journal cimport Journal
from fastvhost.dataplane.notifier cimport BY_PORT, Notifier
from fastvhost.dataplane.notify cimport socket_domain
from fastvhost.dataplane.offload.header cimport needs_accepted
from fastvhost.dataplane.queue_view cimport state_of
from fastvhost.dataplane.ring cimport Ring
from fastvhost.dataplane.ring_refusal cimport need_placed
from fastvhost.dataplane.virtio_change cimport (
    PLACED,
    DeviceChange,
    Placement,
    QueueChange,
    RingStart,
    begin_change,
    commit_change,
    place,
    ring_base,
    start_ring,
    touch,
)
from fastvhost.dataplane.virtio_device cimport (
    Device,
    Queue,
    deliver_burst,
    has_work,
    is_open,
    receive_burst,
    release_burst,
    report_kicks,
    report_none,
    wait_fd,
    want_kicks,
)
from fastvhost.dataplane.virtio_events cimport take_events

from fastvhost.dataplane.packed_journal import JOURNAL_BYTES
from fastvhost.dataplane.queue_setup import QueueSetup
from fastvhost.dataplane.queue_view import QueueState
from fastvhost.dataplane.ring_refusal import RingRefusedError, need_size_and_base

STARTS = ("as told", "went on", "left standing")

# How long a setter outside of a change waits for a worker. A front-end's message waits as long as it takes: commit().
cdef enum:
    MAX_WAIT_S = 5


cdef class VirtioPort(ChangingPort):
    """A virtio-net device's rings, without a control plane. Virtio 1.2, sections 2.7 and 5.1."""

    def __cinit__(self, *args, **kwargs) -> None:
        self.attention_fd = -1
        self.device = <Device *>calloc(1, sizeof(Device))
        if self.device == NULL:
            raise MemoryError
        self.device.attention_fd = -1
        self.next.port, self.next.device = &self.ops, self.device
        self.apply, self.written = commit_change, &self.next

    def __init__(self, str name, Door door not None, uint32_t queue_pairs=1, *, close_fd=os.close) -> None:
        cdef uint32_t i
        if not 1 <= queue_pairs <= 128:
            raise ValueError(f"port {name}: {queue_pairs} queue pairs; 1 to 128 are possible")
        self.allot(queue_pairs)
        self.name = name
        self.use_door(door)
        self.device.queues = <Queue *>calloc(2 * queue_pairs, sizeof(Queue))
        self.next.queues = <QueueChange *>calloc(2 * queue_pairs, sizeof(QueueChange))
        if self.device.queues == NULL or self.next.queues == NULL:
            raise MemoryError
        self.next.n_queues = 2 * queue_pairs
        for i in range(2 * queue_pairs):
            self.device.queues[i].call_fd = self.device.queues[i].kick_fd = self.device.queues[i].reports_to = -1
            self.device.queues[i].index = i
        self.queue_pairs = queue_pairs
        self.device.receiver.header_bytes = NET_HDR_LEGACY_BYTES
        self.attention_fd = self.device.attention_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.notifier = Notifier(BY_PORT, name, self.attention_fd, close_fd)
        self.device.asked = &self.notifier.asked
        self.ops.state = self.device
        self.ops.receive_burst = receive_burst
        self.ops.deliver_burst, self.ops.takes_starts = deliver_burst, True
        self.ops.release_burst = release_burst
        self.ops.is_open = is_open
        self.ops.may_receive = has_work
        self.ops.wait_fd = wait_fd
        self.ops.want_kicks = want_kicks
        self.ops.has_silent_work = has_work
        self.ops.report_kicks, self.ops.report_none = report_kicks, report_none

    def __dealloc__(self) -> None:
        free(self.next.queues)
        if self.memory is not None:
            self.memory.unwatch(None)
        if self.attention_fd >= 0:
            close(self.attention_fd)
        if self.device != NULL:
            free(self.device.queues)
            free(self.device)

    def close(self) -> None:
        if self.attention_fd >= 0:
            self.discard()
            self.set_memory(None)
            self.notifier.close()
            self.kept, self.journals = None, NULL
            fd, self.attention_fd = self.attention_fd, -1
            self.device.attention_fd = -1
            os.close(fd)

    # Changes: written to `next`, which workers do not see until all of it takes effect

    cdef bint has_plan(self) noexcept:
        return self.next.begun and self.next.touched

    cdef int forget(self) except -1:
        if self.next.begun and self.next_memory is not None and self.next_memory is not self.memory:
            self.next_memory.unwatch(self.memory)
        self.next.begun = False
        self.next_memory = self.memory
        return 0

    cdef int has_changed(self) except -1:
        cdef uint32_t i
        cdef QueueChange *one
        cdef GuestMemory previous = self.memory
        if self.next_memory is not previous:
            self.memory, self.reported_fault = self.next_memory, False
            if previous is not None:
                previous.unwatch(self.memory)
        for i in range(2 * self.queue_pairs):
            one = &self.next.queues[i]
            if one.stops:
                self.notifier.set_target(i, -1)
                self.notifier.set_target(self.err_slot(i), -1)
            if one.starts or one.calls:
                self.notifier.set_target(i, self.device.queues[i].call_fd)
        if self.next.link_changes:
            self.notifier.end()
        self.next.begun = False
        return 0

    cdef DeviceChange *plan(self) except NULL:
        self.recall()
        if not self.next.begun:
            begin_change(&self.next, self.device)
            self.next_memory = self.memory
        return &self.next

    cdef const Queue *planned(self, uint32_t index) except NULL:
        """A queue as it is to become."""
        cdef DeviceChange *next = self.plan()
        return &next.queues[index].queue if next.queues[index].touched else &self.device.queues[index]

    cdef Queue *queue(self, uint32_t index) except NULL:
        """As workers see it."""
        if index >= 2 * self.queue_pairs:
            raise RingRefusedError(
                f"ring {index}: this port has rings 0 to {2 * self.queue_pairs - 1}; raise queues= on the port"
            )
        return &self.device.queues[index]

    @property
    def link_up(self) -> bool:
        return self.device.link_up

    @property
    def calls(self) -> int:
        return sum(self.device.queues[i].calls for i in range(2 * self.queue_pairs))

    def set_link(self, bint up) -> None:
        cdef DeviceChange *next = self.plan()
        self.need_made()
        if next.link_up != up:
            next.link_up = up
            next.link_changes = next.touched = True
        if not self.changing:
            self.settle(MAX_WAIT_S)

    def set_features(self, uint64_t features) -> None:
        cdef uint32_t i
        cdef DeviceChange *next = self.plan()
        if features != next.features:
            for i in range(2 * self.queue_pairs):
                if self.planned(i).live:
                    raise RingRefusedError(f"ring {i} is live: features change only while every ring is stopped")
            modern = has_feature(features, F_VERSION_1) or has_feature(features, NET_F_MRG_RXBUF)
            next.features, next.touched = features, True
            next.packed = has_feature(features, F_RING_PACKED)
            next.receiver.header_bytes = NET_HDR_BYTES if modern else NET_HDR_LEGACY_BYTES
            next.receiver.mergeable = has_feature(features, NET_F_MRG_RXBUF)
            next.receiver.accepts = needs_accepted(features)
        if not self.changing:
            self.settle(MAX_WAIT_S)

    def set_memory(self, GuestMemory memory) -> tuple[int, ...]:
        cdef uint32_t i
        cdef Queue *queue
        cdef DeviceChange *next = self.plan()
        cdef const RegionTable *table = NULL if memory is None else &memory.table
        lost = []
        if memory is not self.next_memory:
            if memory is not None and memory is not self.memory:
                memory.watch(self.attention_fd)
            if self.next_memory is not None and self.next_memory is not self.memory:
                self.next_memory.unwatch(memory)  # another one of the same change
            self.next_memory = memory
            next.takes_back = next.touched = True
            for i in range(2 * self.queue_pairs):
                if not self.planned(i).live:
                    continue
                queue = touch(next, self.device, i)
                if place(queue, table, next.packed) != PLACED:
                    queue.live = next.queues[i].starts = False
                    next.queues[i].lost = True
                    lost.append(i)
        if not self.changing:
            self.settle(MAX_WAIT_S)
        return tuple(lost)

    def keep_journals(self, buffer) -> None:
        cdef uint8_t[::1] view = buffer
        cdef uint32_t i
        if <size_t>view.shape[0] < 2 * self.queue_pairs * sizeof(Journal) or <size_t>&view[0] % 8:
            raise ValueError(
                f"port {self.name}: {view.shape[0]} bytes for the journals of {2 * self.queue_pairs} rings; "
                f"{JOURNAL_BYTES} for each, aligned to 8, are needed"
            )
        for i in range(2 * self.queue_pairs):
            if self.planned(i).live or self.device.queues[i].live:
                raise ValueError(f"ring {i} of port {self.name} is live; journals are given to a port before that")
        self.kept, self.journals = view, <Journal *>&view[0]

    def forget_queue(self, uint32_t index) -> None:
        self.queue(index)
        if self.journals != NULL and self.journals[index].size:
            touch(self.plan(), self.device, index)
            self.next.queues[index].forgets = &self.journals[index]
        if not self.changing:
            self.settle(MAX_WAIT_S)

    def start_queue(self, uint32_t index, setup) -> str:
        cdef DeviceChange *next = self.plan()
        cdef Queue fresh
        cdef int64_t size = setup.size
        cdef object base = setup.base
        cdef Placement placement
        cdef RingStart how
        cdef Journal *journal
        cdef uint32_t start = 0
        cdef bint resumes
        self.queue(index)
        resumes = base is None and next.queues[index].stops
        if resumes and (self.device.queues[index].ring.size != size or self.device.packed != next.packed):
            raise RingRefusedError(f"ring {index} cannot go on where it stopped with another size or format")
        if base is None and not resumes:
            base = next.queues[index].base
        need_size_and_base(index, size, 0 if resumes else base, next.packed)
        if self.planned(index).live:
            raise RingRefusedError(f"ring {index} is live; stop it with GET_VRING_BASE before it starts again")
        if self.next_memory is None:
            raise RingRefusedError(f"ring {index}: there is no guest memory yet; send SET_MEM_TABLE before the kick fd")
        fresh = self.planned(index)[0]
        memset(&fresh.ring, 0, sizeof(Ring))
        fresh.ring.size = <uint16_t>size
        fresh.ring.direction = 0 if index & 1 else VIRTQ_DESC_F_WRITE
        fresh.ring.indirect = has_feature(next.features, RING_F_INDIRECT_DESC)
        fresh.ring.event_idx = has_feature(next.features, RING_F_EVENT_IDX)
        fresh.ring.in_batches = has_feature(next.features, F_IN_ORDER) and fresh.ring.direction == 0
        fresh.descriptor_user_addr, fresh.driver_user_addr = setup.desc_user_addr, setup.avail_user_addr
        fresh.device_user_addr, fresh.call_fd, fresh.kick_fd = setup.used_user_addr, setup.call_fd, setup.kick_fd
        fresh.call_is_socket = socket_domain(fresh.call_fd) >= 0
        fresh.enabled, fresh.kicked = setup.enabled, setup.kicked
        fresh.started = fresh.kicked
        placement = place(&fresh, &self.next_memory.table, next.packed)
        need_placed(index, placement, next.packed)
        start = next.queues[index].base if resumes else base
        journal = NULL if self.journals == NULL else &self.journals[index]
        with nogil:  # the first touch of the ring: its memory may be slow to come
            how = start_ring(next, self.device, &fresh, start, resumes, journal)
        fresh.live = True
        touch(next, self.device, index)[0] = fresh
        next.queues[index].starts, next.queues[index].resumes = True, resumes
        if not next.queues[index].stops:
            next.queues[index].base = ring_base(&fresh.ring, next.packed)
        if not self.changing:
            self.settle(MAX_WAIT_S)
        return STARTS[<int>how]

    def kick_queue(self, uint32_t index) -> None:
        cdef Queue *queue = self.queue(index)
        if self.changing:
            if self.planned(index).live and not self.planned(index).kicked:
                queue = touch(&self.next, self.device, index)
                queue.kicked = queue.started = self.next.queues[index].kicks = True
        elif queue.live:
            # Two words that only change from 0 to 1: the door is not needed.
            store_release_u32(<uint32_t *>&queue.kicked, 1)
            store_release_u32(<uint32_t *>&queue.started, 1)

    def stop_queue(self, uint32_t index) -> int:
        cdef DeviceChange *next = self.plan()
        cdef Queue *queue
        self.queue(index)
        if self.planned(index).live:
            queue = touch(next, self.device, index)
            queue.live = next.queues[index].starts = next.queues[index].resumes = False
            queue.call_fd = queue.kick_fd = -1
            if self.device.queues[index].live:
                next.queues[index].stops = next.takes_back = True
        if not self.changing:
            self.settle(MAX_WAIT_S)
        return next.queues[index].base

    def queue_setup(self, uint32_t index) -> QueueSetup:
        self.queue(index)
        cdef const Queue *queue = self.planned(index)
        return QueueSetup(
            size=queue.ring.size,
            desc_user_addr=queue.descriptor_user_addr,
            avail_user_addr=queue.driver_user_addr,
            used_user_addr=queue.device_user_addr,
            base=self.next.queues[index].base,
            call_fd=queue.call_fd,
            kick_fd=queue.kick_fd,
            enabled=queue.enabled,
            kicked=queue.kicked,
        )

    def set_enabled(self, uint32_t index, bint enabled) -> None:
        self.queue(index)
        if self.planned(index).enabled != enabled:
            touch(&self.next, self.device, index).enabled = enabled
        if not self.changing:
            self.settle(MAX_WAIT_S)

    def set_call_fd(self, uint32_t index, int call_fd) -> None:
        cdef Queue *queue
        cdef bint is_socket = socket_domain(call_fd) >= 0
        self.queue(index)
        if self.planned(index).call_fd != call_fd:
            queue = touch(&self.next, self.device, index)
            queue.call_fd, queue.call_is_socket = call_fd, is_socket
            self.next.queues[index].calls = True
        if not self.changing:
            self.settle(MAX_WAIT_S)

    def set_kick_fd(self, uint32_t index, int kick_fd) -> None:
        self.queue(index)
        if self.planned(index).kick_fd != kick_fd:
            touch(&self.next, self.device, index).kick_fd = kick_fd
        if not self.changing:
            self.settle(MAX_WAIT_S)

    cdef uint32_t err_slot(self, uint32_t index) noexcept:
        return 2 * self.queue_pairs + index

    def call(self, uint32_t index) -> None:
        cdef Queue *queue = self.queue(index)
        if queue.call_fd >= 0:
            self.notifier.tell(index, queue.call_fd)

    def signal_err(self, uint32_t index, int err_fd) -> None:
        self.queue(index)
        self.notifier.tell(self.err_slot(index), err_fd)

    cdef int need_made(self) except -1:
        if self.notifier is None:
            raise ValueError("this port was never made: call its __init__ first")
        return 0

    def tend(self, double now) -> float | None:
        self.need_made()
        return self.notifier.tend(now)

    @property
    def helper(self) -> tuple[bool, int]:
        self.need_made()
        return self.notifier.state

    def queue_state(self, uint32_t index) -> QueueState:
        # Called from other threads as well. Memory that a change replaces meanwhile stays mapped until the end.
        self.queue(index)
        kept = [memory for memory in (self.memory, self.next_memory) if memory is not None]
        return state_of(
            self.device, index, kept, &self.ops.rx[index // 2] if index & 1 else &self.ops.tx[index // 2]
        )

    def rings(self) -> list[QueueState]:
        cdef uint32_t index
        used = [
            index for index in range(2 * self.queue_pairs)
            if self.device.queues[index].live and self.device.queues[index].enabled
        ]
        return [self.queue_state(index) for index in used]

    def events(self) -> list[tuple[str, int, str]]:
        try:
            os.eventfd_read(self.attention_fd)
        except BlockingIOError:
            pass
        found = take_events(self.device, 2 * self.queue_pairs)
        if self.memory is not None and not self.reported_fault and self.memory.faulted:
            self.reported_fault = True
            found.append((
                "faulted",
                -1,
                "guest memory vanished under an access (SIGBUS): "
                "the file behind it was cut short or its file system is full",
            ))
        return found
