"""The helper thread of a port: it signals where a worker would have to wait. See notifier.pyx."""

from libc.stdint cimport int32_t, uint32_t, uint64_t

from fastvhost.dataplane.notify cimport MOST_SLOTS, Asked


cdef object BY_PORT              # the key by which the two are made; programs do not have it


cdef class Notifier:
    cdef Asked asked             # workers use its address as long as the port exists
    cdef str port
    cdef int attention_fd
    cdef object close_fd
    cdef dict targets            # slot -> descriptor that the port borrowed
    cdef Helper helper           # None: none was needed yet
    cdef list retired            # helpers that have not ended
    cdef str trouble
    cdef double looked_at
    cdef bint set_target(self, uint32_t slot, int fd) except -1
    cdef bint tell(self, uint32_t slot, int fd) except -1
    cdef bint end(self) except -1
    cdef bint close(self) except -1


cdef class Helper:
    cdef Notifier notifier       # kept as long as the thread runs
    cdef Asked *asked
    cdef object lock
    cdef int wake_fd
    cdef list in_doubt           # (descriptor, n_writes): replaced while the thread may have used it
    cdef list kept               # descriptors that only the thread itself may close, once it is retired
    cdef bint ended
    cdef bint orphaned           # its front-end is gone
    cdef bint seen_writing       # at the control thread's last look
    cdef uint64_t seen_writes
    # shared by the control thread and this thread, accessed in opposite orders
    cdef int32_t at              # the slot whose descriptor the thread uses; or RESTING, RETIRED
    cdef int32_t fds[MOST_SLOTS]
    # written by the thread
    cdef uint64_t n_writes
    cdef bint stuck(self) except -1
    cdef void loop(self) noexcept nogil
    cdef uint32_t round(self) noexcept nogil
    cdef bint signal_slot(self, int32_t slot) noexcept nogil
