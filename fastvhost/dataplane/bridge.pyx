"""The ports of an Ethernet switch, and its forwarding table."""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from fastvhost.dataplane.clock cimport monotonic_ns
from fastvhost.dataplane.forward.allowance cimport set_allowance
from fastvhost.dataplane.forward.members cimport Member
from fastvhost.dataplane.forward.vlan cimport NO_VLAN, PortVlans
from fastvhost.dataplane.forwarding_table cimport ForwardingTable
from fastvhost.dataplane.port cimport Port, PortOps

# Frames to everybody that may come at once: as many as guests send when they start, say.
FLOOD_BURST = 1000


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
        self.ports, self.table, self.workers, self.groups = list(ports), table, [], {}
        self.members.now_ns = monotonic_ns
        self.members.table, self.members.n = table.table, <uint32_t>len(ports)
        for number, port in enumerate(ports):
            self.begin(<uint32_t>number)
            self.members.at[<uint32_t>number].port = &(<Port?>port).ops

    cdef void begin(self, uint32_t number) noexcept:
        """Nobody has this number. Without keys of its own: of all VLANs, and frames without a tag are in VLAN 0."""
        cdef Member *member = &self.members.at[number]
        memset(member, 0, sizeof(Member))
        member.vlans.tagged = True
        memset(member.vlans.members, 0xff, sizeof(member.vlans.members))
        member.vlans.members[NO_VLAN >> 6] &= ~(<uint64_t>1 << (NO_VLAN & 63))

    def enter(self, uint32_t number, Port port not None) -> None:
        if number >= self.room():
            raise ValueError(f"port {port.name}: this switch has room for {self.room()} ports; remove one of them")
        self.ports += [None] * (number + 1 - len(self.ports))
        if self.ports[number] is not None:
            raise ValueError(f"port {port.name}: port {self.ports[number].name} has number {number}; choose another")
        self.begin(number)
        self.ports[number] = port

    def leave(self, Port port not None) -> None:
        self.ports[self.number(port)] = None

    def set_vlans(self, port: int, *, native: int | None, tagged: Iterable[int] | None) -> None:
        cdef Member *member = &self.members.at[self.port_number(port)]
        self.read_vlans(&member.vlans, port, native, tagged)
        self.has_vlans = True
        if member.port != NULL:
            self.members.tagging = True
        self.table.flush(port=port)

    cdef int read_vlans(self, PortVlans *vlans, object port, object native, object tagged) except -1:
        """What set_vlans() is told, as lanes read it. Raises ValueError; then nothing was written."""
        cdef uint32_t vlan
        numbers = set(tagged or ()) | ({native} if native is not None else set())
        for number in numbers:
            if not 0 <= number < NO_VLAN:
                raise ValueError(f"port {port}: VLAN {number}: choose 0 to {NO_VLAN - 1}")
        memset(vlans, 0, sizeof(PortVlans))
        vlans.native = NO_VLAN if native is None else native
        vlans.tagged = tagged is not None
        for vlan in numbers:
            vlans.members[vlan >> 6] |= <uint64_t>1 << (vlan & 63)
        return 0

    cdef uint32_t port_number(self, object port) except? 0xffff:
        if not 0 <= port < len(self.ports):
            raise ValueError(f"port {port}: this bridge has ports 0 to {len(self.ports) - 1}")
        return port

    cdef int claim(self, object worker) except -1:
        """A worker has lanes of it: it delivers to all ports. Where it is the second one, they stay shared for good:

        one that loses its lanes delivers until it is at the door.
        """
        cdef bint shared
        self.workers.append(worker)
        shared = len(set(self.workers)) > 1
        for port in self.ports if shared else ():
            if port is not None:
                (<Port>port).share()
        return 0

    cdef int unclaim(self, object worker) except -1:
        if worker in self.workers:
            self.workers.remove(worker)
        return 0

    cdef uint32_t room(self) noexcept:
        """The most ports that it ever has."""
        return self.table.table.n_ports

    cdef uint32_t number(self, Port port) except? 0xffff:
        return self.ports.index(port)

    cdef Member *member(self, Port port) except NULL:
        return &self.members.at[self.number(port)]

    def guard(self, Port port not None, addresses) -> None:
        cdef Member *member = self.member(port)
        cdef uint32_t number = self.number(port)
        wanted = {address.lower() for address in addresses}
        if not wanted and not member.guarded:
            return
        had = {address for address, owner in self.table.reservations().items() if owner == number}
        if wanted == had and member.guarded:
            return
        reserved = []
        try:
            for address in sorted(wanted - had):
                self.table.reserve(address, number)
                reserved.append(address)
        except ValueError:
            for address in reserved:
                self.table.release(address)
            raise
        member.guarded = len(wanted) > 0
        for address in had - wanted:
            self.table.release(address)
        self.table.flush(port=number)
        self.table.forget_answers()

    def let_go(self, Port port not None, addresses) -> None:
        cdef uint32_t number = self.number(port)
        reserved = self.table.reservations()
        for address in addresses:
            if reserved.get(address.lower()) == number:
                self.table.release(address)
        self.table.forget_answers()

    def isolate(self, Port port not None, str group) -> None:
        self.member(port).group = self.groups.setdefault(group, len(self.groups) + 1) if group else 0
        self.table.forget_answers()

    def limit_macs(self, Port port not None, uint32_t most) -> None:
        self.table.set_limits(self.number(port), max_macs=most)

    def limit_floods(self, Port port not None, double frames, *, bint multicast=False) -> None:
        cdef Member *member = self.member(port)
        member.counts_multicast = multicast
        set_allowance(&member.floods, frames, FLOOD_BURST)

    def mirror(self, Port port not None, Port mirror) -> None:
        cdef Member *member = self.member(port)
        cdef Member *to = NULL
        if mirror is not None:
            to = self.member(mirror)
            if to == member:
                raise ValueError(f"port {port.name} cannot be its own mirror; name another port")
            if to.mirror != NULL:
                raise ValueError(f"port {mirror.name} has a mirror itself; copies are not copied again")
            for number in range(len(self.ports)):
                if self.members.at[<uint32_t>number].mirror == member:
                    raise ValueError(f"port {port.name} is a mirror itself; copies are not copied again")
        member.mirror = to
        self.count_mirrored()

    def forget(self, Port port not None) -> None:
        cdef Member *member = self.member(port)
        cdef uint32_t number
        for number in range(<uint32_t>len(self.ports)):
            if self.members.at[number].mirror == member:
                self.members.at[number].mirror = NULL
        self.mirror(port, None)
        self.isolate(port, "")
        self.guard(port, ())
        self.limit_floods(port, 0)
        self.table.forget_port(self.number(port))

    cdef int count_mirrored(self) except -1:
        cdef uint32_t number, n = 0
        for number in range(<uint32_t>len(self.ports)):
            n += self.members.at[number].mirror != NULL
        self.members.n_mirrored = n
        return 0

    cdef Port owner(self, const PortOps *ops):
        """The port whose functions these are; None: none of them."""
        for port in self.ports:
            if port is not None and &(<Port>port).ops == ops:
                return port
        return None

    def __dealloc__(self) -> None:
        free(self.members.at)
