"""A port with virtqueues: the control side of a virtio-net device. Virtio 1.2, sections 2.7, 2.8 and 5.1.

What the workers see of it (virtio_device) is changed only while the door is closed.
"""

import os
from typing import NamedTuple

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from fastvhost.abi.shared_memory cimport load_acquire_u32, load_u16, store_release_u32
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
from fastvhost.abi.virtio_packed cimport RING_EVENT_FLAGS_DISABLE, pvirtq_event_suppress
from fastvhost.abi.virtio_ring cimport (
    VIRTQ_AVAIL_F_NO_INTERRUPT,
    VIRTQ_DESC_F_WRITE,
    VIRTQ_MAX_SIZE,
    virtq_avail,
    virtq_used,
)
from fastvhost.dataplane.door cimport Door
from fastvhost.dataplane.guest_memory cimport GuestMemory, host_of_user
from fastvhost.dataplane.notifier cimport Notifier
from fastvhost.dataplane.notify cimport socket_domain
from fastvhost.dataplane.packed_ring cimport packed_ring_base, reset_packed_ring, rewind_packed_ring
from fastvhost.dataplane.port cimport Port
from fastvhost.dataplane.ring cimport RING_OUTSIDE_MEMORY, Ring
from fastvhost.dataplane.split_ring cimport reset_split_ring, rewind_split_ring, split_ring_base
from fastvhost.dataplane.virtio_device cimport (
    Device,
    Queue,
    deliver_burst,
    has_work,
    is_open,
    receive_burst,
    release_burst,
    wait_fd,
    want_kicks,
)

from fastvhost.dataplane.ring import SENTENCES


class RingRefusedError(ValueError):
    """A queue cannot start as configured. The text names the ring, the reason and the remedy."""


class QueueState(NamedTuple):
    """One queue as a worker sees it now, for show and diagnosis."""

    index: int
    size: int
    live: bool
    started: bool
    enabled: bool
    broken: str
    avail_idx: int
    used_idx: int
    next_avail: int
    frames: int
    bytes: int
    kick_suppressed: bool
    interrupt_wanted: bool
    kicks: int


