"""The forwarding table as control sees it: made, changed, listed. See mac_table.pxd and mac_change.pxd."""

import os
from threading import Lock

cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memset
from posix.stdlib cimport posix_memalign

from fastvhost.abi.shared_memory cimport load_acquire_u64, load_u64
from fastvhost.dataplane.mac_change cimport (
    begin_flush, drop_static, end_flush, is_elsewhere, is_stale, is_static_of, put_static, set_tick, sweep,
)
from fastvhost.dataplane.mac_learn cimport lock, renew_generation, unlock
from fastvhost.dataplane.mac_table cimport (
    ANY_VLAN, ENTRY_STATIC, KEY_ADDRESS, KEY_ANY_VLAN, KEY_USED, LEARN_FLAPPING, N_LEARNINGS, NOBODY, PLACES,
    MacBucket, MacEntry, MacPort, MacTable, answers, destination_key, find, is_group, entry_of, port_of, vlan_of,
)
from fastvhost.dataplane.mac_row import Flapping, MacRow

cdef enum:
    LEAST_ADDRESSES = 1 << 10
    MOST_ADDRESSES = 1 << 20
    LEAST_BUCKETS = 1 << 9         # of PLACES each: two places for each of LEAST_ADDRESSES
    MOST_PORTS = 65535
    MOST_AGE = 32767               # half the turn of a tick: by then a sweep has come by
    LINE = 64
    PAGE = 1 << 21                 # a huge one, which a large table has by itself

# By number: what came of learning, for counters. The first one is not counted.
OUTCOMES = (
    "unchanged", "refreshed", "learned", "moved", "busy", "no_source", "at_limit", "too_fast", "table_full", "static",
    "reserved", "flapping", "frozen",
)
if len(OUTCOMES) != N_LEARNINGS:
    raise ImportError("forwarding_table: OUTCOMES and the enum Learning differ")


