"""The door: a change of a port takes effect between two bursts of its workers, and none of them waits for control.

A port's control thread prepares a change and posts it (Posting) at the gates (Gate) of the workers that own a lane from
or to this port. Each comes to it between two bursts; the last one to come puts it into effect, and all go on. So where
a port has one worker, that one never stands still; where it has several, they wait for each other, and for nobody who
may be without a CPU. Whoever waits in vain for 20 ms goes on, and comes again once the others have come.

`missing` says it all: who has not come yet. Whoever makes it 0 puts the change into effect, and nobody withdraws it any
more; before that, control may. Waiting takes no lock and not the GIL. Two ports may be at the door at once: a worker
comes to all that is posted at its gate.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastvhost.abi.shared_memory cimport load_acquire_u32


cdef enum:
    MOST_WORKERS = 62        # a bit each in `missing`, beside two others
    GATE_BYTES = 128

ctypedef void (*Apply)(void *what) noexcept nogil


cdef struct Posting:
    # written by control while nothing is posted
    Apply apply              # copies fields, and touches nothing that may be slow to come
    void *what
    # written by all
    uint64_t missing         # who has not come, or NOTHING_POSTED
    uint64_t waited          # who came, waited in vain and went on


cdef struct Gate:
    # written by whoever calls the worker
    uint32_t asked           # it is to look at what is posted here
    uint32_t stopping
    int wake_fd              # an eventfd: written when the worker may be asleep
    # written by the worker's thread
    uint32_t running
    uint32_t asleep
    # written while it does not run
    uint32_t number          # its place at the door
    uint32_t n_postings
    Posting **postings       # of the ports of which it owns lanes
    uint8_t apart[GATE_BYTES - 40]  # each worker looks at lines of its own


# Who owns lanes of which port may change while a change is posted. Whoever changes it raises `version`; who posts looks
# at it afterwards. A worker that starts looks at what is posted after its lanes were made known: one sees the other.
cdef enum Passage:
    PASSED
    LATE                     # a worker has not come in time
    OWNERS_CHANGED           # other workers own lanes of this port now


cdef class PortDoor


cdef class Door:
    cdef Gate gates[MOST_WORKERS]  # where they are as long as the door is there: who calls may be late
    cdef list owners         # of the gates, None where one is free
    cdef uint32_t version
    cdef Gate *add(self, object owner) except NULL
    cdef int owns(self, Gate *gate, PortDoor port) except -1
    cdef int remove(self, Gate *gate) except -1


cdef class PortDoor:
    cdef Door door
    cdef Posting posting
    cdef bint posted         # and not acknowledged
    cdef uint64_t workers    # that own a lane of this port, as of `version`
    cdef uint32_t version
    cdef readonly uint64_t passages
    cdef bint pass_through(self, Apply apply, void *what, uint64_t wait_ns) except -1
    cdef int prepare(self) except -1
    cdef Passage attempt(self, Apply apply, void *what, uint64_t end) noexcept nogil
    cdef Passage post(self, Apply apply, void *what) noexcept nogil
    cdef void count(self) noexcept nogil
    cdef bint passed(self) noexcept nogil
    cdef bint withdraw(self) noexcept nogil
    cdef object who_is_late(self)


cdef void wake(Gate *gate) noexcept nogil
cdef void enter(Gate *gate) noexcept nogil
cdef void leave(Gate *gate) noexcept nogil
cdef void stand(Gate *gate) noexcept nogil
cdef bint held(Gate *gate, Posting *posting, bint gives_up) noexcept nogil


cdef inline bint pass_gate(Gate *gate) noexcept nogil:
    """The worker's side: come to what is posted. Whether it was called; then its lanes may be others."""
    if not load_acquire_u32(&gate.asked):  # pairs with call
        return False
    stand(gate)
    return True
