"""The ports of an Ethernet switch, and its forwarding table."""

from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc, free

from fastvhost.dataplane.forward.members cimport Member
from fastvhost.dataplane.forwarding_table cimport ForwardingTable
from fastvhost.dataplane.port cimport Port, PortOps


cdef class Bridge:
    """Ports that reach each other by what is learned of them. Their wires have it instead of an egress."""

    def __init__(self, ports not None, ForwardingTable table not None) -> None:
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
            self.members.at[<uint32_t>number].port = &(<Port?>port).ops

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
