"""What ports towards this host share: file descriptors, room for one burst, and how workers tell control of trouble."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastvhost.abi.virtio_net cimport MAX_FRAME_BYTES
from fastvhost.dataplane.changing_port cimport ChangingPort
from fastvhost.dataplane.door cimport Door
from fastvhost.dataplane.frame cimport Delivery, FrameBurst, Chain, Frame, Segment
from fastvhost.dataplane.port cimport PortOps


cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len
    ssize_t writev(int fd, const iovec *parts, int n)


# Frames lie one behind the other, so that a burst of short ones touches few cache lines: room for 64 jumbo frames, or
# for ten of the longest. A burst ends early where the longest frame would not fit any more.
cdef enum:
    ARENA_BYTES = 64 * 9216 + 65536
    FRAME_ROOM = MAX_FRAME_BYTES + 4    # a VLAN tag on top
    MOST_PARTS = 1023                   # what the kernel takes at once (UIO_MAXIOV) less a header's


cdef struct HostQueue:
    # set through the door
    int fd                   # -1: detached
    void *handle             # what else the kind needs to read and write
    # written by the worker that reads
    uint64_t quiet_since    # ns; 0: it had frames
    uint64_t look_at         # ns; where a look is a system call, the next one
    uint8_t *arena
    # scratch of the worker that writes
    iovec *parts
    # For a frame that the kernel cannot take from where it lies: it has too many pieces, or lies in guest memory whose
    # file was cut short, so that the system call fails (EFAULT). Copying it causes a SIGBUS instead, which the fault
    # guard handles, and the port of that guest ends its connection.
    uint8_t *bounce


cdef struct HostPortState:
    HostQueue *queues        # one a pair
    int attention_fd
    # set through the door
    bint link_up
    uint32_t longest         # bytes of a frame that the interface takes (xdp)
    # written by the workers
    uint32_t found_error     # an errno that control has not seen yet
    uint32_t found_first_frame
    bint seen_frame
    # written by control
    uint64_t kernel_dropped


# One file of a port, and what else its kind needs to read and write it.
cdef struct HostFile:
    int fd
    void *handle


# What workers are to use: written down by control, in effect at the door.
cdef struct HostChange:
    PortOps *port           # what changes
    HostPortState *side
    bint lends               # frames received lie in memory that is unmapped with the files
    bint begun               # what follows is filled in
    bint touched
    bint swaps               # workers get other files, or none
    const HostFile *files    # one a pair, or NULL
    bint link_up
    uint32_t longest
    uint32_t accepts         # what frames may need that the interface takes (Need)


cdef class HostFiles:
    """What attach() gives a port, and what the port keeps with that. Workers use it from one door to the next."""
    cdef HostFile *files
    cdef uint32_t n
    cdef bint served             # workers use them, or did
    cdef int make_room(self, uint32_t n) except -1
    cdef void let_go(self) noexcept         # called when no worker uses it, or will. Idempotent


cdef void report_error(HostPortState *side, int error) noexcept nogil
cdef void report_first_frame(HostPortState *side) noexcept nogil
cdef uint32_t list_pieces(HostQueue *queue, const Delivery *delivery, const Frame *frame, iovec *parts) noexcept nogil
cdef int host_wait_fd(PortOps *port, uint32_t pair, bint *kicked) noexcept nogil
cdef bint may_look(PortOps *port, uint32_t pair) noexcept nogil
cdef void look_at_once(PortOps *port, uint32_t pair, bint wanted) noexcept nogil


cdef inline void add_frame(FrameBurst *burst, uint32_t n, uint8_t *data, uint32_t bytes) noexcept nogil:
    """The n-th frame of a burst, in one piece."""
    burst.frames[n] = Chain(data=data, bytes=bytes, ticket=n, first_segment=0, n_segments=1, head=0)


cdef class HostPort(ChangingPort):
    cdef HostPortState *side
    cdef HostFiles files         # what workers use
    # what they are to see
    cdef HostChange next
    cdef HostFiles next_files
    cdef readonly int attention_fd
    cdef int make(self, str name, Door door, uint32_t n_pairs) except -1
    cdef HostChange *plan(self) except NULL
    cdef int swap(self, HostFiles files) except -1
    cdef int end_setter(self) except -1
