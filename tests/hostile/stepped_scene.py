"""A scene without processes and threads: the attacker's port, its victim's, and a worker that is stepped by hand.

What `FuzzedGuest` asks of a scene, at the port itself: no front-end, no socket, no clock. Thousands of inputs a minute,
and the same ones do the same every time.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from bench import conservation
from fastvhost.dataplane.door import Door
from fastvhost.dataplane.virtio_port import VirtioPort
from fastvhost.dataplane.worker import Worker
from tests.driver import Memory, Region, Timeout
from tests.frontend import F_VERSION_1
from tests.hostile.rings import FORMATS
from tests.hostile.watch import WatchedMemory
from tests.unit.rig import MIB, GuestPort, mapped, setup_of

ROUNDS = 50
"""Of the worker: what has not come by then does not come."""


class SteppedGuest:
    """The attacker: its memory and queues, and its port in the place of a front-end."""

    def __init__(self, scene: SteppedScene, regions: Sequence[Region], features: int, queue_size: int) -> None:
        self.memory = WatchedMemory(regions, "attacker", blank=True)
        self.queues: list[Any] = [scene.format.queue(self.memory, queue_size, None) for _ in range(2)]
        self.calls = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(2)]
        self.errs = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(2)]
        self.features = features
        self._port = scene.port
        self._port.set_link(True)
        self._port.set_features(features)
        self._port.set_memory(mapped(self.memory))
        for index, queue in enumerate(self.queues):
            self.set_up_queue(index, queue, kick=-1, call=self.calls[index], err=self.errs[index])

    @property
    def frontend(self) -> SteppedGuest:
        return self

    def get_vring_base(self, index: int) -> int:
        return self._port.stop_queue(index)

    def set_up_queue(self, index: int, queue: Any, *, kick: int, call: int, err: int) -> None:  # noqa: ARG002
        self._port.start_queue(index, setup_of(self.memory, queue, call_fd=call))

    def hear(self) -> None:
        """As its control thread does it: what broke is said by the queue's err descriptor."""
        for what, index, _ in self._port.events():
            if what == "broken":
                os.eventfd_write(self.errs[index], 1)

    def close(self) -> None:
        self._port.set_memory(None)
        self.memory.close()
        for fd in (*self.calls, *self.errs):
            os.close(fd)


class SteppedScene:
    """One attacker after the other."""

    def __init__(self, ring: str) -> None:
        self.format = FORMATS[ring]
        self.max_wait = 0.0
        door = Door()
        self.port = VirtioPort("a", door)
        self.victim = self
        self._other = GuestPort(door, "b", Memory.of(MIB), 256, F_VERSION_1)
        self._other.connect()
        self.net = self._other.driver
        self.net.post(64)
        self.net.wait_sent = self._wait_sent  # type: ignore[method-assign]
        self._worker = Worker(door)
        for one, other in ((self.port, self._other.port), (self._other.port, self.port)):
            self._worker.add_wire(one, other, hold=True, hold_timeout_ms=60_000)
        self._guest: SteppedGuest | None = None
        self._drops: Counter[str] = Counter()

    def boot(self, *, regions: Sequence[Region], features: int, queue_size: int, blank: bool) -> SteppedGuest:
        assert blank
        self._guest = SteppedGuest(self, regions, features | self.format.features, queue_size)
        return self._guest

    def let_go(self) -> None:
        """Of the attacker, and of what it left on its way."""
        if self._guest:
            for index in range(2):
                self.port.stop_queue(index)
            self.let_rounds_pass()
            self._guest.close()
            self._guest = None
            self.net.receive_all()

    def tries(self, _pause: float) -> Iterator[None]:
        for _ in range(ROUNDS):
            self.let_rounds_pass(1)
            yield

    def let_rounds_pass(self, n: int = 5) -> None:
        for _ in range(n):
            self._worker.step()
        if self._guest:
            self._guest.hear()

    def _wait_sent(self, _timeout: float = 0.0) -> None:
        for _ in self.tries(0.0):
            self.net.reclaim()
            if not self.net._transmit_buffers:
                return
        raise Timeout(f"{len(self.net._transmit_buffers)} chains of the victim's are not returned")

    def forget_drops(self) -> None:
        self._drops = self._dropped()

    def new_drops(self) -> Counter[str]:
        return self._dropped() - self._drops

    def _dropped(self) -> Counter[str]:
        counted: Counter[str] = Counter()
        for port in (self.port, self._other.port):
            counters = port.counters()
            counted.update(counters.rx_dropped)
            counted.update(counters.tx_dropped)
        return counted

    def close(self) -> None:
        self.let_go()
        conservation.check(self._worker, self.port, self._other.port)
        self._worker.close()
        self.port.close()
        self._other.close()
