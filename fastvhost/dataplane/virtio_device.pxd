"""A virtio-net device as its workers see it. Virtio 1.2, section 5.1."""

from libc.stdint cimport uint32_t, uint64_t

from fastvhost.dataplane.frame cimport Delivery, FrameBurst, Done
from fastvhost.dataplane.receiveq cimport NetScratch, Receiver
from fastvhost.dataplane.notify cimport Asked, signals
from fastvhost.dataplane.port cimport PortOps
from fastvhost.dataplane.ring cimport Ring


cdef struct Queue:
    Ring ring
    # set through the door
    bint live                # start_queue gave it to us and stop_queue did not take it back
    bint enabled
    uint32_t index           # of its ring
    int call_fd              # -1: the front-end gave none
    bint call_is_socket
    int kick_fd              # -1: the front-end gave none
    bint kicked              # its driver is known to kick
    uint64_t descriptor_user_addr, driver_user_addr, device_user_addr
    # written by its worker
    bint started
    uint32_t found_started   # events that control has not seen yet
    uint32_t found_broken
    uint64_t calls
    uint64_t kicks           # taken from kick_fd before a sleep
    uint64_t short_since     # of a receiveq: when frames found no room last, monotonic ns; 0: they found it
    uint64_t starved_ns      # between deliveries that found no room, one after the other
    int reports_to           # the epoll that reports its kicks, of the worker that parked its lane; -1: none does


cdef struct Device:
    # set through the door
    Queue *queues            # two a pair: even receiveq, odd transmitq
    Receiver receiver        # its driver
    uint32_t allowed         # what frames of its driver may need (Need)
    bint link_up
    int attention_fd
    Asked *asked             # which rings its helper is to signal
    # read only while a change is committed
    uint64_t features
    bint packed
    uint32_t commits         # odd while a change is being committed
    # written by the workers
    uint32_t found_first_frame
    uint32_t kick_samples    # the last eight timed reads of kick eventfds: a bit each, 1 for a slow one
    uint64_t kicks_read      # monotonic ns when a kick eventfd was read last
    uint32_t found_slow      # signalling takes long: its helper notifies the driver from now on
    bint seen_frame


cdef uint32_t receive_burst(PortOps *port, uint32_t pair, FrameBurst *burst) noexcept nogil
cdef uint32_t deliver_burst(PortOps *port, uint32_t pair, const Delivery *delivery) noexcept nogil
cdef void release_burst(PortOps *port, uint32_t pair, const Done *done, uint32_t n) noexcept nogil
cdef bint is_open(PortOps *port, uint32_t pair) noexcept nogil
cdef int wait_fd(PortOps *port, uint32_t pair, bint *kicked) noexcept nogil
cdef int report_kicks(PortOps *port, uint32_t pair, int epoll_fd, void *lane, bint *kicked) noexcept nogil
cdef void report_none(PortOps *port, uint32_t pair) noexcept nogil
cdef void end_reports(Queue *queue) noexcept nogil
cdef void want_kicks(PortOps *port, uint32_t pair, bint wanted) noexcept nogil
cdef bint has_work(PortOps *port, uint32_t pair) noexcept nogil
cdef NetScratch *make_scratch() noexcept nogil
cdef void enter_thread(const signals *own, NetScratch *scratch) noexcept nogil
cdef void leave_thread() noexcept nogil
