"""The door: workers park between two bursts while control swaps a few fields.

One Gate a worker. Control writes an odd ticket into `asked` and waits until the worker has copied it to `parked`; an
even one lets the worker go on. Everything control does between close() and open() happens under the GIL in one call,
so doors of two control threads never interleave.
"""

from libc.stdint cimport uint32_t, uint64_t

from fastvhost.abi.shared_memory cimport load_acquire_u32, store_release_u32


cdef struct Gate:
    # written by control
    uint32_t asked
    uint32_t stopping
    int wake_fd              # an eventfd: written when the worker may be asleep
    uint32_t late            # it did not come the last time
    # written by the worker's thread
    uint32_t running
    uint32_t parked
    uint32_t asleep


cdef class Door:
    cdef Gate *gates[64]
    cdef int n_gates
    cdef list owners         # of the gates, kept alive
    cdef int add(self, Gate *gate, object owner) except -1
    cdef int remove(self, Gate *gate, object owner) except -1
    cdef int close(self) except -1
    cdef void open(self) noexcept


cdef void wake(Gate *gate) noexcept nogil
cdef uint64_t monotonic_ns() noexcept nogil
cdef uint64_t drain_eventfd(int fd) noexcept nogil
cdef void park(Gate *gate, uint32_t ticket) noexcept nogil


cdef inline bint pass_gate(Gate *gate) noexcept nogil:
    """The worker's side: stop here while control asks for it. Whether it did."""
    cdef bint asked = False
    cdef uint32_t ticket = load_acquire_u32(&gate.asked)  # pairs with close and open
    while ticket & 1:
        asked = True
        park(gate, ticket)
        ticket = load_acquire_u32(&gate.asked)
    return asked
