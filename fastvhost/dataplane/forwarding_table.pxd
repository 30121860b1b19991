"""The forwarding table as control sees it: made, changed, listed. Workers use its MacTable (mac_table, mac_learn)."""

from libc.stdint cimport uint32_t, uint64_t

from fastvhost.dataplane.mac_table cimport MacTable


cdef class ForwardingTable:
    cdef MacTable *table            # what workers get; it lives as long as this object
    cdef object changing            # one change at a time
    cdef uint32_t port_number(self, object port) except? 0xffff
    cdef object port_of_static(self, uint64_t key)
    cdef uint64_t flush_now(self, uint64_t what)
    cdef int put_entry(self, uint64_t key, uint32_t port, object address) except -1
