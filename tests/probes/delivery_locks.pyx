"""The lock of a receive queue, taken by a test as if it were another worker."""

from libc.stdint cimport uint32_t

from fastvhost.dataplane.delivery_lock cimport give_lock, take_lock
from fastvhost.dataplane.port cimport Port


def hold(Port port not None, uint32_t pair) -> bool:
    return take_lock(&port.ops.locks[pair])


def let_go(Port port not None, uint32_t pair) -> None:
    give_lock(&port.ops.locks[pair])
