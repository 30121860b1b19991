"""Parts for a switch without data plane and protocol, which record the calls of them in order."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from fastvhost.control.parts import Parts
from fastvhost.control.port_spec import PortSpec
from fastvhost.dataplane.forwarding_table import ForwardingTable

REASONS = ("no_receive_buffers", "link_down")


@dataclass
class FakePort:
    name: str
    log: list[str]
    link_up: bool = False
    figures: dict[str, Any] = field(default_factory=dict)

    def counters(self) -> SimpleNamespace:
        zero = {"rx_frames": 0, "rx_bytes": 0, "tx_frames": 0, "tx_bytes": 0, "calls": 0}
        zero |= {"cut": 0, "segmented": 0, "copies": 0}
        return SimpleNamespace(**{**zero, "rx_dropped": {}, "tx_dropped": {}, **self.figures})

    def totals(self) -> tuple[int, int, int, int, int, int]:
        now = self.counters()
        frames = now.rx_frames, now.rx_bytes, now.tx_frames, now.tx_bytes
        return (*frames, sum(now.rx_dropped.values()), sum(now.tx_dropped.values()))

    def rings(self) -> list[Any]:
        return self.figures.get("rings", [])

    def close(self) -> None:
        self.log.append(f"close {self.name}")


class FakeWire(tuple[str, str | None, bool, int]):
    """Ingress, egress, whether to hold, and for how many milliseconds."""

    shares = 1

    def set_limit(self, **limit: float) -> None:
        self.limit = limit


class FakeBridge(str):
    """The names of its ports. Policies are recorded."""

    __slots__ = ("policies", "ports", "table")

    def __new__(cls, ports: Sequence[FakePort]) -> FakeBridge:
        made = super().__new__(cls, "+".join(port.name for port in ports))
        made.ports, made.policies = list(ports), []
        made.table = ForwardingTable(addresses=1024, ports=16)
        return made

    def enter(self, number: int, port: FakePort) -> None:
        if number >= 16:
            raise ValueError(f"port {port.name}: no room")
        self.ports += [None] * (number + 1 - len(self.ports))
        self.ports[number] = port

    def leave(self, port: FakePort) -> None:
        self.ports[self.ports.index(port)] = None

    def forget(self, port: FakePort) -> None:
        self.policies.append((port.name, "forget"))

    def guard(self, port: FakePort, addresses: Sequence[str]) -> None:
        if "00:00:00:00:00:01" in addresses:
            raise ValueError("no place")
        self.policies.append((port.name, "guard", *addresses))

    def let_go(self, port: FakePort, addresses: Iterable[str]) -> None:
        if addresses := sorted(addresses):
            self.policies.append((port.name, "let go", *addresses))

    def limit_macs(self, port: FakePort, most: int) -> None:
        self.policies.append((port.name, "macs", most))

    def isolate(self, port: FakePort, group: str) -> None:
        self.policies.append((port.name, "isolate", group))

    def limit_floods(self, port: FakePort, frames: int, *, multicast: bool) -> None:
        self.policies.append((port.name, "floods", frames, multicast))

    def mirror(self, port: FakePort, mirror: FakePort | None) -> None:
        self.policies.append((port.name, "mirror", mirror and mirror.name))


class FakeWorker:
    """Runs until stopped; `mood` is "well", "raises", "ends" or "stuck"."""

    def __init__(self, name: str, log: list[str], mood: str = "well") -> None:
        self.name, self.log, self.mood = name, log, mood
        self.wires: list[FakeWire] = []
        self.shares: list[tuple[int, int]] = []
        """Share of each wire, and of how many."""
        self.rounds = self.busy_rounds = self.sleeps = self.waiting = 0
        self.busy_seconds = 0.0
        self.spent: dict[str, float] = {}
        """Seconds on what each port sends."""
        self.released = threading.Event()

    def share_wire(self, wire: FakeWire, share: int) -> None:
        self.wires.append(wire)
        self.shares.append((share, wire.shares))

    @property
    def loads(self) -> list[tuple[FakeWire, int, float]]:
        shares = zip(self.wires, self.shares, strict=True)
        return [(wire, share, self.spent.get(wire[0], 0.0)) for wire, (share, _) in shares]

    def prepare(self) -> str:
        self.log.append(f"prepare {self.name}")
        return "no room" if self.mood == "unprepared" else ""

    def run(self) -> None:
        self.log.append(f"run {self.name}")
        if self.mood == "raises":
            raise ValueError("out of rounds")
        if self.mood != "ends":
            self.released.wait(60)

    def stop(self) -> None:
        self.log.append(f"stop {self.name}")
        if self.mood != "stuck":
            self.released.set()


class FakeRewiring:
    """Notes what is changed; `refuses`: what commit() raises."""

    def __init__(self, log: list[str]) -> None:
        self.log = log
        self.refuses: Exception | None = None
        self.moves = True

    def commit(self, *, leave: Any, join: Any, lead: Any, seat: Any) -> None:
        if self.refuses:
            raise self.refuses
        for wire in leave:
            self.log.append(f"leave {wire[0]}")
        for wire, workers in join:
            self.log.append(f"join {wire[0]}:{wire[1]} {' '.join(worker.name for worker in workers)}")
        for wire, egress in lead:
            self.log.append(f"lead {wire[0]}:{egress.name if egress else None}")
        for _bridge, number, port in seat:
            self.log.append(f"seat {number}:{port.name if port else None}")

    def move(self, wire: FakeWire, workers: Sequence[FakeWorker], *, wait_ms: int) -> bool:
        if self.refuses:
            raise self.refuses
        self.log.append(f"move {wire[0]} {' '.join(worker.name for worker in workers)} within {wait_ms} ms")
        return self.moves

    def set_vlans(self, _bridge: FakeBridge, changes: Sequence[tuple[int, int | None, Sequence[int] | None]]) -> None:
        if self.refuses:
            raise self.refuses
        for number, native, tagged in changes:
            self.log.append(f"vlans {number}: {native} {None if tagged is None else len(tagged)}")

    def dismiss(self, port: FakePort, *, bridge: FakeBridge | None) -> None:
        self.log.append(f"dismiss {port.name}")
        if bridge is not None:
            bridge.leave(port)


class FakeService:
    """`mood` "late": it ends only after stop()'s timeout."""

    def __init__(
        self, name: str, log: list[str], refuses: str = "", mood: str = "well", waits: list[float] | None = None
    ) -> None:
        self.name, self.log, self.refuses, self.mood = name, log, refuses, mood
        self.waits = [] if waits is None else waits
        self.unsettled = False

    def open(self) -> None:
        if self.refuses:
            raise OSError(self.refuses)
        self.log.append(f"open {self.name}")

    def start(self) -> None:
        self.log.append(f"start {self.name}")

    def withdraw(self) -> None:
        self.log.append(f"withdraw {self.name}")

    def stop(self, timeout: float) -> None:
        self.log.append(f"stop {self.name}")
        if self.mood == "late":
            self.waits.append(timeout)
            time.sleep(min(timeout, 2.0))
            raise TimeoutError("it did not end")

    def describe(self) -> dict[str, Any]:
        return {"peer": None}


