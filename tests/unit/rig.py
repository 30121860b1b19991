"""Two guests at two VirtioPorts and one worker that is stepped by hand: the data plane without sockets or threads."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from typing import Any

from bench import conservation
from fastvhost.dataplane.door import Door
from fastvhost.dataplane.guest_memory import GuestMemory, Mapping
from fastvhost.dataplane.queue_setup import QueueSetup
from fastvhost.dataplane.virtio_port import VirtioPort
from fastvhost.dataplane.worker import Worker
from tests.driver import Memory, NetDriver, SplitQueue
from tests.frontend import F_VERSION_1, NET_F_MRG_RXBUF, RING_F_EVENT_IDX, RING_F_INDIRECT_DESC
from tests.packed_driver import PackedQueue
from tests.standstill import settle

__all__ = [
    "F_RING_PACKED",
    "F_VERSION_1",
    "NET_F_MRG_RXBUF",
    "RING_F_EVENT_IDX",
    "RING_F_INDIRECT_DESC",
    "GuestPort",
    "Rig",
    "mapped",
    "rig",
]

MIB = 1 << 20
F_RING_PACKED = 1 << 34
ADDRESSES = b"\x52\x54\0\0\0\x0b\x52\x54\0\0\0\x0a\x88\xb5"


def mapped(memory: Memory) -> GuestMemory:
    """The device's view of a test guest's memory."""
    return GuestMemory(
        [Mapping(r.fd, r.guest_addr, r.bytes, r.user_addr, r.mmap_offset) for r in memory.regions]
    )


def setup_of(memory: Memory, queue: Any, **rest: Any) -> QueueSetup:
    """The QueueSetup of a guest's queue: its addresses, its base, and other fields as given."""
    places = [memory.user_addr(area) for area in (queue.descriptor_area, queue.driver_area, queue.device_area)]
    return QueueSetup(queue.size, *places, **{"base": queue.base, **rest})


class GuestPort:
    """One guest and its port."""

    def __init__(self, door: Door, name: str, memory: Memory, size: int, features: int) -> None:
        self.port = VirtioPort(name, door)
        self.memory = memory
        self.features = features
        legacy = not features & (F_VERSION_1 | NET_F_MRG_RXBUF)
        self.queues: list[Any] = [(PackedQueue if features & F_RING_PACKED else SplitQueue)(memory, size) for _ in "rt"]
        self.driver = NetDriver(
            *self.queues, header_bytes=10 if legacy else 12, mergeable=bool(features & NET_F_MRG_RXBUF)
        )
        self.call = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(2)]
        self.kick = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(2)]

    def connect(self) -> None:
        self.port.set_link(True)
        self.port.set_features(self.features)
        self.port.set_memory(mapped(self.memory))
        for index in range(2):
            self.start(index)

    def start(self, index: int, *, enabled: bool = True, kicked: bool = True, base: int | None = None) -> None:
        setup = setup_of(self.memory, self.queues[index], call_fd=self.call[index], kick_fd=self.kick[index])
        base = setup.base if base is None else base
        self.port.start_queue(index, setup._replace(base=base, enabled=enabled, kicked=kicked))

    def calls(self, index: int) -> int:
        """Notifications on this queue since the last look."""
        try:
            return os.eventfd_read(self.call[index])
        except BlockingIOError:
            return 0

    def close(self) -> None:
        self.port.close()
        self.memory.close()
        for fd in self.call + self.kick:
            os.close(fd)


class Rig:
    """Guests a and b, wired to each other."""

    def __init__(
        self,
        *,
        size: int = 256,
        features: int = F_VERSION_1 | RING_F_INDIRECT_DESC,
        b_features: int | None = None,
        b_size: int | None = None,
        memory: Memory | None = None,
        b_memory: Memory | None = None,
        hold: bool = True,
        hold_timeout_ms: int = 60_000,
        idle: str = "poll",
    ) -> None:
        self.door = Door()
        self.a = GuestPort(self.door, "a", memory or Memory.of(8 * MIB), size, features)
        b_features = features if b_features is None else b_features
        self.b = GuestPort(self.door, "b", b_memory or Memory.of(8 * MIB), b_size or size, b_features)
        self.worker = Worker(self.door, idle=idle)
        self.worker.add_wire(self.a.port, self.b.port, hold=hold, hold_timeout_ms=hold_timeout_ms)
        self.worker.add_wire(self.b.port, self.a.port, hold=hold, hold_timeout_ms=hold_timeout_ms)

    def settle(self, rounds: int = 1000) -> int:
        """Step until nothing moves. Returns the frames moved."""
        return settle(self.worker, rounds=rounds)

    def close(self) -> None:
        if not self.worker.running:
            conservation.check(self.worker, self.a.port, self.b.port)
        self.worker.close()
        self.a.close()
        self.b.close()


@contextlib.contextmanager
def rig(**options: object) -> Iterator[Rig]:
    made = Rig(**options)  # type: ignore[arg-type]
    made.a.connect()
    made.b.connect()
    try:
        yield made
    finally:
        made.close()


def frame(number: int, bytes: int = 60) -> bytes:
    """A frame of random bytes that depend on its number: no two pieces of it are alike, wherever it is cut."""
    return ADDRESSES + hashlib.shake_128(b"%d" % number).digest(bytes - len(ADDRESSES))
