"""The ports of an Ethernet switch, and its forwarding table."""

from libc.stdint cimport uint32_t

from fastvhost.dataplane.forward.members cimport Member, Members
from fastvhost.dataplane.forward.vlan cimport PortVlans
from fastvhost.dataplane.forwarding_table cimport ForwardingTable
from fastvhost.dataplane.port cimport Port, PortOps


cdef class Bridge:
    cdef Members members
    cdef readonly ForwardingTable table
    cdef readonly list ports     # by number; None: no port has it
    cdef list workers            # that deliver to its ports, once for each share of a wire
    cdef bint has_vlans          # of some port; lanes know it once that port is seated
    cdef void begin(self, uint32_t number) noexcept
    cdef int claim(self, object worker) except -1
    cdef int unclaim(self, object worker) except -1
    cdef dict groups             # of isolation: numbers by name
    cdef uint32_t room(self) noexcept
    cdef int read_vlans(self, PortVlans *vlans, object port, object native, object tagged) except -1
    cdef uint32_t port_number(self, object port) except? 0xffff
    cdef uint32_t number(self, Port port) except? 0xffff
    cdef Member *member(self, Port port) except NULL
    cdef int count_mirrored(self) except -1
    cdef Port owner(self, const PortOps *ops)
