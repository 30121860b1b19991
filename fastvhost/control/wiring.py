"""Ports, the workers' wires between them, and their policies; and how these change while workers run.

One change at a time, and all of it at once or nothing. `changeover` says which ones, from a configuration to another.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastvhost.control import core_watch, enforcement, membership, open_files
from fastvhost.control.balance import Move
from fastvhost.control.config import FwdConfig
from fastvhost.control.errors import RuntimeFailure, UsageError
from fastvhost.control.parts import Parts
from fastvhost.control.policy import Policy
from fastvhost.control.port_spec import PortSpec
from fastvhost.control.port_unit import PortUnit
from fastvhost.control.watch import MEET_SECONDS, Judged, WatchThread
from fastvhost.control.worker_thread import WorkerThread

log = logging.getLogger("fastvhost")

CHANGE_SECONDS = 0.4
"""Seconds that a change under way has to end when the switch stops."""
END_SECONDS = 2.0
"""Seconds for the service of a port to stop that is removed while others go on."""
MOVE_MS = 50
"""For a worker to come to the door for a move, which may be tried again."""
WATCH_SECONDS = 0.2
"""Seconds for a watch over the workers to end, before another one takes its place."""


@dataclass(frozen=True, slots=True, eq=False)
class Way:
    """One direction: who sends, who gets it (None: nobody), its wire of the data plane, and who works on it."""

    ingress: PortUnit
    egress: PortUnit | None
    wire: Any
    threads: tuple[WorkerThread, ...]

    @property
    def names(self) -> tuple[str, str | None]:
        """Of the two ports."""
        return self.ingress.spec.name, self.egress.spec.name if self.egress else None


class Wiring:
    """The ports of a configuration, wired to each other or members of an Ethernet switch; neither opened nor served."""

    def __init__(self, config: FwdConfig, parts: Parts, door: Any, workers: Sequence[WorkerThread]) -> None:
        self.config = config
        self.parts = parts
        self.workers = workers
        self.started_at = time.monotonic()
        self._door = door
        self.ports: tuple[PortUnit, ...] = tuple(
            self.make_unit(number, spec) for number, spec in enumerate(config.ports)
        )
        """By number. Replaced as a whole where ports come and go."""
        self.bridge = parts.bridge([unit.port for unit in self.ports], config) if config.forward == "learn" else None
        self._watch: WatchThread | None = None
        self._ways: dict[str, Way] = {}
        self._lock = threading.Lock()
        self._ending = False
        self.unended: list[PortUnit] = []
        """Ports that were removed while a thread still used them."""
        self._wire_up()
        self._rewiring = parts.rewiring(door, [thread.worker for thread in workers])
        for unit in self.ports:
            self.enforce(unit.spec.policy)

    def make_unit(self, number: int, spec: PortSpec) -> PortUnit:
        """A port and its service, neither opened nor wired."""
        port = self.parts.port(spec, self._door)
        return PortUnit(number, spec, port, self.parts.service(spec, port, self.config.socket_group))

    def _wire_up(self) -> None:
        """Spread directions, and the queue pairs of each, over the workers in turn.

        Of two ports that are joined, two workers have a direction each; with several queue pairs, each has pairs of
        both directions.
        """
        by_name = {unit.spec.name: unit for unit in self.ports}
        ways: dict[str, Way] = {}
        for number, (ingress, egress) in enumerate(self.config.directions):
            unit, target = by_name[ingress], None if egress is None else by_name[egress]
            shares = min(len(self.workers), unit.spec.queues)
            threads = [self.workers[(number + share) % len(self.workers)] for share in range(shares)]
            way = Way(unit, target, self._wire(unit, target, shares), tuple(threads))
            for share, thread in enumerate(threads):
                thread.worker.share_wire(way.wire, share)
            ways[ingress] = way
        self._have_ways(ways)

    def enforce(self, policy: Policy) -> None:
        """Put the policy of one of the ports into effect. Raises UsageError where it cannot be."""
        ports = {unit.spec.name: unit.port for unit in self.ports}
        way = self._ways.get(policy.name)
        enforcement.put_into_effect(policy, ports, None if way is None else way.wire, self.bridge)

    def let_go(self, new: Mapping[str, PortSpec]) -> tuple[str, ...]:
        """What ports have by their policies, and not by those of the specs, others may have: before rewire().

        Returns the names of ports that had something.
        """
        policies = {name: spec.policy for name, spec in new.items()}
        had = [(unit.spec.policy, unit.port) for unit in self.ports]
        return tuple(
            old.name for old, port in had if enforcement.let_go(old, policies.get(old.name), port, self.bridge)
        )

    def set_policies(self, specs: Mapping[str, PortSpec], config: FwdConfig) -> None:
        """Have ports of these names do as these specs say, which differ from theirs in policies only.

        Raises UsageError where that cannot be, WorkerStuckError where a worker does not come to the door for other
        VLANs. Then nothing changed.
        """
        units = [unit for unit in self.ports if unit.spec.name in specs]
        changes = [(unit.spec.policy, specs[unit.spec.name].policy) for unit in units]
        ports = {unit.spec.name: unit.port for unit in self.ports}
        wires = {name: way.wire for name, way in self._ways.items()}
        try:
            enforcement.put_instead(changes, ports, wires, self.bridge)
            vlans = [
                (unit.number, new.vlans.untagged, new.vlans.tagged)
                for unit, (old, new) in zip(units, changes, strict=True)
                if old.vlans != new.vlans
            ]
            if vlans:
                self._rewiring.set_vlans(self.bridge, vlans)
        except BaseException:
            enforcement.put_instead([(new, old) for old, new in changes], ports, wires, self.bridge)
            raise
        for unit in units:
            unit.spec = specs[unit.spec.name]
        self.config = config

    @contextlib.contextmanager
    def refusing(self) -> Iterator[None]:
        """Raises UsageError or RuntimeFailure where parts cannot be made or started."""
        try:
            yield
        except self.parts.refusals as error:
            if open_files.ran_out(error):
                raise RuntimeFailure(f"{error}; {open_files.RAISE}") from error
            # A service tells whether another setting would help (its cause is "usage") or the system said no.
            refusal = UsageError if getattr(error, "cause", "") == "usage" else RuntimeFailure
            raise refusal(str(error)) from error
        except RuntimeError as error:
            raise RuntimeFailure(f"{error}; raise TasksMax= in the unit, or ulimit -u") from error

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """One change at a time, and none while it stops. Raises RuntimeFailure."""
        with self._lock:
            if self._ending:
                raise RuntimeFailure("fwd is stopping; nothing was changed")
            unended, self.unended = self.unended, []
            for unit in unended:
                self.end(unit)
            yield

    @contextlib.contextmanager
    def _between_changes(self) -> Iterator[bool]:
        """No change begins meanwhile. False: one is under way, or it is stopping. Does not wait."""
        mine = self._lock.acquire(blocking=False)
        try:
            yield mine and not self._ending
        finally:
            if mine:
                self._lock.release()

    def end_changes(self) -> None:
        """A change under way ends first, and there is no other one."""
        self._ending = True
        if self._lock.acquire(timeout=CHANGE_SECONDS):
            self._lock.release()

    def rewire(self, units: tuple[PortUnit, ...], config: FwdConfig) -> None:
        """Have these ports, wired like this, between two bursts of the workers. Services are left as they are.

        Raises WorkerStuckError where a worker does not come to the door; then nothing changed.
        """
        come = [unit for unit in units if unit not in self.ports]
        with membership.entered(self.bridge, come):
            wires_changed = self._rewire(units, config, come)
        if self.bridge is not None:
            self._mirror_anew(units, config, come)
        if wires_changed:
            self._watch_anew()

    def _mirror_anew(self, units: tuple[PortUnit, ...], config: FwdConfig, come: list[PortUnit]) -> None:
        """Where a port's mirror was made anew. Only that: what else its old policy has may have ended (let_go)."""
        made = {unit.spec.name: unit.port for unit in come}
        wanted = {spec.name: spec.policy.mirror for spec in config.ports}
        for unit in units:
            mirror = unit.spec.policy.mirror
            if unit not in come and mirror in made and wanted[unit.spec.name] == mirror:
                self.bridge.mirror(unit.port, made[mirror])  # type: ignore[union-attr]

    def _rewire(self, units: tuple[PortUnit, ...], config: FwdConfig, come: list[PortUnit]) -> bool:
        """Returns whether wires came or went."""
        by_name = {unit.spec.name: unit for unit in units}
        stay = {name: way for name, way in self._ways.items() if by_name.get(name) is way.ingress}
        ways: dict[str, Way] = {}
        join, lead = [], []
        for ingress, egress in config.directions:
            unit, target = by_name[ingress], None if egress is None else by_name[egress]
            way = stay.get(ingress)
            if way is None:
                others = [way.threads for way in {**stay, **ways}.values()]
                threads = self._least_wired(min(len(self.workers), unit.spec.queues), others)
                way = Way(unit, target, self._wire(unit, target, len(threads)), threads)
                join.append((way.wire, [thread.worker for thread in threads]))
            elif way.egress is not target:
                lead.append((way.wire, None if target is None else target.port))
                way = dataclasses.replace(way, egress=target)
            ways[ingress] = way
        leave = [way.wire for name, way in self._ways.items() if name not in ways or ways[name].wire is not way.wire]
        for unit in come:
            way = ways.get(unit.spec.name)
            ports = {name: one.port for name, one in by_name.items()}
            enforcement.put_into_effect(unit.spec.policy, ports, None if way is None else way.wire, self.bridge)
        self._rewiring.commit(leave=leave, join=join, lead=lead, seat=membership.seats(self.bridge, self.ports, units))
        self.ports, self.config = units, config
        self._have_ways(ways)
        return bool(leave or join)

    def loads(self) -> dict[tuple[str, int, int], float]:
        """Seconds that workers spent on each share of what a port sends: by port, share, and number of the worker.

        Nothing during a change.
        """
        with self._between_changes() as allowed:
            names = {way.wire: name for name, way in self._ways.items()}
            return {
                (names[wire], share, number): seconds
                for number, thread in enumerate(self.workers if allowed else ())
                for wire, share, seconds in thread.worker.loads
            }

    def waits(self) -> list[float]:
        """By worker, the seconds so far in which it was ready to run and had no core; 0 where nobody counts."""
        return [(core_watch.run_delay(thread.native_id or 0) or 0) / 1e9 for thread in self.workers]

    def hand_over(self, move: Move) -> bool:
        """Have another worker do what one did. False: not now; nothing has changed then."""
        with self._between_changes() as allowed:
            way = self._ways.get(move.port) if allowed else None
            # It may have gone, or come anew, since its load was looked at.
            if way is None or way.threads[move.share : move.share + 1] != (self.workers[move.worker],):
                return False
            threads = list(way.threads)
            threads[move.share] = self.workers[move.target]
            try:
                if not self._rewiring.move(way.wire, [thread.worker for thread in threads], wait_ms=MOVE_MS):
                    return False
            except RuntimeError as error:
                log.debug("port %s: stays with %s: %s", move.port, self.workers[move.worker].name, error)
                return False
            self._have_ways({**self._ways, move.port: dataclasses.replace(way, threads=tuple(threads))})
            self._watch_anew()
            return True

    def _have_ways(self, ways: dict[str, Way]) -> None:
        """Who sends to whom from now on, and what each worker's thread tells of that."""
        self._ways = ways
        for thread in self.workers:
            thread.wires = [way.names for way in ways.values() if thread in way.threads]

    def _wire(self, unit: PortUnit, target: PortUnit | None, shares: int) -> Any:
        return self.parts.wire(
            unit.port,
            None if target is None else target.port,
            hold=self.config.on_full == "hold",
            hold_timeout_ms=round(self.config.hold_timeout * 1000),
            shares=shares,
            bridge=self.bridge,
        )

    def _least_wired(self, n: int, others: list[tuple[WorkerThread, ...]]) -> tuple[WorkerThread, ...]:
        """As many workers, from the one with fewest wires on. others: who works on each of the other wires."""
        busy = Counter(thread for threads in others for thread in threads)
        first = min(range(len(self.workers)), key=lambda number: busy[self.workers[number]])
        return tuple(self.workers[(first + share) % len(self.workers)] for share in range(n))

    def end(self, unit: PortUnit) -> None:
        """End a port that has no wires any more: its service, what workers know of it, its memory.

        Where a thread still uses it, the log says so, and the next change tries again.
        """
        unit.withdraw()
        if not unit.stopped(END_SECONDS):
            self.unended.append(unit)
            return
        try:
            self._rewiring.dismiss(unit.port, bridge=membership.of(self.bridge, unit.port))
        except RuntimeError as error:
            log.warning("port %s: its memory stays mapped until the next change: %s", unit.spec.name, error)
            self.unended.append(unit)
        else:
            if getattr(unit.service, "unsettled", False):
                unit.stopped(0)  # no worker knows of it any more: files of its front-end are closed now
            unit.port.close()

    def watch(self) -> None:
        """Watch over the workers, which run or are about to."""
        if self.parts.watch is not None:
            services: list[tuple[str, object]] = [(unit.spec.name, unit.service) for unit in self.ports]
            judged = {name: service for name, service in services if isinstance(service, Judged)}
            watch = self.parts.watch([thread.worker for thread in self.workers])
            watch.meet(MEET_SECONDS)  # workers that start later are found later
            self._watch = WatchThread(watch, judged)
            self._watch.start()

    def unwatch(self) -> None:
        """Does not wait: it may be held as long as a worker, and touches nothing of ours."""
        if self._watch is not None:
            self._watch.stop()

    def _watch_anew(self) -> None:
        """Other wires are there: the watch over the workers gives way to another one, with other wires."""
        if self._watch is not None:
            self._watch.stop()
            self._watch.join(WATCH_SECONDS)  # where it is blocked, it ends later, and keeps what it looks at until then
            self._watch = None
            try:
                self.watch()
            except (OSError, RuntimeError) as error:
                log.warning("nobody watches whether guests' memory keeps workers waiting: %s", error)

    def port_name(self, number: int) -> str:
        """Of the port with this number; the number where there is none."""
        return next((unit.spec.name for unit in self.ports if unit.number == number), str(number))
