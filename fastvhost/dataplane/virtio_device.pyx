"""What workers do with a virtio-net device's queues: the burst functions, waiting, telling control of trouble.

Virtio 1.2, section 5.1; vhost-user, "Ring states". The control side of the same device is virtio_port.
"""

from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.stdlib cimport malloc

from fastvhost.abi.shared_memory cimport load_i32, replace_i32, store_release_u32
from fastvhost.dataplane.clock cimport monotonic_ns
from fastvhost.dataplane.debug cimport DEBUG, check, poison
from fastvhost.dataplane.drop_reason cimport BAD_DESCRIPTOR, LINK_DOWN, NO_RECEIVE_BUFFERS, RING_DISABLED
from fastvhost.dataplane.eventfd cimport (
    EPOLL_CTL_ADD,
    EPOLL_CTL_DEL,
    EPOLLIN,
    drain_eventfd,
    epoll_ctl,
    epoll_event,
    wake_eventfd,
)
from fastvhost.dataplane.frame cimport BURST, MAX_SEGMENTS, VISIT_PIECES, Delivery, FrameBurst, Done, Segment
from fastvhost.dataplane.notify cimport (
    AGAIN_NS,
    AT_ONCE,
    BY_HELPER,
    EMPTY_TRIES,
    SLOW_NS,
    TIMED,
    UNTIMED,
    ask_helper,
    control_signals,
    mostly_slow,
    signal_eventfd,
    signal_socket,
    signals,
    with_sample,
)
from fastvhost.dataplane.port cimport LOOK_AGAIN, NOTHING_TO_WAIT_FOR, PortOps
from fastvhost.dataplane.receiveq cimport NetScratch, deliver
from fastvhost.dataplane.ring cimport RING_MISCOUNTED, RING_OK, Ring, check_chains
from fastvhost.dataplane.tally cimport Tally, count_drops
from fastvhost.dataplane.transmitq cimport strip_headers

cdef extern from "fastvhost/dataplane/thread_scratch.h" nogil:
    void *thread_scratch
    signals thread_signals


cdef NetScratch *make_scratch() noexcept nogil:
    """Scratch memory for deliveries, which the caller frees. NULL: there is no memory."""
    # The segments follow it: a megabyte of address space, touched only as far as buffers come in several pieces.
    cdef NetScratch *scratch = <NetScratch *>malloc(sizeof(NetScratch) + MAX_SEGMENTS * sizeof(Segment))
    if scratch != NULL:
        poison(scratch, sizeof(NetScratch) + MAX_SEGMENTS * sizeof(Segment))
        scratch.segments = <Segment *>(scratch + 1)
        scratch.copying = scratch.chain = scratch.n_chains = 0
        scratch.alone = NULL
    return scratch


cdef void enter_thread(const signals *own, NetScratch *scratch) noexcept nogil:
    """A worker's thread begins: store what it signals drivers by, and where it lays out receive chains.

    own.context 0: the worker has no signals of its own; those of the control threads are used (notify_timed).
    """
    global thread_signals, thread_scratch
    thread_signals, thread_scratch = own[0], scratch


cdef void leave_thread() noexcept nogil:
    """A worker's thread ends. The worker frees its signals and its scratch memory."""
    global thread_scratch
    thread_signals.context = 0
    thread_scratch = NULL


cdef NetScratch *scratch_of_this_thread() noexcept nogil:
    """A worker's own; any other thread that moves frames gets one at its first use. NULL: there is no memory."""
    global thread_scratch
    if thread_scratch == NULL:
        thread_scratch = make_scratch()
    return <NetScratch *>thread_scratch


cdef void wake_control(Device *device) noexcept nogil:
    wake_eventfd(device.attention_fd)


cdef void report_broken(Device *device, Queue *queue) noexcept nogil:
    store_release_u32(&queue.found_broken, 1)  # pairs with VirtioPort.events
    wake_control(device)


cdef bint is_started(Device *device, Queue *queue) noexcept nogil:
    """Whether it was kicked, or holds buffers: a driver that knows that its device polls may never kick."""
    if not queue.started and queue.ring.has_work(&queue.ring):
        queue.started = True
        store_release_u32(&queue.found_started, 1)  # pairs with VirtioPort.events
        wake_control(device)
    return queue.started


cdef inline void notify(Device *device, Queue *queue) noexcept nogil:
    """Notify the driver of used buffers, without waiting: a hostile front-end may have the same descriptor."""
    if queue.call_fd < 0:
        return
    queue.calls += 1
    if thread_signals.untimed and device.asked.how == AT_ONCE and signal_at_once(queue):
        thread_signals.untimed -= 1
    else:
        notify_timed(device, queue)


cdef inline bint signal_at_once(const Queue *queue) noexcept nogil:
    """Signal the call descriptor. False: that is not possible without waiting."""
    return signal_socket(queue.call_fd) if queue.call_is_socket else signal_eventfd(&thread_signals, queue.call_fd)


