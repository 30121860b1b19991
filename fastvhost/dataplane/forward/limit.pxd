"""What a port may send in a second."""

from libc.stdint cimport uint64_t

from fastvhost.dataplane.forward.allowance cimport Allowance


# Of one port: its lanes have it together, whichever workers they belong to.
cdef struct Limit:
    Allowance bytes
    Allowance frames
    uint64_t (*now_ns)() noexcept nogil
