"""An arena without processes and threads: the attacked pair's ports, and a worker that is stepped by hand.

What an attack asks of a scene, at the ports themselves: no front-end, no socket, no thread. The worker goes round
whenever a driver looks for an answer, so the same attack does the same every time, and hundreds of them take a second.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from bench import conservation
from fastvhost.dataplane.door import Door
from fastvhost.dataplane.virtio_port import VirtioPort
from fastvhost.dataplane.worker import Worker
from tests.driver import Memory, Region, SplitQueue
from tests.frontend import FEATURES, Guest, wait_eventfd
from tests.hostile.arena import check_bystander
from tests.hostile.invariant import Broken
from tests.hostile.rings import FORMATS
from tests.hostile.scene import Scene
from tests.hostile.watch import WatchedMemory
from tests.unit.rig import mapped, setup_of

MAX_WAIT = 5.0
"""Seconds, of which nothing that goes well takes any."""
HOLD_TIMEOUT_MS = 20
"""Frames that find no buffer wait for this long, as for 100 ms in fwd."""
BYSTANDER_BYTES = 1 << 20
ROUNDS = 50
"""Rounds of the worker, after which nothing more is expected."""


class SteppedMemory(WatchedMemory):
    """Whoever looks whether a word of it has changed lets the worker go round first."""

    def __init__(self, step: Callable[[], object], regions: Sequence[Region], name: str, *, blank: bool) -> None:
        super().__init__(regions, name, blank=blank)
        self._step = step

    def load_u16(self, guest_addr: int) -> int:
        self._step()
        return super().load_u16(guest_addr)


class SteppedFrontend:
    """One connection: what a front-end and its session ask of a port, asked of it without messages."""

    reply_ack = False
    features = 0

    def __init__(self, port: VirtioPort) -> None:
        self._port = port
        self._errs = [-1, -1]
        self._queues: set[int] = set()
        self._connected = False

    def handshake(
        self,
        memory: Memory,
        queues: Sequence[SplitQueue],
        *,
        features: int,
        protocol_features: int,  # noqa: ARG002
        fds: Sequence[tuple[int, int, int]],
    ) -> None:
        self._memory, self.features = memory, features
        self._connected = True
        self._port.set_link(True)
        self._port.set_features(features)
        self._port.set_memory(mapped(memory))
        for index, (queue, (_, call, err)) in enumerate(zip(queues, fds, strict=True)):
            self.set_up_queue(index, queue, call=call, err=err)

    def get_vring_base(self, index: int) -> int:
        self._queues.discard(index)
        return self._port.stop_queue(index)

    def set_up_queue(self, index: int, queue: Any, *, kick: int = -1, call: int, err: int) -> None:  # noqa: ARG002
        self._errs[index] = err
        self._queues.add(index)
        self._port.start_queue(index, setup_of(self._memory, queue, call_fd=call))

    def hear(self) -> None:
        """Signal the err descriptors of broken queues, as a control thread does."""
        for what, index, _ in self._port.events():
            if what == "broken":
                os.eventfd_write(self._errs[index], 1)

    def close(self) -> None:
        if self._connected:
            self._connected = False
            for index in sorted(self._queues):
                self._port.stop_queue(index)
            self._port.set_link(False)
            self._port.set_memory(None)


class SteppedArena:
    """Port a, which is attacked, and a guest behind port b."""

    holds = True
    """Frames wait for room."""

    def __init__(self, beside: str) -> None:
        """`beside`: the ring format of the guest behind port b."""
        self.max_wait = MAX_WAIT
        self._rounds = 0
        own, memory = FORMATS[beside], self.memory([Region(0x10000, BYSTANDER_BYTES, name="bystander")], "b")
        queues: list[Any] = [own.queue(memory, 256) for _ in range(2)]
        self.victim = Guest(self.connect("b"), memory, *queues, features=FEATURES | own.features, polled=True)
        self.victim.net.post(64)

    def memory(self, regions: Sequence[Region], name: str, *, blank: bool = False) -> SteppedMemory:
        return SteppedMemory(self.step, regions, name, blank=blank)

    def connect(self, port: str) -> Any:
        """What is a front-end to its guest."""
        raise NotImplementedError

    def go_round(self) -> None:
        """Once."""
        raise NotImplementedError

    def step(self) -> None:
        self._rounds += 1
        self.go_round()

    def rounds(self) -> int:
        """They have all been made when they are asked for."""
        for _ in range(3):
            self.step()
        return self._rounds

    def why(self, port: str, index: int) -> str | None:
        """The status of a ring, in words, where the back-end tells."""
        raise NotImplementedError

    def drops(self) -> Counter[str]:
        """Drop reasons of both ports, both sides added up."""
        raise NotImplementedError

    def check(self) -> None:
        """When the attacker is gone: what its peer has of it, and that all frames add up."""
        self.rounds()
        check_bystander(self.victim, self.max_wait)
        self.check_frames()

    def check_frames(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self.victim.close()


class PortArena(SteppedArena):
    """Two ports of fastvhost, wired to each other."""

    names = "ab"

    def __init__(self, beside: str = "split", *, hold_timeout_ms: int = HOLD_TIMEOUT_MS) -> None:
        door = Door()
        self.ports = {name: VirtioPort(name, door) for name in self.names}
        self.worker = Worker(door)
        self.join(hold_timeout_ms)
        self._connected: list[SteppedFrontend] = []
        super().__init__(beside)

    def join(self, hold_timeout_ms: int) -> None:
        """Wire the ports."""
        for one, other in ("ab", "ba"):
            ends = self.ports[one], self.ports[other]
            self.worker.add_wire(*ends, hold=True, hold_timeout_ms=hold_timeout_ms)

    def connect(self, port: str) -> Any:
        self._connected.append(SteppedFrontend(self.ports[port]))
        return self._connected[-1]

    def go_round(self) -> None:
        self.worker.step()
        for frontend in self._connected[: len(self.names) - 1] + self._connected[-1:]:  # of others, and of port a now
            frontend.hear()

    def why(self, port: str, index: int) -> str:
        return self.ports[port].queue_state(index).broken

    def drops(self) -> Counter[str]:
        counted: Counter[str] = Counter()
        for name in "ab":
            counters = self.ports[name].counters()
            counted.update(counters.rx_dropped)
            counted.update(counters.tx_dropped)
        return counted

    def check_frames(self) -> None:
        conservation.check(self.worker, *self.ports.values())

    def close(self) -> None:
        self.worker.close()
        for port in self.ports.values():
            port.close()
        super().close()


class SteppedScene(Scene):
    """A scene in which nothing takes time."""

    def __init__(self, arena: SteppedArena, ring: str) -> None:
        super().__init__(arena, ring)  # type: ignore[arg-type]
        self.stepped = arena

    def connect(self, port: str = "a") -> Any:
        self.disconnect()
        self.connections += 1
        frontend: Any = self.stepped.connect(port)
        self._frontends.append(frontend)
        return frontend

    def memory(self, regions: Sequence[Region], *, blank: bool) -> WatchedMemory:
        return self.stepped.memory(regions, "attacker", blank=blank)

    def hears(self, err: int) -> None:
        self.stepped.rounds()
        wait_eventfd(err, 0.0)

    def pause(self, seconds: float) -> None:  # noqa: ARG002
        self.let_rounds_pass()

    def tries(self, pause: float) -> Iterator[None]:  # noqa: ARG002
        for _ in range(ROUNDS):
            self.stepped.step()
            yield


def run(act: Callable[[Scene], object], ring: str) -> None:
    """One attack on ports of fastvhost, where everyone has rings of this format. Raises Broken."""
    run_on(PortArena(ring), act, ring)


def run_on(arena: SteppedArena, act: Callable[[Scene], object], ring: str) -> None:
    """One attack on this arena, which is closed. Raises Broken."""
    try:
        scene = SteppedScene(arena, ring)
        try:
            act(scene)
            scene.disconnect()
            arena.rounds()
            scene.verify_memory()
        finally:
            scene.close()
        arena.check()
    finally:
        arena.close()


def check_unmapped() -> None:
    """I5: nothing of any attacker's memory is mapped any more."""
    with open("/proc/self/maps") as maps:  # noqa: PTH123
        if "/memfd:attacker" in maps.read():
            raise Broken("I5", "memory of an attacker's is still mapped")