@cython.final
cdef class ForwardingTable:

    def __cinit__(self, *, addresses: int = 65536, ports: int = 1024, max_age: int = 300) -> None:
        cdef uint64_t n_buckets = LEAST_BUCKETS, bytes
        if not LEAST_ADDRESSES <= addresses <= MOST_ADDRESSES:
            raise ValueError(f"a table of {addresses} addresses: choose {LEAST_ADDRESSES} to {MOST_ADDRESSES}")
        if not 1 <= ports <= MOST_PORTS:
            raise ValueError(f"a table for {ports} ports: choose 1 to {MOST_PORTS}")
        if not 1 <= max_age <= MOST_AGE:
            raise ValueError(f"an age of {max_age} s: choose 1 to {MOST_AGE}")
        while n_buckets * PLACES < 2 * <uint64_t>addresses:
            n_buckets *= 2
        self.changing = Lock()
        bytes = n_buckets * sizeof(MacBucket)
        self.table = <MacTable *>zeroed(sizeof(MacTable), LINE)
        self.table.ports = <MacPort *>zeroed(<uint64_t>ports * sizeof(MacPort), LINE)
        self.table.buckets = <MacBucket *>zeroed(bytes, LINE if bytes < PAGE else PAGE)
        self.table.mask = n_buckets - 1
        self.table.secret = int.from_bytes(os.urandom(8), "little") | 1
        self.table.factor = int.from_bytes(os.urandom(8), "little") | 1
        self.table.generation = 1
        self.table.max_age, self.table.n_ports = max_age, ports
        for port in range(ports):
            self.set_limits(port)

    def __dealloc__(self) -> None:
        if self.table != NULL:
            free(self.table.buckets)
            free(self.table.ports)
            free(self.table)

    @property
    def addresses(self) -> int:
        return (self.table.mask + 1) * PLACES >> 1

    @property
    def buckets(self) -> int:
        return self.table.mask + 1

    @property
    def generation(self) -> int:
        return load_u64(&self.table.generation)

    def find(self, address: str, vlan: int = 0) -> int | None:
        cdef uint32_t port = find(self.table, key_of(address, vlan))
        return None if port == NOBODY else port

    def static_port(self, address: str, vlan: int = 0) -> int | None:
        return self.port_of_static(key_of(address, vlan))

    def reserved_port(self, address: str) -> int | None:
        return self.port_of_static(key_of(address, 0) | KEY_ANY_VLAN)

    cdef object port_of_static(self, uint64_t key):
        """The port of a static entry, or reservation; None: there is none."""
        cdef MacEntry *entry
        with self.changing:
            entry = entry_of(self.table, key)
            if entry == NULL or not entry.value & ENTRY_STATIC:
                return None
            return port_of(entry.value)

    def set_limits(self, port: int, *, max_macs: int = 1024, learn_rate: int = 0) -> None:
        cdef uint32_t number = self.port_number(port)
        if not 0 <= max_macs <= MOST_ADDRESSES:
            raise ValueError(f"port {port}: max_macs={max_macs}: choose 0 to {MOST_ADDRESSES}")
        if not 0 <= learn_rate <= MOST_ADDRESSES:
            raise ValueError(f"port {port}: learn_rate={learn_rate}: choose 1 to {MOST_ADDRESSES} a second, 0 for any")
        self.table.ports[number].most = max_macs
        self.table.ports[number].rate = learn_rate

    def add(self, address: str, port: int, vlan: int = 0) -> None:
        cdef uint64_t key = key_of_one(address, vlan)
        cdef uint32_t number = self.port_number(port)
        cdef MacEntry *entry
        with self.changing:
            entry = entry_of(self.table, key | KEY_ANY_VLAN)
            if entry != NULL and port_of(entry.value) != number:
                raise ValueError(
                    f"{address}: reserved for port {port_of(entry.value)}, so port {port} cannot have it; take it"
                    " off the addresses of that port first"
                )
            entry = entry_of(self.table, key)
            if entry != NULL and entry.value & ENTRY_STATIC != 0 and port_of(entry.value) != number:
                raise ValueError(
                    f"{address} in VLAN {vlan} is static at port {port_of(entry.value)}; remove that entry first"
                )
            self.put_entry(key, number, address)

    def remove(self, address: str, vlan: int = 0) -> None:
        cdef uint64_t key = key_of(address, vlan)
        with self.changing:
            if not drop_static(self.table, key):
                raise ValueError(
                    f"{address} in VLAN {vlan} has no static entry; entries that were learned go with flush"
                )

    def reserve(self, address: str, port: int) -> None:
        cdef uint64_t key = key_of_one(address, 0) | KEY_ANY_VLAN
        cdef uint32_t number = self.port_number(port)
        cdef MacEntry *entry
        with self.changing:
            entry = entry_of(self.table, key)
            if entry != NULL and port_of(entry.value) != number:
                raise ValueError(
                    f"{address}: reserved for port {port_of(entry.value)} already; an address belongs to one port"
                )
            for row in self.rows():
                if row.static and row.address == address.lower() and row.port != port:
                    raise ValueError(
                        f"{address} in VLAN {row.vlan} is static at port {row.port}, so it cannot be reserved for port"
                        f" {port}; remove that entry first"
                    )
            self.put_entry(key, number, address)
            with nogil:
                sweep(self.table, 0, self.table.mask + 1, is_elsewhere, key)

    def release(self, address: str) -> None:
        cdef uint64_t key = key_of(address, 0) | KEY_ANY_VLAN
        with self.changing:
            if not drop_static(self.table, key):
                raise ValueError(f"{address}: not reserved for any port, so there is nothing to release")

    def forget_answers(self) -> None:
        lock(self.table)
        renew_generation(self.table)
        unlock(self.table)

    def flush(self, *, port: int | None = None, vlan: int | None = None) -> int:
        cdef uint64_t of_port = NOBODY if port is None else self.port_number(port)
        cdef uint64_t of_vlan = ANY_VLAN if vlan is None else vlan_number(vlan)
        with self.changing:
            return self.flush_now(of_port << 32 | of_vlan << 4 | KEY_USED)

    def forget_port(self, port: int) -> None:
        cdef uint64_t number = self.port_number(port)
        with self.changing:
            with nogil:
                sweep(self.table, 0, self.table.mask + 1, is_static_of, number)
            self.flush_now(number << 32 | KEY_ANY_VLAN | KEY_USED)
            self.table.ports[number].evicted = 0
            memset(self.table.ports[number].outcomes, 0, sizeof(self.table.ports[number].outcomes))

    cdef uint64_t flush_now(self, uint64_t what):
        """Flush, and remove what was flushed. Returns how many entries are gone."""
        cdef uint64_t removed
        with nogil:
            begin_flush(self.table, what)
            removed = sweep(self.table, 0, self.table.mask + 1, is_stale, 0)
            end_flush(self.table)
        return removed

    cdef int put_entry(self, uint64_t key, uint32_t port, object address) except -1:
        if not put_static(self.table, key, port):
            raise ValueError(
                f"{address}: no place, since static entries have all {2 * PLACES} that it may take; remove one of them,"
                " or make the table larger"
            )
        return 0

    def set_tick(self, seconds: int) -> None:
        with self.changing:
            set_tick(self.table, <uint64_t>(seconds & 0xffff))

    def sweep(self, buckets: int | None = None) -> int:
        cdef uint64_t all_of_them = self.table.mask + 1, removed
        cdef uint64_t n = all_of_them if buckets is None else min(max(buckets, 0), all_of_them)
        with self.changing:
            with nogil:
                removed = sweep(self.table, self.table.swept, n, is_stale, 0)
            self.table.swept = (self.table.swept + n) & self.table.mask
        return removed

    def rows(self, first: int = 0, buckets: int | None = None) -> list[MacRow]:
        cdef uint64_t b, key, value, all_of_them = self.table.mask + 1
        cdef uint64_t begin = min(max(first, 0), all_of_them)
        cdef uint64_t n = all_of_them - begin if buckets is None else min(max(buckets, 0), all_of_them - begin)
        cdef uint32_t i
        cdef MacEntry *entry
        found = []
        for b in range(begin, begin + n):
            for i in range(<uint32_t>PLACES):
                entry = &self.table.buckets[b].places[i]
                key = load_acquire_u64(&entry.key)
                if key == 0 or key & KEY_ANY_VLAN == KEY_ANY_VLAN:
                    continue
                value = load_acquire_u64(&entry.value)
                if load_acquire_u64(&entry.key) == key and answers(self.table, key, value):
                    found.append(row_of(self.table, key, value))
        return found

    def reservations(self) -> dict[str, int]:
        cdef uint64_t b, key
        cdef uint32_t i
        found = {}
        with self.changing:
            for b in range(self.table.mask + 1):
                for i in range(<uint32_t>PLACES):
                    key = load_acquire_u64(&self.table.buckets[b].places[i].key)
                    if key & KEY_ANY_VLAN == KEY_ANY_VLAN:
                        found[address_of(key)] = port_of(self.table.buckets[b].places[i].value)
        return found

    def counters(self, port: int) -> dict[str, int]:
        cdef MacPort *counts = &self.table.ports[self.port_number(port)]
        found = {name: load_u64(&counts.outcomes[number]) for number, name in enumerate(OUTCOMES) if number}
        return {"entries": counts.learned, "evicted": counts.evicted, **found}

    @property
    def flapped(self) -> int:
        cdef uint32_t port
        cdef uint64_t times = 0
        for port in range(self.table.n_ports):
            times += load_u64(&self.table.ports[port].outcomes[<int>LEARN_FLAPPING])
        return times

    @property
    def last_flapping(self) -> Flapping | None:
        cdef uint64_t key = load_u64(&self.table.last_flapping), ports = load_u64(&self.table.flapping_ports)
        return Flapping(address_of(key), vlan_of(key), ports & 0xffff, ports >> 32) if key else None

    cdef uint32_t port_number(self, object port) except? 0xffff:
        if not 0 <= port < self.table.n_ports:
            raise ValueError(f"port {port}: this table has ports 0 to {self.table.n_ports - 1}")
        return port


