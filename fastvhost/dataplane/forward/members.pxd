"""The ports of an Ethernet switch, as its lanes see them."""

from libc.stdint cimport uint32_t

from fastvhost.dataplane.forward.vlan cimport PortVlans
from fastvhost.dataplane.mac_table cimport MacTable
from fastvhost.dataplane.port cimport PortOps


cdef struct Member:
    PortOps *port            # NULL: no port has this number
    PortVlans vlans


# Changed only while all workers that read it are at the door.
cdef struct Members:
    MacTable *table
    uint32_t n               # numbers in use: 0 to n - 1
    Member *at               # by number
    bint tagging             # some port has VLANs: else frames pass as they are, whatever their tags
