"""The forwarding table as workers use it, one call or millions at a time."""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from fastvhost.abi.shared_memory cimport load_acquire_u32, load_acquire_u64, store_release_u32
from fastvhost.dataplane.forwarding_table cimport ForwardingTable
from fastvhost.dataplane.forwarding_table import OUTCOMES
from fastvhost.dataplane.mac_change cimport begin_flush, end_flush, is_stale, sweep
from fastvhost.dataplane.mac_learn cimport learn, lock, unlock
from fastvhost.dataplane.mac_table cimport (
    KEY_USED, LEARN_MOVED, LEARN_NEW, NOBODY, MacBucket, MacTable, destination_key, find, first_bucket, is_link_local,
    mac_hash, second_bucket, source_key,
)


def destination(header: bytes, uint32_t vlan) -> int:
    """The key of a frame's destination."""
    return destination_key(header, vlan)


def source(header: bytes, uint32_t vlan) -> int:
    return source_key(header, vlan)


def link_local(uint64_t key) -> bool:
    return is_link_local(key)


def look_up(ForwardingTable table not None, uint64_t key) -> int | None:
    cdef uint32_t port = find(table.table, key)
    return None if port == NOBODY else port


def learn_one(ForwardingTable table not None, uint64_t key, uint32_t port) -> str:
    """What came of it."""
    return OUTCOMES[<int>learn(table.table, key, port)]


def buckets(ForwardingTable table not None, uint64_t key) -> tuple[int, int]:
    """The numbers of the two buckets that a key may be in."""
    cdef uint64_t hash = mac_hash(key, table.table.secret, table.table.factor)
    return first_bucket(table.table, hash) - table.table.buckets, second_bucket(table.table, hash) - table.table.buckets


def contents(ForwardingTable table not None, uint64_t bucket) -> list[int]:
    """The keys in a bucket."""
    cdef MacBucket *there = &table.table.buckets[bucket & table.table.mask]
    cdef uint32_t i
    return [there.places[i].key for i in range(4) if there.places[i].key]


def flushes(ForwardingTable table not None) -> int:
    """The number of the last flush: 0 to 65535."""
    return table.table.now >> 16


def set_flushes(ForwardingTable table not None, uint32_t number) -> None:
    table.table.now = table.table.now & <uint32_t>0xffff | number << 16


def begin(ForwardingTable table not None, uint64_t port, uint64_t vlan) -> None:
    """A flush whose sweep is still to come."""
    begin_flush(table.table, port << 32 | vlan << 4 | KEY_USED)


def end(ForwardingTable table not None) -> None:
    sweep(table.table, 0, table.table.mask + 1, is_stale, 0)
    end_flush(table.table)


def hold_lock(ForwardingTable table not None) -> None:
    """As a worker that is writing and was interrupted."""
    lock(table.table)


def let_lock_go(ForwardingTable table not None) -> None:
    unlock(table.table)


cdef class Keys:
    """Keys in an array, for calls in a loop."""

    cdef uint64_t *keys
    cdef uint32_t n
    cdef uint32_t stopping

    def __cinit__(self, keys: list[int]) -> None:
        self.keys = <uint64_t *>calloc(len(keys), sizeof(uint64_t))
        if self.keys == NULL:
            raise MemoryError
        for i, key in enumerate(keys):
            self.keys[i] = key
        self.n = len(keys)

    def __dealloc__(self) -> None:
        free(self.keys)

    def stop(self) -> None:
        store_release_u32(&self.stopping, 1)

    def find_all(self, ForwardingTable table not None, uint32_t turns) -> int:
        """Look up each key so many times. Returns the hits."""
        return self.find_keys(table.table, turns)

    def learn_all(self, ForwardingTable table not None, uint32_t port, uint32_t turns) -> int:
        """Returns how often the outcome was none of the first two."""
        return self.learn_keys(table.table, port, turns)

    def count_all(self, uint32_t turns) -> int:
        """The loop without a table."""
        return self.count_keys(turns)

    def churn(self, ForwardingTable table not None, uint32_t ports, uint64_t most) -> int:
        """As a busy worker: key i is learned from ports i % ports and ports + i % ports in turns, so many turns.

        Ends early after stop(). Returns how many were learned.
        """
        cdef uint64_t turn, done = 0
        with nogil:
            for turn in range(most):
                if load_acquire_u32(&self.stopping):
                    break
                done += churn_once(table.table, self.keys, self.n, ports, turn)
        return done

    def watch(self, ForwardingTable table not None, uint32_t ports) -> tuple[int, int]:
        """Look them all up, again and again, until stop(): how many had a port, and how many one they never had."""
        cdef uint64_t hits = 0, wrong = 0
        cdef uint32_t i, port
        with nogil:
            while not load_acquire_u32(&self.stopping):
                for i in range(self.n):
                    port = find(table.table, self.keys[i])
                    if port != NOBODY:
                        hits += 1
                        wrong += port != i % ports and port != ports + i % ports
        return hits, wrong

    # Methods, so that they are functions of their own, which callgrind counts

    cdef uint64_t find_keys(self, const MacTable *table, uint32_t turns) noexcept nogil:
        cdef const uint64_t *keys = self.keys
        cdef uint64_t hits = 0
        cdef uint32_t i, _turn, n = self.n
        for _turn in range(turns):
            for i in range(n):
                hits += find(table, keys[i]) != NOBODY
        return hits

    cdef uint64_t learn_keys(self, MacTable *table, uint32_t port, uint32_t turns) noexcept nogil:
        cdef const uint64_t *keys = self.keys
        cdef uint64_t others = 0
        cdef uint32_t i, _turn, n = self.n
        for _turn in range(turns):
            for i in range(n):
                others += <int>learn(table, keys[i], port) > 1
        return others

    cdef uint64_t count_keys(self, uint32_t turns) noexcept nogil:
        cdef const uint64_t *keys = self.keys
        cdef uint64_t odd = 0
        cdef uint32_t i, _turn, n = self.n
        for _turn in range(turns):
            for i in range(n):
                odd += load_acquire_u64(&keys[i]) != NOBODY
        return odd


cdef uint64_t churn_once(
    MacTable *table, const uint64_t *keys, uint32_t n, uint32_t ports, uint64_t turn,
) noexcept nogil:
    cdef uint64_t done = 0
    cdef uint32_t i
    for i in range(n):
        done += <int>learn(table, keys[i], i % ports + (ports if turn & 1 else 0)) in (LEARN_NEW, LEARN_MOVED)
    return done
