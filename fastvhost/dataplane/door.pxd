"""The door: a change of a port takes effect between two bursts of its workers, and none of them waits for control.

A port's control thread prepares a change and posts it (Posting) at the gates (Gate) of the workers that own a lane from
or to this port. Each comes to its gate between two bursts; the last one to come puts the change into effect, and all go
on. So where a port has one worker, that worker never waits; where it has several, they wait for each other only. A
worker that has waited 20 ms for the others goes on, and comes again once they have come.

`missing` has a bit for each worker that has not come. The one that makes it 0 puts the change into effect; before that
the control thread may withdraw the change, after that it may not. Waiting takes neither a lock nor the GIL. Changes of
several ports may be posted at once: a worker comes to all that are posted at its gate.

In a switch every worker delivers to every port, under the lock of the receive queue. One that only delivers to a port
uses nothing of it outside these locks. So where it is late, stuck with another port or without a core, the control
thread takes the locks of its own port and comes in that worker's place: only a worker that is at this port just now is
waited for.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastvhost.abi.shared_memory cimport load_acquire_u32, load_acquire_u64
from fastvhost.dataplane.delivery_lock cimport DeliveryLock


cdef enum:
    MOST_WORKERS = 62        # a bit each in `missing`, beside two others
    GATE_BYTES = 128
    MOST_POSTINGS = 4096     # at one gate: ports of which its worker owns lanes, and one for changes of its lanes

ctypedef void (*Apply)(void *what) noexcept nogil


cdef struct Posting:
    # written by the control thread while nothing is posted
    Apply apply              # copies fields, and touches nothing that may be slow to come
    void *what
    uint32_t owners          # `version` of the door when it was posted: for which owners it is
    # written by all
    uint64_t missing         # a bit for each worker that has not come, or NOTHING_POSTED
    uint64_t waited          # workers that came, waited too long for the others and went on


cdef struct Gate:
    # written by any thread that calls the worker
    uint32_t asked           # the worker is to look at the postings
    uint32_t stopping
    int wake_fd              # an eventfd: written when the worker may be asleep
    # written by the worker's thread
    uint32_t running
    uint32_t asleep
    # written while it does not run
    uint32_t number          # its place at the door
    # written by the control plane: MOST_POSTINGS places, the first n_postings are in use; who leaves one clears it
    uint32_t n_postings
    Posting **postings       # of the ports of which it owns lanes, and once did
    uint8_t apart[GATE_BYTES - 40]  # each worker reads cache lines of its own


# The owners of a port's lanes may change while a change is posted. Such a change increments `version`; post() reads it
# after posting. A worker that starts reads the postings after its lanes were entered: so one of the two sees the other.
cdef enum Passage:
    PASSED
    LATE                     # a worker has not come in time
    OWNERS_CHANGED           # other workers own lanes of this port now


cdef class PortDoor


cdef class Door:
    cdef Gate gates[MOST_WORKERS]  # where they are as long as the door is there: who calls may be late
    cdef list owners         # of the gates, None where one is free
    cdef set kept            # whose postings stand at gates: they stay until they are disowned
    cdef uint32_t version
    cdef Gate *add(self, object owner) except NULL
    cdef int owns(self, Gate *gate, PortDoor port) except -1
    cdef int delivers(self, Gate *gate, PortDoor port) except -1
    cdef int parts_with(self, Gate *gate, PortDoor port, bint delivers) except -1
    cdef int enter_posting(self, Gate *gate, PortDoor port) except -1
    cdef int count_version(self) except -1
    cdef int disown(self, PortDoor port) except -1
    cdef int remove(self, Gate *gate) except -1


cdef class PortDoor:
    cdef Door door
    cdef Posting posting
    cdef bint posted         # and not acknowledged
    cdef uint64_t posted_at  # ns
    cdef uint64_t owners     # own a lane of this port; other workers only deliver to it, under its locks
    cdef uint64_t workers    # that come to its changes, as of `version`
    cdef DeliveryLock *locks  # of its queues,
    cdef uint32_t n_locks     # once several workers deliver to them; 0 before
    cdef uint32_t version
    cdef readonly uint64_t passages
    cdef bint pass_through(self, Apply apply, void *what, uint64_t wait_ns) except -1
    cdef int prepare(self) except -1
    cdef Passage attempt(self, Apply apply, void *what, uint64_t end) noexcept nogil
    cdef Passage post(self, Apply apply, void *what) noexcept nogil
    cdef bint await_owners(self, uint64_t wait_ns) noexcept nogil
    cdef void count(self) noexcept nogil
    cdef void stand_in(self) noexcept nogil
    cdef uint64_t late_deliverers(self) noexcept nogil
    cdef void come_instead(self, uint64_t late) noexcept nogil
    cdef bint passed(self) noexcept nogil
    cdef bint withdraw(self) noexcept nogil
    cdef object who_is_late(self)


cdef void wake(Gate *gate) noexcept nogil
cdef void enter(Gate *gate) noexcept nogil
cdef void leave(Gate *gate) noexcept nogil
cdef void stand(Gate *gate) noexcept nogil
cdef bint held(Gate *gate, Posting *posting, bint gives_up) noexcept nogil


cdef inline Posting *posting_at(const Gate *gate, uint32_t place) noexcept nogil:
    """The control plane may write the place meanwhile."""
    return <Posting *>load_acquire_u64(<const uint64_t *>&gate.postings[place])  # pairs with write_place


cdef inline bint is_called(const Gate *gate) noexcept nogil:
    """The worker's side: whether it is to come to what is posted (stand). Afterwards its lanes may be others."""
    return load_acquire_u32(&gate.asked) != 0  # pairs with call