cdef void notify_timed(Device *device, Queue *queue) noexcept nogil:
    """Notify and measure how long that takes, which is long with 100 000 waiters; or leave it to the helper."""
    global thread_signals
    cdef uint64_t began
    cdef uint32_t samples
    cdef int32_t how = load_i32(&device.asked.how)
    if how != BY_HELPER:
        if thread_signals.context == 0:
            thread_signals = control_signals()[0]
        began = monotonic_ns()
        if signal_at_once(queue):
            samples = with_sample(device.asked.samples, monotonic_ns() - began)
            device.asked.samples = samples
            thread_signals.untimed = UNTIMED
            if not mostly_slow(samples):
                # After a slow one each is timed, until eight in a row were quick. Another worker may have set `how`.
                replace_i32(&device.asked.how, how, TIMED if samples else AT_ONCE)
            elif replace_i32(&device.asked.how, how, BY_HELPER):
                store_release_u32(&device.found_slow, 1)  # pairs with VirtioPort.events
                wake_control(device)
            return
    ask_helper(device.asked, queue.index)


cdef uint32_t receive_burst(PortOps *port, uint32_t pair, FrameBurst *burst) noexcept nogil:
    cdef Device *device = <Device *>port.state
    cdef Queue *queue = &device.queues[2 * pair + 1]
    cdef Ring *ring = &queue.ring
    cdef uint32_t left = BURST, taken, dealt_with
    if not is_polled(queue) or not is_started(device, queue):
        return 0
    burst.n_frames = burst.n_segments = 0
    # Usually one pass. Another one where the chains taken so far held no frame.
    while burst.n_frames == 0 and left and burst.n_segments < VISIT_PIECES:
        taken = ring.take(ring, burst.frames, left, burst.segments, &burst.n_segments)
        if taken == 0:
            if ring.status != RING_OK:
                count_drops(&port.rx[pair], BAD_DESCRIPTOR, 1)
                report_broken(device, queue)
            return 0
        dealt_with = unpack(queue, burst, taken, device, &port.rx[pair])
        check(dealt_with <= taken, "virtio: no more chains are dealt with than were taken")
        if dealt_with < taken:
            ring.untake(ring, &burst.frames[dealt_with], taken - dealt_with)
        if burst.n_frames == 0:
            release_burst(port, pair, burst.done, dealt_with)
            left -= dealt_with
    if DEBUG:
        check_chains(ring, burst.frames, burst.n_frames, burst.segments, burst.n_segments)
    if burst.n_frames and not device.seen_frame:
        device.seen_frame = True
        store_release_u32(&device.found_first_frame, 1)  # pairs with VirtioPort.events
        wake_control(device)
    return burst.n_frames


cdef inline uint32_t unpack(
    const Queue *queue, FrameBurst *burst, uint32_t n, const Device *device, Tally *tally
) noexcept nogil:
    """Turn chains into frames. Returns how many chains are dealt with.

    A ring that is started and disabled is drained, and its frames are dropped (vhost-user, "Ring states").
    """
    cdef uint32_t i
    if queue.enabled:
        return strip_headers(burst, n, device.receiver.header_bytes, device.allowed, tally)
    for i in range(n):
        burst.done[i] = Done(burst.frames[i].ticket, 0)
    count_drops(tally, RING_DISABLED, n)
    return n


cdef uint32_t deliver_burst(PortOps *port, uint32_t pair, const Delivery *delivery) noexcept nogil:
    cdef Device *device = <Device *>port.state
    cdef Queue *queue = &device.queues[2 * pair]
    cdef NetScratch *scratch = scratch_of_this_thread()
    cdef uint32_t done, n = delivery.n
    cdef uint64_t spent = port.tx[pair].spent
    if not device.link_up:
        count_drops(&port.tx[pair], LINK_DOWN, n)
        return n
    if not queue.live or not queue.enabled or queue.ring.status != RING_OK or not is_started(device, queue):
        count_drops(&port.tx[pair], RING_DISABLED, n)
        return n
    if scratch == NULL:
        count_drops(&port.tx[pair], NO_RECEIVE_BUFFERS, n)
        return n
    done = deliver(&queue.ring, &device.receiver, scratch, delivery, &port.tx[pair])
    check(done <= n, "virtio: no more frames are dealt with than were to be delivered")
    if queue.ring.publish(&queue.ring):
        notify(device, queue)
    if queue.ring.status != RING_OK:
        report_broken(device, queue)
    if done == n:
        queue.short_since = 0
    elif port.tx[pair].spent == spent:
        count_starved(queue)
    return done


cdef void count_starved(Queue *queue) noexcept nogil:
    """Frames found no room. From the time before, if it was so then: nobody knows when buffers ran out."""
    cdef uint64_t now = monotonic_ns()
    if queue.short_since:
        queue.starved_ns += now - queue.short_since
    queue.short_since = now


