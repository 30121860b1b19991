"""Control writes to the forwarding table: time, flushes, sweeps, static entries. What workers write is in mac_learn.

It takes the same lock as workers do, for one entry at a time: no sweep keeps a worker from learning for longer than the
removal of one entry takes.
"""

from libc.stdint cimport uint32_t, uint64_t

from fastvhost.dataplane.mac_table cimport MacTable


# Whether an entry is to be removed: `what` is what the sweep was told.
ctypedef bint (*Doomed)(const MacTable *table, uint64_t key, uint64_t value, uint64_t what) noexcept nogil


cdef bint put_static(MacTable *table, uint64_t key, uint32_t port) noexcept nogil
cdef bint drop_static(MacTable *table, uint64_t key) noexcept nogil
cdef void set_tick(MacTable *table, uint64_t seconds) noexcept nogil
cdef void begin_flush(MacTable *table, uint64_t what) noexcept nogil
cdef void end_flush(MacTable *table) noexcept nogil
cdef uint64_t sweep(
    MacTable *table, uint64_t first, uint64_t n_buckets, Doomed doomed, uint64_t what,
) noexcept nogil
cdef bint is_stale(const MacTable *table, uint64_t key, uint64_t value, uint64_t what) noexcept nogil
cdef bint is_static_of(const MacTable *table, uint64_t key, uint64_t value, uint64_t port) noexcept nogil
cdef bint is_elsewhere(const MacTable *table, uint64_t key, uint64_t value, uint64_t reserved) noexcept nogil