@dataclass
class Fakes:
    log: list[str] = field(default_factory=list)
    workers: list[FakeWorker] = field(default_factory=list)
    ports: dict[str, FakePort] = field(default_factory=dict)
    services: dict[str, FakeService] = field(default_factory=dict)
    moods: dict[str, str] = field(default_factory=dict)
    refuses: dict[str, str] = field(default_factory=dict)
    waits: list[float] = field(default_factory=list)
    """The timeouts, in seconds, with which late services were stopped."""

    rewirings: list[FakeRewiring] = field(default_factory=list)

    def parts(self) -> Parts:
        return Parts(
            object,
            self._worker,
            self._port,
            self._service,
            REASONS,
            (OSError, ValueError),
            self._bridge,
            self._wire,
            self._rewiring,
        )

    @staticmethod
    def _wire(
        ingress: FakePort, egress: FakePort | None, *, hold: bool, hold_timeout_ms: int, shares: int, bridge: Any
    ) -> FakeWire:
        wire = FakeWire((ingress.name, egress.name if egress else bridge, hold, hold_timeout_ms))
        wire.shares = shares
        return wire

    def _rewiring(self, _door: object, _workers: object) -> FakeRewiring:
        self.rewirings.append(FakeRewiring(self.log))
        return self.rewirings[-1]

    def _worker(self, _door: object, name: str, _settings: object) -> FakeWorker:
        self.workers.append(FakeWorker(name, self.log, self.moods.get(name, "well")))
        return self.workers[-1]

    @staticmethod
    def _bridge(ports: Sequence[FakePort], _settings: object) -> FakeBridge:
        return FakeBridge(ports)

    def _port(self, spec: PortSpec, _door: object) -> FakePort:
        self.ports[spec.name] = FakePort(spec.name, self.log)
        return self.ports[spec.name]

    def _service(self, spec: PortSpec, _port: object, _group: str | None) -> FakeService | None:
        if spec.kind.never_sends:
            return None
        self.services[spec.name] = FakeService(
            spec.name, self.log, self.refuses.get(spec.name, ""), self.moods.get(spec.name, "well"), self.waits
        )
        return self.services[spec.name]
