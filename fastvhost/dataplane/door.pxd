"""The door: the workers of a port stand still between two bursts while control changes what they see of it.

One Gate a worker. `asked` counts the control threads that want it to stand still; it does so (`parked`) while that is
not 0, and looks again before it touches a lane. Each port has a PortDoor, used by its own control thread alone, and
that stops only the workers that own a lane from or to this port. Two ports may be at the door at once.

To wait takes no GIL, no lock and no one else's time: a worker that does not come keeps nobody but its port waiting.
"""

from libc.stdint cimport uint32_t, uint64_t

from fastvhost.abi.shared_memory cimport load_acquire_u32


cdef enum:
    MOST_WORKERS = 64


cdef struct Gate:
    # written by control, from several threads
    uint32_t asked           # how many want the worker to stand still
    uint32_t stopping
    int wake_fd              # an eventfd: written when the worker may be asleep
    # written by the worker's thread
    uint32_t running
    uint32_t parked          # it stands still
    uint32_t asleep


# Who owns lanes of which port may change while a control thread is at the door without the GIL. Whoever changes it
# raises `version`; who has its workers parked raises `changing`, and looks at `version` after that. A worker that
# starts looks at `changing` after its lanes were made known: one of the two sees the other.
cdef struct Roll:
    uint32_t version
    uint32_t changing


cdef enum Passage:
    PASSED
    LATE                     # a worker did not come in time
    ROLL_CHANGED             # other workers own lanes of this port now


cdef class Door:
    cdef Gate *gates[MOST_WORKERS]
    cdef int n_gates
    cdef list owners         # of the gates, kept alive
    cdef list ports          # for each gate: the ports of which it has lanes
    cdef Roll roll
    cdef int add(self, Gate *gate, object owner) except -1
    cdef int owns(self, Gate *gate, const void *port) except -1
    cdef int remove(self, Gate *gate, object owner) except -1
    cdef void wait_for_changes(self) noexcept nogil


cdef class PortDoor:
    cdef Door door
    cdef const void *port
    cdef Gate *gates[MOST_WORKERS]  # of the workers that own a lane of this port, as of `version`
    cdef bint asks[MOST_WORKERS]  # whether we count in its `asked`
    cdef uint32_t n_gates
    cdef uint32_t version
    cdef list owners         # of those gates, kept alive
    cdef bint shuts          # between shut and open
    cdef readonly uint64_t passages
    cdef int prepare(self) except -1
    cdef Passage shut(self, uint64_t wait_ns) noexcept nogil
    cdef void let_go(self, uint32_t i) noexcept nogil
    cdef void open(self) noexcept nogil
    cdef int close(self, uint64_t wait_ns) except -1
    cdef object who_is_late(self)


cdef void wake(Gate *gate) noexcept nogil
cdef uint64_t monotonic_ns() noexcept nogil
cdef uint64_t drain_eventfd(int fd) noexcept nogil
cdef void park(Gate *gate) noexcept nogil


cdef inline bint pass_gate(Gate *gate) noexcept nogil:
    """The worker's side: stand still while control asks for it. Whether it did; then its lanes may be others."""
    if not load_acquire_u32(&gate.asked):  # pairs with shut and open
        return False
    park(gate)
    return True
