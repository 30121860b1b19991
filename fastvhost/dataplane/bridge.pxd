"""The ports of an Ethernet switch, and its forwarding table."""

from libc.stdint cimport uint32_t

from fastvhost.dataplane.forward.members cimport Members
from fastvhost.dataplane.forwarding_table cimport ForwardingTable
from fastvhost.dataplane.port cimport Port, PortOps


cdef class Bridge:
    cdef Members members
    cdef readonly ForwardingTable table
    cdef readonly list ports     # by number; None: no port has it
    cdef set workers              # that deliver to its ports
    cdef int claim(self, object worker) except -1
    cdef int unclaim(self, object worker) except -1
    cdef uint32_t room(self) noexcept
    cdef uint32_t port_number(self, object port) except? 0xffff
    cdef uint32_t number(self, Port port) except? 0xffff
    cdef Port owner(self, const PortOps *ops)
