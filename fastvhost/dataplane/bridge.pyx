"""The ports of an Ethernet switch, and its forwarding table."""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from fastvhost.dataplane.forward.members cimport Member
from fastvhost.dataplane.forward.vlan cimport NO_VLAN, PortVlans
from fastvhost.dataplane.forwarding_table cimport ForwardingTable
from fastvhost.dataplane.port cimport Port, PortOps


cdef class Bridge:
    """Ports that reach each other by what is learned of them. Their wires have it instead of an egress."""

    def __init__(self, ports not None, ForwardingTable table not None) -> None:
        cdef Member *member
        if self.members.at != NULL:
            raise ValueError("a bridge is made once")
        if len(ports) > table.table.n_ports:
            raise ValueError(f"{len(ports)} ports, and a forwarding table for {table.table.n_ports}; make a larger one")
        self.members.at = <Member *>calloc(table.table.n_ports, sizeof(Member))
        if self.members.at == NULL:
            raise MemoryError
        self.ports, self.table, self.workers = list(ports), table, set()
        self.members.table, self.members.n = table.table, <uint32_t>len(ports)
        for number, port in enumerate(ports):
            member = &self.members.at[<uint32_t>number]
            member.port = &(<Port?>port).ops
            # Without keys of its own: a member of all VLANs, and frames without a tag are in VLAN 0.
            member.vlans.tagged = True
            memset(member.vlans.members, 0xff, sizeof(member.vlans.members))
            member.vlans.members[NO_VLAN >> 6] &= ~(<uint64_t>1 << (NO_VLAN & 63))

    def set_vlans(self, port: int, *, native: int | None, tagged: Iterable[int] | None) -> None:
        cdef Member *member = &self.members.at[self.port_number(port)]
        cdef uint32_t vlan
        numbers = set(tagged or ()) | ({native} if native is not None else set())
        for number in numbers:
            if not 0 <= number < NO_VLAN:
                raise ValueError(f"port {port}: VLAN {number}: choose 0 to {NO_VLAN - 1}")
        memset(&member.vlans, 0, sizeof(PortVlans))
        member.vlans.native = NO_VLAN if native is None else native
        member.vlans.tagged = tagged is not None
        for vlan in numbers:
            member.vlans.members[vlan >> 6] |= <uint64_t>1 << (vlan & 63)
        self.members.tagging = True
        self.table.flush(port=port)

    cdef uint32_t port_number(self, object port) except? 0xffff:
        if not 0 <= port < self.members.n:
            raise ValueError(f"port {port}: this bridge has ports 0 to {self.members.n - 1}")
        return port

    cdef int claim(self, object worker) except -1:
        """A worker has lanes of it: it delivers to all ports."""
        self.workers.add(worker)
        for port in self.ports:
            if port is not None:
                (<Port>port).ops.shared = len(self.workers) > 1
        return 0

    cdef int unclaim(self, object worker) except -1:
        self.workers.discard(worker)
        return 0

    cdef uint32_t room(self) noexcept:
        """The most ports that it ever has."""
        return self.table.table.n_ports

    cdef uint32_t number(self, Port port) except? 0xffff:
        return self.ports.index(port)

    cdef Port owner(self, const PortOps *ops):
        """The port whose functions these are; None: none of them."""
        for port in self.ports:
            if port is not None and &(<Port>port).ops == ops:
                return port
        return None

    def __dealloc__(self) -> None:
        free(self.members.at)
