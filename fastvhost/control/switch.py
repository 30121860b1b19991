"""The composition root: ports, their services, workers and wires, put together, started and stopped in order.

Starting: AIO contexts are made, sockets listen, workers poll, then services answer; a guest that is early waits in the
socket's queue. Stopping: paths are removed first, so that another fwd can serve on them whatever is stuck here. Then
workers finish their burst, services publish used entries and close connections, and only then memory is unmapped.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Self

from fastvhost.control import changeover, config, edits, host, open_files, preflight
from fastvhost.control.balance import Balance
from fastvhost.control.errors import UsageError
from fastvhost.control.events import Event, Observer
from fastvhost.control.host import CorePlan
from fastvhost.control.mac_upkeep import MacUpkeep, learning
from fastvhost.control.parts import Parts, real_parts
from fastvhost.control.port_unit import PortUnit
from fastvhost.control.stats import Snapshot, snapshot
from fastvhost.control.wiring import Wiring
from fastvhost.control.worker_thread import WorkerThread
from fastvhost.dataplane.threads import Thread

if TYPE_CHECKING:
    from fastvhost.control.config import FwdConfig
    from fastvhost.dataplane.forwarding_table import ForwardingTable

log = logging.getLogger("fastvhost")
RINGS_AT_ONCE = 1024
"""The rings in one answer to `show` that is asked for part by part: 400 KB."""
RINGS_OF_A_PORT = 2
"""What else is told of a port is as long as two rings."""
STOP_SECONDS = 1.5
"""Seconds for all workers and services together to stop. Two seconds are promised from a signal to the exit of fwd: the
rest is for the last figures and for Python to end."""
SERVICES_SECONDS = 0.4
"""Of these seconds, those that services have together where a worker does not end."""
TICK_SECONDS = 0.5
"""Seconds between two looks at the clock of the forwarding table."""
_OPTIONS = {key.replace("-", "_") for key in config.OPTIONS} - {"port"}
EVENT_SECONDS = 0.05
"""Seconds between two looks for events."""


class Switch:
    """An Ethernet switch, or wires, between ports of any kind, forwarded by threads of this program.

    ports: what `fwd --port` takes, such as "a.sock", "tap:tap0" or "vhost-user:b.sock,vlan=10"; two at least.
    options: those of `fastvhost fwd` under their long names, with _ for -, such as forward="learn", wire=["a:b"],
    cores="2-3", mac_age="60s". The same defaults: two ports are a wire, three or more a switch.

    It runs inside the `with` block, or from start() to stop(). Every method may be called from any thread.
    Raises UsageError for what makes no sense and RuntimeFailure for what the system refuses; both say in one line what
    is wrong and what helps.
    """

    _clock: Thread | None
    """Who calls tick(); None: the owner does."""

    def __init__(self, *ports: str, **options: Any) -> None:
        given = {key.replace("_", "-"): value for key, value in options.items()}
        for key in given:
            if key.replace("-", "_") not in _OPTIONS:
                raise UsageError(f"Switch: there is no option '{key}'; the options are {', '.join(sorted(_OPTIONS))}")
        self._make(config.build({"port": list(ports), **given}), None, None)
        self._clock = Thread(target=self._tick, name="table-clock", daemon=True)

    @classmethod
    def of(cls, settings: FwdConfig, plan: CorePlan | None = None, parts: Parts | None = None) -> Switch:
        """The switch of a configuration, for a program that calls tick() itself, as `fastvhost fwd` does.

        plan: which threads run on which cores, where that and the host were looked at before.
        """
        made = cls.__new__(cls)
        made._make(settings, plan, parts)
        return made

    def _make(self, settings: FwdConfig, plan: CorePlan | None, parts: Parts | None) -> None:
        self._notes = list[tuple[int, str]]()
        self.plan = plan or self._look_around(settings)
        """Which threads run on which cores."""
        parts = parts or real_parts()
        door = parts.door()
        self._workers = tuple(
            WorkerThread(f"worker{number}", parts.worker(door, f"worker{number}", settings), core, self.plan.allowed)
            for number, core in enumerate(self.plan.worker_cores)
        )
        self.wiring = Wiring(settings, parts, door, self._workers)
        """What it consists of: for this package, not for programs."""
        bridge = self.wiring.bridge
        self._upkeep = MacUpkeep(bridge.table, self.wiring.port_name) if bridge else None
        self._observer = Observer(self.wiring)
        self._balance = Balance(self.wiring.loads, self.wiring.waits, self.wiring.hand_over)
        self._ended = threading.Event()
        self._clock = None

    def _look_around(self, settings: FwdConfig) -> CorePlan:
        """Check that this host has what it needs, and choose cores. Raises UsageError, RuntimeFailure."""
        preflight.check(settings)
        warnings = list(open_files.check(settings, open_files.raise_limit()))
        seen = host.observe()
        plan = host.plan_cores(settings.cores, seen, settings.most_workers)
        if not seen.busy:
            self._notes.append((logging.INFO, "how busy the cores are is not known here; fastvhost doctor says why"))
        warnings += [*plan.warnings, *settings.without_wires, *settings.same_macs]
        self._notes += [(logging.WARNING, warning) for warning in warnings]
        return plan

    def start(self) -> None:
        """Open the ports and start the workers. On failure everything that was started is stopped again."""
        for level, note in self._notes:
            log.log(level, "%s", note)
        # Before a front-end can connect: it could use up the AIO contexts of this host.
        if trouble := next(filter(None, [thread.worker.prepare() for thread in self._workers]), ""):
            log.warning("guests are notified by threads of their ports, which is slower: %s", trouble)
        units = self.wiring.ports
        try:
            with self.wiring.refusing():
                for unit in units:
                    if unit.service:
                        unit.service.open()
                self.tick()  # what is learned at once was learned now, and not at second 0
                for thread in self._workers:
                    thread.start()
                self.wiring.watch()
                for unit in units:
                    if unit.service:
                        unit.service.start()
        except BaseException:
            self.halt()
            raise
        if self._clock:
            self._clock.start()

    def stop(self) -> None:
        """Close the ports, and end all threads within two seconds. What guests sent before is delivered. Idempotent."""
        if not self._ended.is_set() and self.halt():
            self.close()

    def halt(self, timeout: float = STOP_SECONDS) -> bool:
        """The same, but counters can still be read until close(). False where a thread does not end; then never close.

        Remove paths, publish used entries, close connections.
        """
        deadline = time.monotonic() + timeout
        self._ended.set()
        self.wiring.end_changes()
        for unit in self.wiring.ports:
            unit.withdraw()
        self.wiring.unwatch()
        for thread in self._workers:
            thread.stop()
        in_time = True
        for thread in self._workers:
            if thread.ident is not None:
                thread.join(max(0.0, deadline - SERVICES_SECONDS - time.monotonic()))
                in_time &= not thread.is_alive()
        # All are asked to stop before one is waited for, so that a stuck port takes no time from the others.
        asked = [unit for unit in self.wiring.ports if not unit.stopped(0.0)]
        deadline = max(deadline, time.monotonic() + SERVICES_SECONDS)
        for unit in asked:
            in_time &= unit.stopped(max(0.001, deadline - time.monotonic()))
        return in_time

    def close(self) -> None:
        """Unmap what guests shared. After halt() returned True, and after counters were read for the last time."""
        for unit in (*self.wiring.ports, *self.wiring.unended):
            unit.port.close()

    @property
    def left_behind(self) -> bool:
        """Whether, after halt(), a thread still waits for a file and uses nothing else."""
        return any(getattr(unit.service, "left_behind", False) for unit in self.wiring.ports)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _tick(self) -> None:
        while not self._ended.wait(TICK_SECONDS):
            try:
                self.tick()
            except Exception as error:
                log.exception("the forwarding table: internal error %r; please report it", error)

    def tick(self, now: float | None = None) -> None:
        """What the forwarding table and the workers' shares need once a second. For who made it by of(). Call it often.

        now: time.monotonic(), where that is known already.
        """
        now = time.monotonic() if now is None else now
        if self._upkeep:
            self._upkeep.look(now)
        if len(self._workers) > 1 and (moved := self._balance.look(now)):
            log.info("%s", moved.sentence([thread.name for thread in self._workers]))

    def change(self, edit: changeover.Edit) -> tuple[str, ...]:
        """Have its ports and wires as the edited configuration says. Returns a line about each change."""
        return changeover.change(self.wiring, edit)

    @property
    def ports(self) -> tuple[str, ...]:
        """The names of the ports, by number."""
        return tuple(unit.spec.name for unit in self.wiring.ports)

    @property
    def wires(self) -> tuple[tuple[str, str], ...]:
        """Pairs of ports that are joined. None in an Ethernet switch."""
        return self.wiring.config.wires

    @property
    def table(self) -> ForwardingTable | None:
        """The forwarding table, by numbers of ports; None where frames go along wires."""
        bridge = self.wiring.bridge
        return None if bridge is None else bridge.table

    def add_port(self, spec: str) -> None:
        """Add a port while the others go on. spec: what `fwd --port` takes."""
        self.change(lambda now: edits.add_port(now, spec))

    def remove_port(self, name: str) -> None:
        """Remove a port, and its wire, while the others go on."""
        self.change(lambda now: edits.remove_port(now, name))

    def set_port(self, name: str, keys: str) -> None:
        """Change what is done with a port's frames, while it goes on. keys: "rate=1Gbit,storm=off"; "rate=" ends it."""
        self.change(lambda now: edits.set_port(now, name, keys))

    def add_wire(self, left: str, right: str) -> None:
        """Join two ports that have no wire."""
        self.change(lambda now: edits.add_wire(now, f"{left}:{right}"))

    def remove_wire(self, left: str, right: str) -> None:
        """Part two ports: the frames of both drop as no_egress from then on."""
        self.change(lambda now: edits.remove_wire(now, f"{left}:{right}"))

    def counters(self) -> Snapshot:
        """Counters of all ports and workers, as `fastvhost stats --json` prints them, without rates."""
        return snapshot(self.wiring)

    def describe(self, port: str | None = None) -> list[dict[str, Any]]:
        """All ports, or the one of this name, as `fastvhost show --json` prints them. KeyError: there is none."""
        units = [unit for unit in self.wiring.ports if port in (None, unit.spec.name)]
        if not units:
            raise KeyError(port)
        return [_described(unit, self.wiring) for unit in units]

    def describe_from(self, number: int, rings: int = RINGS_AT_ONCE) -> tuple[list[dict[str, Any]], int | None]:
        """As describe(): ports from a number on, until they have so many rings; and the number to go on with, or None.

        With 128 queue pairs a port is 100 KB, and there may be a thousand.
        """
        units = sorted((unit for unit in self.wiring.ports if unit.number >= number), key=lambda unit: unit.number)
        told: list[dict[str, Any]] = []
        for unit in units:
            if rings <= 0:
                return told, unit.number
            told.append(_described(unit, self.wiring))
            rings -= RINGS_OF_A_PORT + len(told[-1].get("rings", ()))
        return told, None

    @property
    def failure(self) -> str:
        """Why it cannot go on, or empty."""
        return next((thread.failure for thread in self._workers if thread.failure), "")

    def look(self) -> list[Event]:
        """What happened since the last call of look() or the last event of events(). For one reader."""
        return self._observer.look()

    async def events(self) -> AsyncIterator[Event]:
        """What happens at the ports and in the table, 50 ms later at the most (a second for addresses), until stop().

        For one reader, in any event loop. It looks, rather than being called: a slow reader misses what came and went
        meanwhile, and delays nobody.
        """
        while not self._ended.is_set():
            for event in self.look():
                yield event
            await asyncio.sleep(EVENT_SECONDS)


def _described(unit: PortUnit, wiring: Wiring) -> dict[str, Any]:
    spec = unit.spec
    peers = {a: b for left, right in wiring.config.wires for a, b in ((left, right), (right, left))}
    about: dict[str, Any] = {
        "name": spec.name,
        "number": unit.number,
        "kind": spec.kind.name,
        "link": "up" if unit.port.link_up else "down",
        "wired_to": peers.get(spec.name),
    }
    about |= spec.kind.describe(spec)
    about |= {key.replace("-", "_"): value for key, value in spec.policy.keys[1:]}
    if wiring.bridge:
        about["learning"] = learning(wiring.bridge, unit.number)
    if unit.service:
        about |= {key: value for key, value in unit.service.describe().items() if key not in about}
    return about