cdef class VirtioPort(Port):
    """A virtio-net device's rings, without a control plane. Virtio 1.2, sections 2.7 and 5.1."""

    def __init__(self, name: str, Door door not None, uint32_t queue_pairs=1, *, close_fd=os.close) -> None:
        cdef uint32_t i
        if not 1 <= queue_pairs <= 128:
            raise ValueError(f"port {name}: {queue_pairs} queue pairs; 1 to 128 are possible")
        if self.device != NULL:
            raise ValueError(f"port {name}: a port is made once")
        self.name, self.kind, self.door, self.queue_pairs = name, "vhost-user", door, queue_pairs
        self.allot(queue_pairs)
        self.device = <Device *>calloc(1, sizeof(Device))
        if self.device == NULL:
            raise MemoryError
        self.device.queues = <Queue *>calloc(2 * queue_pairs, sizeof(Queue))
        if self.device.queues == NULL:
            raise MemoryError
        for i in range(2 * queue_pairs):
            self.device.queues[i].call_fd = self.device.queues[i].kick_fd = -1
            self.device.queues[i].index = i
        self.device.header_bytes = NET_HDR_LEGACY_BYTES
        self.attention_fd = self.device.attention_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.notifier = Notifier(name, self.attention_fd, close_fd)
        self.device.asked = &self.notifier.asked
        self.face.kind = self.device
        self.face.receive_burst = receive_burst
        self.face.deliver_burst = deliver_burst
        self.face.release_burst = release_burst
        self.face.is_open = is_open
        self.face.may_receive = has_work
        self.face.wait_fd = wait_fd
        self.face.want_kicks = want_kicks
        self.face.has_work = has_work

    def __dealloc__(self) -> None:
        if self.device != NULL:
            free(self.device.queues)
            free(self.device)

    def close(self) -> None:
        if self.attention_fd >= 0:
            self.set_memory(None)
            self.notifier.close()
            fd, self.attention_fd = self.attention_fd, -1
            self.device.attention_fd = -1
            os.close(fd)

    cdef Queue *queue(self, uint32_t index) except NULL:
        if index >= 2 * self.queue_pairs:
            raise RingRefusedError(
                f"ring {index}: this port has rings 0 to {2 * self.queue_pairs - 1}; raise queues= on the port"
            )
        return &self.device.queues[index]

    cdef bint place(self, Queue *queue) noexcept:
        """Translate a queue's remembered addresses in the memory of now. False: not all of it lies in a region."""
        cdef Ring *ring = &queue.ring
        cdef uint64_t size = ring.size, event_bytes = 2 if ring.event_idx else 0
        cdef uint64_t driver_bytes = 4 if self.packed else 4 + 2 * size + event_bytes
        cdef uint64_t device_bytes = 4 if self.packed else 4 + 8 * size + event_bytes
        cdef uint8_t *descriptors
        cdef uint8_t *driver
        cdef uint8_t *device
        if self.memory is None:
            return False
        descriptors = host_of_user(&self.memory.table, queue.descriptor_user_addr, 16 * size)
        driver = host_of_user(&self.memory.table, queue.driver_user_addr, driver_bytes)
        device = host_of_user(&self.memory.table, queue.device_user_addr, device_bytes)
        if descriptors == NULL or driver == NULL or device == NULL:
            return False
        # Sections 2.7 and 2.8.10: what each part must be aligned to.
        if <uint64_t>descriptors % 16 or <uint64_t>driver % (4 if self.packed else 2) or <uint64_t>device % 4:
            return False
        ring.descriptor_area, ring.driver_area, ring.device_area = descriptors, driver, device
        ring.table, ring.hot_region = &self.memory.table, 0
        return True

    cdef void rewind(self, Queue *queue) noexcept:
        if self.packed:
            rewind_packed_ring(&queue.ring)
        else:
            rewind_split_ring(&queue.ring)

    cdef void take_back(self) noexcept:
        """Workers forget the frames of all pairs that wait with them; live queues hand them out again."""
        cdef uint32_t i
        self.face.epoch += 1
        for i in range(2 * self.queue_pairs):
            if self.device.queues[i].live:
                self.rewind(&self.device.queues[i])

    cdef void count_active(self) noexcept:
        """Pairs from 0 on whose receiveq takes frames."""
        cdef uint32_t active = 0
        while (
            active < self.queue_pairs
            and self.device.queues[2 * active].live
            and self.device.queues[2 * active].enabled
        ):
            active += 1
        self.face.active_pairs = max(active, 1)

    @property
    def link_up(self) -> bool:
        return self.device.link_up

    @property
    def calls(self) -> int:
        return sum(self.device.queues[i].calls for i in range(2 * self.queue_pairs))

    def set_link(self, bint up) -> None:
        self.door.close()
        self.device.link_up = up
        self.device.seen_frame = False
        self.device.kick_samples = 0
        self.notifier.judge_anew()
        self.door.open()
        self.notifier.end()

    def set_features(self, uint64_t features) -> None:
        cdef uint32_t i
        if features == self.features:
            return
        for i in range(2 * self.queue_pairs):
            if self.device.queues[i].live:
                raise RingRefusedError(f"ring {i} is live: features change only while every ring is stopped")
        modern = has_feature(features, F_VERSION_1) or has_feature(features, NET_F_MRG_RXBUF)
        self.features = features
        self.packed = has_feature(features, F_RING_PACKED)
        self.door.close()
        self.device.header_bytes = NET_HDR_BYTES if modern else NET_HDR_LEGACY_BYTES
        self.device.mergeable = has_feature(features, NET_F_MRG_RXBUF)
        self.door.open()

    def set_memory(self, GuestMemory memory) -> tuple[int, ...]:
        cdef uint32_t i
        cdef Queue *queue
        cdef GuestMemory previous = self.memory
        lost = []
        if memory is not None:
            memory.watch(self.attention_fd)
        self.door.close()
        self.memory = memory
        self.take_back()
        for i in range(2 * self.queue_pairs):
            queue = &self.device.queues[i]
            if queue.live and not self.place(queue):
                queue.live = False
                queue.ring.status = RING_OUTSIDE_MEMORY
                lost.append(i)
        self.count_active()
        self.door.open()
        if previous is not None and previous is not memory:
            previous.unwatch(memory)
        self.reported_fault = False
        return tuple(lost)

    def check_size_and_base(self, index: int, size: int, base: int) -> None:
        if self.packed:
            if not 1 <= size <= VIRTQ_MAX_SIZE:
                raise RingRefusedError(f"ring {index}: size {size}; a packed ring has 1 to {VIRTQ_MAX_SIZE} entries")
            if not 0 <= base < 2**32 or base & 0x7FFF >= size or base >> 16 & 0x7FFF >= size:
                raise RingRefusedError(f"ring {index}: base {base:#x} names a descriptor beyond the ring's {size}")
            return
        if not (1 <= size <= VIRTQ_MAX_SIZE and size & (size - 1) == 0):
            raise RingRefusedError(f"ring {index}: size {size} is no power of two from 1 to {VIRTQ_MAX_SIZE}")
        if not 0 <= base <= 0xFFFF:
            raise RingRefusedError(f"ring {index}: base {base} is no available index; 0 to 65535 are")

    def start_queue(
        self,
        uint32_t index,
        *,
        size: int,
        uint64_t desc_user_addr,
        uint64_t avail_user_addr,
        uint64_t used_user_addr,
        base: int,
        int call_fd,
        bint enabled,
        bint kicked,
        int kick_fd=-1,
    ) -> None:
        cdef Queue *queue = self.queue(index)
        cdef Queue fresh
        self.check_size_and_base(index, size, base)
        if queue.live:
            raise RingRefusedError(f"ring {index} is live; stop it with GET_VRING_BASE before it starts again")
        if self.memory is None:
            raise RingRefusedError(f"ring {index}: there is no guest memory yet; send SET_MEM_TABLE before the kick fd")
        fresh = queue[0]
        memset(&fresh.ring, 0, sizeof(Ring))
        fresh.ring.size = size
        fresh.ring.direction = 0 if index & 1 else VIRTQ_DESC_F_WRITE
        fresh.ring.indirect = has_feature(self.features, RING_F_INDIRECT_DESC)
        fresh.ring.event_idx = has_feature(self.features, RING_F_EVENT_IDX)
        fresh.ring.in_batches = has_feature(self.features, F_IN_ORDER) and fresh.ring.direction == 0
        fresh.descriptor_user_addr, fresh.driver_user_addr = desc_user_addr, avail_user_addr
        fresh.device_user_addr, fresh.call_fd = used_user_addr, call_fd
        fresh.call_is_socket = socket_domain(call_fd) >= 0
        fresh.enabled, fresh.started, fresh.kick_fd, fresh.kicked = enabled, kicked, kick_fd, kicked
        fresh.found_started = fresh.found_broken = 0
        if not self.place(&fresh):
            raise RingRefusedError(
                f"ring {index} lies in no shared memory region (or is misaligned); "
                "start QEMU with -object memory-backend-memfd,id=m0,size=1G,share=on -machine memory-backend=m0"
            )
        if self.packed:
            reset_packed_ring(&fresh.ring, base)
        else:
            reset_split_ring(&fresh.ring, base)
        fresh.live = True
        self.door.close()
        queue[0] = fresh
        self.count_active()
        self.door.open()
        self.notifier.set_target(index, call_fd)

    def kick_queue(self, uint32_t index) -> None:
        cdef Queue *queue = self.queue(index)
        if queue.live and not queue.kicked:
            self.door.close()
            queue.started = queue.kicked = True
            self.door.open()

    def stop_queue(self, uint32_t index) -> int:
        cdef Queue *queue = self.queue(index)
        if queue.live:
            self.door.close()
            self.take_back()
            queue.live = False
            queue.call_fd = queue.kick_fd = -1
            self.count_active()
            self.door.open()
            self.notifier.set_target(index, -1)
            self.notifier.set_target(self.err_slot(index), -1)
        return packed_ring_base(&queue.ring) if self.packed else split_ring_base(&queue.ring)

    def set_enabled(self, uint32_t index, bint enabled) -> None:
        cdef Queue *queue = self.queue(index)
        self.door.close()
        queue.enabled = enabled
        self.count_active()
        self.door.open()

    def set_call_fd(self, uint32_t index, int call_fd) -> None:
        cdef Queue *queue = self.queue(index)
        cdef bint is_socket = socket_domain(call_fd) >= 0
        self.door.close()
        queue.call_fd, queue.call_is_socket = call_fd, is_socket
        self.door.open()
        self.notifier.set_target(index, call_fd)

    def set_kick_fd(self, uint32_t index, int kick_fd) -> None:
        cdef Queue *queue = self.queue(index)
        self.door.close()
        queue.kick_fd = kick_fd
        self.door.open()

    cdef uint32_t err_slot(self, uint32_t index) noexcept:
        return 2 * self.queue_pairs + index

    def call(self, uint32_t index) -> None:
        cdef Queue *queue = self.queue(index)
        if queue.call_fd >= 0:
            self.notifier.tell(index, queue.call_fd)

    def signal_err(self, uint32_t index, int err_fd) -> None:
        self.queue(index)
        self.notifier.tell(self.err_slot(index), err_fd)

    def tend(self, double now) -> float | None:
        return self.notifier.tend(now)

    @property
    def helper(self) -> tuple[bool, int]:
        return self.notifier.state

    def queue_state(self, uint32_t index) -> QueueState:
        cdef Queue *queue = self.queue(index)
        cdef Ring *ring = &queue.ring
        cdef bint suppressed = False, wanted = False
        cdef uint32_t avail_idx = 0, used_idx = 0
        if queue.live and self.packed:
            # as far as we know it: a packed ring has no index, only marks
            avail_idx, used_idx = ring.next_avail + ring.has_work(ring), ring.next_used
            suppressed = load_u16(&(<pvirtq_event_suppress *>ring.device_area).flags) == RING_EVENT_FLAGS_DISABLE
            wanted = load_u16(&(<pvirtq_event_suppress *>ring.driver_area).flags) != RING_EVENT_FLAGS_DISABLE
        elif queue.live:
            avail_idx = load_u16(&(<virtq_avail *>ring.driver_area).idx)
            used_idx = load_u16(&(<virtq_used *>ring.device_area).idx)
            suppressed = not ring.event_idx and load_u16(&(<virtq_used *>ring.device_area).flags) != 0
            wanted = not load_u16(&(<virtq_avail *>ring.driver_area).flags) & VIRTQ_AVAIL_F_NO_INTERRUPT
        tally = self.face.rx[index // 2] if index & 1 else self.face.tx[index // 2]
        return QueueState(
            index=index,
            size=ring.size,
            live=queue.live,
            started=queue.live and queue.started,
            enabled=queue.enabled,
            broken=SENTENCES[<int>ring.status],
            avail_idx=avail_idx,
            used_idx=used_idx,
            next_avail=ring.next_avail,
            frames=tally.frames,
            bytes=tally.bytes,
            kick_suppressed=suppressed,
            interrupt_wanted=wanted,
            kicks=queue.kicks,
        )

    def events(self) -> list[tuple[str, int, str]]:
        cdef uint32_t i
        cdef Queue *queue
        found = []
        try:
            os.eventfd_read(self.attention_fd)
        except BlockingIOError:
            pass
        for i in range(2 * self.queue_pairs):
            queue = &self.device.queues[i]
            if load_acquire_u32(&queue.found_started):
                store_release_u32(&queue.found_started, 0)
                found.append(("started", i, "its driver does not kick; buffers were found in it"))
            if load_acquire_u32(&queue.found_broken):
                store_release_u32(&queue.found_broken, 0)
                found.append(("broken", i, SENTENCES[<int>queue.ring.status]))
        if load_acquire_u32(&self.device.found_slow):
            store_release_u32(&self.device.found_slow, 0)
            found.append((
                "slow_calls",
                -1,
                "its call descriptors take more than 20 us to signal, as with many thousand waiters; "
                "a thread of this port notifies it from now on",
            ))
        if load_acquire_u32(&self.device.found_first_frame):
            store_release_u32(&self.device.found_first_frame, 0)
            found.append(("first_frame", -1, "first frame"))
        if self.memory is not None and not self.reported_fault and self.memory.faulted:
            self.reported_fault = True
            found.append((
                "faulted",
                -1,
                "guest memory vanished under an access (SIGBUS): "
                "the file behind it was cut short or its file system is full",
            ))
        return found