cdef void *zeroed(uint64_t bytes, uint64_t alignment) except NULL:
    """Memory whose pages are there: no worker waits for one."""
    cdef void *memory = NULL
    if posix_memalign(&memory, alignment, bytes):
        raise MemoryError
    memset(memory, 0, bytes)
    return memory


cdef uint64_t key_of(object address, object vlan) except? 0:
    """Of six pairs of hexadecimal digits, between them colons or hyphens."""
    cdef uint8_t header[12]
    cdef uint32_t i
    parts = str(address).replace("-", ":").split(":")
    try:
        octets = bytes.fromhex("".join(parts))
    except ValueError:
        octets = b""
    if len(octets) != 6 or [len(part) for part in parts] != [2] * 6:
        raise ValueError(f"{address!r}: no Ethernet address; write it like 52:54:00:12:34:56")
    for i, octet in enumerate(octets):
        header[i] = octet
    return destination_key(header, vlan_number(vlan))


cdef uint64_t key_of_one(object address, object vlan) except? 0:
    """The same, of an address that one station can have."""
    cdef uint64_t key = key_of(address, vlan)
    if is_group(key) or not key & KEY_ADDRESS:
        raise ValueError(f"{address}: a group address, or all zeros, which no station has; give a station's own")
    return key


cdef uint32_t vlan_number(object vlan) except? 0xffff:
    if not 0 <= vlan < ANY_VLAN:
        raise ValueError(f"VLAN {vlan}: choose 0 to {ANY_VLAN - 1}")
    return vlan


cdef object address_of(uint64_t key):
    return ":".join([f"{key >> shift & 0xff:02x}" for shift in range(16, 64, 8)])


cdef object row_of(const MacTable *table, uint64_t key, uint64_t value):
    cdef uint32_t age = <uint16_t>(table.now - value)
    return MacRow(address_of(key), vlan_of(key), port_of(value), age, value & ENTRY_STATIC != 0)