cdef void release_burst(PortOps *port, uint32_t pair, const Done *done, uint32_t n) noexcept nogil:
    cdef Device *device = <Device *>port.state
    cdef Queue *queue = &device.queues[2 * pair + 1]
    check(n <= queue.ring.outstanding, "virtio: no more chains are released than are outstanding")
    queue.ring.complete(&queue.ring, done, n)
    if queue.ring.publish(&queue.ring):
        notify(device, queue)
    if queue.ring.status == RING_MISCOUNTED:
        report_broken(device, queue)


cdef bint is_open(PortOps *port, uint32_t pair) noexcept nogil:
    """Whether the transmitq is live. A disabled one counts as well, since it is drained."""
    return (<Device *>port.state).queues[2 * pair + 1].live


cdef inline bint is_polled(const Queue *queue) noexcept nogil:
    return queue.live and queue.ring.status == RING_OK


cdef int wait_fd(PortOps *port, uint32_t pair, bint *kicked) noexcept nogil:
    cdef Device *device = <Device *>port.state
    cdef Queue *queue = &device.queues[2 * pair + 1]
    cdef bint slow = mostly_slow(device.kick_samples)
    cdef uint64_t taken = 0, took = SLOW_NS + 1
    cdef uint32_t tries = 0
    if not is_polled(queue):
        return NOTHING_TO_WAIT_FOR
    # To read a kick eventfd, or to wait for it, takes longer the more waiters it has. A slow one is left alone, but for
    # four reads a second that tell whether it is still slow.
    if not queue.kicked or queue.kick_fd < 0 or (slow and monotonic_ns() - device.kicks_read < <uint64_t>AGAIN_NS):
        return LOOK_AGAIN
    # A read that finds nothing is slow where another process keeps the eventfd's lock busy, or where this core was
    # taken away meanwhile. So only EMPTY_TRIES slow ones in a row count.
    while tries < EMPTY_TRIES and taken == 0 and took > <uint64_t>SLOW_NS:
        taken = take_kicks(device, queue, &took)
        tries += 1
    if taken:
        queue.kicks += taken
        kicked[0] = True
    if slow or taken or took > <uint64_t>SLOW_NS:  # a quick read of nothing proves nothing else
        device.kick_samples = with_sample(device.kick_samples, took)
    return LOOK_AGAIN if mostly_slow(device.kick_samples) else queue.kick_fd


cdef inline uint64_t take_kicks(Device *device, const Queue *queue, uint64_t *took) noexcept nogil:
    """Read the kicks that came. took: the nanoseconds of that read."""
    cdef uint64_t taken
    device.kicks_read = monotonic_ns()
    taken = drain_eventfd(queue.kick_fd)
    took[0] = monotonic_ns() - device.kicks_read
    return taken


cdef int report_kicks(PortOps *port, uint32_t pair, int epoll_fd, void *lane, bint *kicked) noexcept nogil:
    cdef Queue *queue = &(<Device *>port.state).queues[2 * pair + 1]
    cdef int fd = wait_fd(port, pair, kicked)
    cdef epoll_event event
    if fd < 0:
        return fd
    event.events, event.data.ptr = EPOLLIN, lane
    if epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0:
        return LOOK_AGAIN
    queue.reports_to = epoll_fd
    return fd


cdef void report_none(PortOps *port, uint32_t pair) noexcept nogil:
    """Timed, as reads of a kick eventfd are: both take its lock."""
    cdef Device *device = <Device *>port.state
    cdef Queue *queue = &device.queues[2 * pair + 1]
    cdef uint64_t took
    if queue.reports_to >= 0:
        took = monotonic_ns()
        end_reports(queue)
        took = monotonic_ns() - took
        if took > <uint64_t>SLOW_NS:
            device.kick_samples = with_sample(device.kick_samples, took)


cdef void end_reports(Queue *queue) noexcept nogil:
    """Before its kick eventfd may be closed: an epoll keeps what was closed while somebody else has it open, too."""
    cdef epoll_event nothing
    if queue.reports_to >= 0:
        epoll_ctl(queue.reports_to, EPOLL_CTL_DEL, queue.kick_fd, &nothing)
        queue.reports_to = -1


cdef void want_kicks(PortOps *port, uint32_t pair, bint wanted) noexcept nogil:
    cdef Queue *queue = &(<Device *>port.state).queues[2 * pair + 1]
    if is_polled(queue):
        queue.ring.want_kicks(&queue.ring, wanted)


cdef bint has_work(PortOps *port, uint32_t pair) noexcept nogil:
    cdef Queue *queue = &(<Device *>port.state).queues[2 * pair + 1]
    return is_polled(queue) and queue.ring.has_work(&queue.ring)
