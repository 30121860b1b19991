"""`--forward learn`: an Ethernet switch."""

from fastvhost.dataplane.forward.lane cimport Lane


cdef enum To:
    EVERYBODY = 0xffff       # as NOBODY of mac_table: who has the address is not known
    NOT_ON = 0xfffe          # dropped
    PLACED = 0xfffd          # it has its exit


cdef void plan_learn(Lane *lane) noexcept nogil
