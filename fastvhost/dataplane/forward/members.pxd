"""The ports of an Ethernet switch, as its lanes see them."""

from libc.stdint cimport uint32_t, uint64_t

from fastvhost.dataplane.forward.allowance cimport Allowance
from fastvhost.dataplane.forward.vlan cimport PortVlans
from fastvhost.dataplane.mac_table cimport MacTable
from fastvhost.dataplane.port cimport PortOps


# Changed while all workers that read it are at the door, but for policies: those change one word at a time.
cdef struct Member:
    PortOps *port            # NULL: no port has this number
    PortVlans vlans
    # policies
    uint32_t group           # of ports that do not reach each other; 0: none
    bint guarded             # frames from it have sources that are reserved for it
    bint counts_multicast    # among floods
    Allowance floods         # frames from it that go to all ports; to be limited
    Member *mirror           # which gets a copy of all that it sends and receives; NULL: nobody


cdef struct Members:
    MacTable *table
    uint32_t n               # numbers in use: 0 to n - 1
    uint32_t n_mirrored      # of them have a mirror
    Member *at               # by number
    bint tagging             # some port has VLANs: else frames pass as they are, whatever their tags
    uint64_t (*now_ns)() noexcept nogil


cdef inline bint reaches(const Members *members, uint32_t one, uint32_t other) noexcept nogil:
    """Whether frames of a port may leave at another one. Ports of one isolation group do not reach each other."""
    cdef uint32_t group = members.at[one].group
    return group == 0 or group != members.at[other].group
