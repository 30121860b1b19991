"""A clock that only the test moves on, for what ports may send in a second."""

from libc.stdint cimport uint64_t

from fastvhost.dataplane.bridge cimport Bridge
from fastvhost.dataplane.idle cimport asleep_for
from fastvhost.dataplane.wire cimport Wire
from fastvhost.dataplane.worker cimport Worker

cdef uint64_t time = 0


cdef uint64_t read_test_clock() noexcept nogil:
    return time


def set_time(uint64_t ns) -> None:
    global time
    time = ns


def use_on_bridge(Bridge bridge not None) -> None:
    bridge.members.now_ns = read_test_clock


def use_on_wire(Wire wire not None) -> None:
    wire.limit.now_ns = read_test_clock


def longest_sleep(Worker worker not None, uint64_t ns) -> int:
    """How long this worker would sleep at most until it looks up, of so many nanoseconds."""
    return asleep_for(&worker.roster, ns)
